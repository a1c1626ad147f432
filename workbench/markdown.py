"""Pieces of the cards that go with trained models."""

from collections.abc import Mapping
from typing import Any

import yaml


def code_block(text: str, language: str = "yaml") -> str:
    """A fenced block."""
    return f"```{language}\n{text}\n```"


def yaml_block(values: Mapping[str, Any]) -> str:
    """A fenced block of names and values, in their order."""
    return code_block(yaml.safe_dump(dict(values), sort_keys=False).strip())


def training_section(record: Mapping[str, Any]) -> str:
    """The `command`, `settings` and `versions` of a run, and its last `figures` where they are told."""
    parts = [
        "## Training\n\n" + code_block(record["command"], "sh"),
        "All settings:\n\n" + yaml_block(record["settings"]),
        "Last figures of the run:\n\n" + yaml_block(record["figures"]) if "figures" in record else "",
        "Versions:\n\n" + yaml_block(record["versions"]),
    ]
    return "\n\n".join(part for part in parts if part)
