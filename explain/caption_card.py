"""The card of a trained captioner: what it learned from, how well it does, and what not to use it for."""

from pathlib import Path

from explain.caption_data import Captioned
from explain.captioner import Caption, Captioner
from workbench.files import write_atomic
from workbench.markdown import code_block, training_section, yaml_block

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
        code_block(USE, "sh"),
        "## Held-out pictures\n\n" + yaml_block(record["held_out"]),
        "The first of them:\n\n| true | caption |\n| --- | --- |\n" + "\n".join(rows),
        "## Limits\n\n" + LIMITS,
        training_section(record),
    ]
    write_atomic(folder / "README.md", "\n\n".join(parts) + "\n")
