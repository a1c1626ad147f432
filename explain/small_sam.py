"""Our own small SAM on disk: config.json and model.safetensors, and whether it has been trained."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from segment_anything.modeling import Sam

from explain.sam_checkpoint import SamSegmenter
from explain.sam_network import SamShape, build_sam
from workbench.errors import UserError

KIND, RESULT = "SmallSam", "segmenter"
ZOO = Path(__file__).parents[1] / "zoo"


def save_small_sam(sam: Sam, shape: SamShape, record: Mapping[str, Any], trained_steps: int, folder: Path) -> None:
    """Write into an existing folder."""
    save_file({name: value.contiguous() for name, value in sam.state_dict().items()}, folder / "model.safetensors")
    content = {"class": KIND, "shape": asdict(shape), "trained_steps": trained_steps, "record": record}
    (folder / "config.json").write_text(json.dumps(content, indent=1) + "\n")


def open_small_sam(folder: Path, device: str | torch.device = "cpu") -> SamSegmenter:
    """The trained network in `folder`. Raises `UserError` where it is damaged or untrained."""
    try:
        config = json.loads((folder / "config.json").read_text())
        values = config["shape"]
        sam = build_sam(SamShape(**{**values, "global_blocks": tuple(values["global_blocks"])}))
        sam.load_state_dict(load_file(folder / "model.safetensors"))
        steps, data = int(config["trained_steps"]), config["record"].get("data", "unknown data")
    except (OSError, ValueError, KeyError, TypeError, AssertionError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} is damaged ({reason}); train or copy the segmenter again") from error
    if steps < 1:
        raise UserError(f"the segmenter in {folder} has not been trained; its masks would be no result: train it first")
    return SamSegmenter(sam, f"small SAM of the workbench ({steps:,} steps on {data})", device)


def find_small_sam(folder: Path) -> Path | None:
    """The folder of a small SAM: the given one, or the result of the finished run there; None where there is none."""
    for candidate in (folder, folder / RESULT):
        try:
            if json.loads((candidate / "config.json").read_text()).get("class") == KIND:
                return candidate
        except (OSError, ValueError, AttributeError):
            continue
    return None
