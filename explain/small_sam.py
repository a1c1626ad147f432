"""Our own small SAM on disk: config.json and model.safetensors, and whether it has been trained."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from segment_anything.modeling import Sam

from explain.sam_checkpoint import SamSegmenter
from explain.sam_network import SamShape, build_sam
from workbench.errors import UserError

KIND, RESULT = "SmallSam", "segmenter"
ZOO = Path(__file__).parents[1] / "zoo"


class SmallSam(NamedTuple):
    """A trained network, its sizes, and how long and on what it was trained."""

    sam: Sam
    shape: SamShape
    steps: int
    data: str


def save_small_sam(sam: Sam, shape: SamShape, record: Mapping[str, Any], trained_steps: int, folder: Path) -> None:
    """Write into an existing folder."""
    save_file({name: value.contiguous() for name, value in sam.state_dict().items()}, folder / "model.safetensors")
    content = {"class": KIND, "shape": asdict(shape), "trained_steps": trained_steps, "record": record}
    (folder / "config.json").write_text(json.dumps(content, indent=1) + "\n")


def inherit(sam: Sam, shape: SamShape, spec: str) -> None:
    """Copy the weights of the trained network that `spec` names. Raises `UserError` where there is none, or its sizes
    are others."""
    folder = find_small_sam(spec)
    if folder is None:
        raise UserError(f"{spec} holds no small SAM; give zoo:small-sam or the run of workbench segment train")
    trained = read_small_sam(folder)
    ours, theirs = asdict(shape), asdict(trained.shape)
    if different := [name for name in ours if ours[name] != theirs[name]]:
        told = ", ".join(f"{name} is {theirs[name]} there and {ours[name]} here" for name in different)
        raise UserError(f"a run cannot start from {spec}: {told}; give the settings that it was trained with")
    sam.load_state_dict(trained.sam.state_dict())


def open_small_sam(folder: Path, device: str | torch.device = "cpu") -> SamSegmenter:
    """The trained network in `folder`. Raises `UserError` where it is damaged or untrained."""
    found = read_small_sam(folder)
    return SamSegmenter(found.sam, f"small SAM of the workbench ({found.steps:,} steps on {found.data})", device)


def read_small_sam(folder: Path) -> SmallSam:
    """The trained network in `folder`. Raises `UserError` where it is damaged or untrained."""
    try:
        config = json.loads((folder / "config.json").read_text())
        values = config["shape"]
        shape = SamShape(**{**values, "global_blocks": tuple(values["global_blocks"])})
        sam = build_sam(shape)
        sam.load_state_dict(load_file(folder / "model.safetensors"))
        steps, data = int(config["trained_steps"]), config["record"].get("data", "unknown data")
    except (OSError, ValueError, KeyError, TypeError, AssertionError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} is damaged ({reason}); train or copy the segmenter again") from error
    if steps < 1:
        raise UserError(f"the segmenter in {folder} has not been trained; its masks would be no result: train it first")
    return SmallSam(sam, shape, steps, data)


def find_small_sam(spec: str | Path) -> Path | None:
    """The folder of a small SAM: the given one, that of a finished run, or zoo:NAME; None where there is none."""
    path = ZOO / str(spec).removeprefix("zoo:") if str(spec).startswith("zoo:") else Path(spec).expanduser()
    for candidate in (path, path / RESULT):
        try:
            if json.loads((candidate / "config.json").read_text()).get("class") == KIND:
                return candidate
        except (OSError, ValueError, AttributeError):
            continue
    return None
