"""The card of a trained small SAM."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.files import write_atomic
from workbench.markdown import code_block, training_section

MEANING = """\
From points and a box to three masks (whole, part, part of a part) and the IoU that the network expects of each. It is
small and has seen only the images named above: it knows their kinds of objects and edges, not the world. Where a
released SAM can be had, take that one. Masks are cut at the resolution of training and enlarged."""

USE = """\
from explain.segment import open_segmenter

segmenter = open_segmenter("THIS_FOLDER")
masks, quality = segmenter.masks(segmenter.embed(image), prompts)"""


def write_card(folder: Path, record: Mapping[str, Any]) -> None:
    """Write README.md beside the network."""
    settings = record["settings"]
    parts = [
        "# Small SAM",
        f"Promptable segmentation, segment-anything's network made small (`{settings['resolution']}` pixels). Trained "
        f"on {record['images']:,} images of {record['data']} for {settings['max_train_steps']:,} steps of "
        f"{settings['global_batch_size']}, seed {settings['seed']}.",
        code_block(USE, "python"),
        "## What it does\n\n" + MEANING,
        training_section(record),
    ]
    write_atomic(folder / "README.md", "\n\n".join(parts) + "\n")
