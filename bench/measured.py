"""What every benchmark's table says: what was run, when, where and with which versions."""

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from workbench.launch import versions


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def machine() -> str:
    """Processor, cores and GPU."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return f"{_processor()}, {os.cpu_count()} cores{gpu}"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in path.read_text().splitlines() if line.startswith("model name")] \
        if path.exists() else []  # fmt: skip
    return names[0] if names else platform.processor() or platform.machine()


def write_result(title: str, about: str, body: str, output: str | None) -> None:
    """Print the result; write it as markdown where `output` is given."""
    words = (Path(word).name if Path(word).is_absolute() else word for word in sys.argv)
    command = " ".join(["python", *map(shlex.quote, words)])
    found = versions()
    facts = [
        f"- command: `{command}`",
        f"- date: {datetime.now(UTC):%Y-%m-%d}",
        f"- machine: {machine()}",
        "- versions: "
        + ", ".join(f"{name} {found[name]}" for name in ("python", "torch", "diffusers") if name in found),
    ]
    first = about.strip().split("\n")[0]
    text = f"# {title}\n\n{first}\n\n" + "\n".join(facts) + f"\n\n{body}\n"
    print(text)
    if output:
        Path(output).write_text(text)
