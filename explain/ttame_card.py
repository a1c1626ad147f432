"""The card of a trained T-TAME module: of which classifier it speaks, how it was trained, and what its maps mean."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from explain.layers import Layer
from workbench.files import write_atomic
from workbench.markdown import code_block, training_section

MEANING = """\
A map says which pixels, kept alone, let the classifier still see the class (a sufficiency map), under a prior for small
and smooth areas. It is learned, so it can be wrong; measure it before you trust it. It belongs to one classifier: train
again whenever that changes. Maps of classes that the classifier finds unlikely are extrapolations, because training
masks images by predicted classes only."""

USE = "workbench explain IMAGE --classifier CLASSIFIER --method ttame --explainer THIS_FOLDER --output DIR"


def write_card(folder: Path, layers: Sequence[Layer], record: Mapping[str, Any]) -> None:
    """Write README.md beside a trained module."""
    settings = record["settings"]
    parts = [
        "# T-TAME attention module",
        f"Explains the classifier `{settings['classifier']}` (fingerprint {settings['classifier_fingerprint']}) from "
        f"its layers {', '.join(map(str, layers))}. Trained on {record['images']:,} images of {record['data']} for "
        f"{settings['max_train_steps']:,} steps of {settings['global_batch_size']}, seed {settings['seed']}.",
        code_block(USE, "sh"),
        "## What a map means\n\n" + MEANING,
        training_section(record),
    ]
    write_atomic(folder / "README.md", "\n\n".join(parts) + "\n")
