"""The card of a trained captioner: what it learned from, how well it does, and what not to use it for."""

from pathlib import Path

import yaml

from explain.caption_data import Captioned
from explain.captioner import Caption, Captioner
from workbench.files import write_atomic

LIMITS = """\
It knows the words and the kind of pictures that it learned from, and no others: of a photograph of anything else its
caption means nothing, however fluent. It was not told what any classifier sees. `workbench explain --method vale` shows
its captions with its name, withholds those it is unsure of, and takes no figure and no cause from it."""

USE = "workbench explain IMAGE --classifier CLASSIFIER --method vale --describer THIS_FOLDER --output DIR"


def write_card(folder: Path, captioner: Captioner, captions: list[Caption], truth: Captioned) -> None:
    """Write README.md beside the weights, with a few held-out captions as they are."""
    record = captioner.record
    rows = [f"| {' '.join(true)} | {said.text} |" for said, true in zip(captions, truth.words, strict=False)]
    height, width = captioner.size
    parts = [
        "# A small captioner",
        f"Learned from {record['pictures']:,} pictures of `{record['data']}` at {height}x{width} pixels, in "
        f"{record['trained_steps']:,} steps. Opens with transformers' `VisionEncoderDecoderModel.from_pretrained`.",
        _code(USE, "sh"),
        "## Held-out pictures\n\n" + _code(yaml.safe_dump(record["held_out"], sort_keys=False).strip()),
        "The first of them:\n\n| true | caption |\n| --- | --- |\n" + "\n".join(rows),
        "## Limits\n\n" + LIMITS,
        "## Training\n\n" + _code(record["command"], "sh"),
        "All settings:\n\n" + _code(yaml.safe_dump(dict(record["settings"]), sort_keys=False).strip()),
        "Versions:\n\n" + _code(yaml.safe_dump(dict(record["versions"]), sort_keys=False).strip()),
    ]
    write_atomic(folder / "README.md", "\n\n".join(parts) + "\n")


def _code(text: str, language: str = "yaml") -> str:
    return f"```{language}\n{text}\n```"
