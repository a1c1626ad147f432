"""A distilled set on disk: tensors with all that training on them takes.

FOLDER/distilled.safetensors   images in training space, labels, step size, the transform for real images
FOLDER/metadata.json           classes, recipe of training, how it was made, figures; written last
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import TensorDataset

from distill.distilled import Distilled
from distill.evaluation_config import TrainingRecipe
from distill.preprocess import Transform
from workbench.errors import UserError
from workbench.files import make_folder, sha256_file, user_errors_for_disk, write_atomic
from workbench.launch import command_line, versions

FORMAT, VERSION = "workbench-distilled", 1
TENSORS, METADATA = "distilled.safetensors", "metadata.json"
ZOO = Path(__file__).parents[1] / "zoo"  # as in gen.loading, which takes seconds to import
RESULT = "distilled"  # the product's folder in that of a matching run


class Loaded(NamedTuple):
    """What training on a distilled set takes."""

    dataset: TensorDataset  # images in training space, and class numbers or logits
    transform: Transform  # apply it to real images in [0, 1] before they are classified
    recipe: TrainingRecipe  # with the set's own step size


@dataclass(frozen=True)
class Origin:
    """The real images behind a set, and what was measured of it."""

    data: str
    data_checksum: str
    figures: Mapping[str, Any] = field(default_factory=dict)


def save_distilled(distilled: Distilled, recipe: TrainingRecipe, origin: Origin, folder: Path) -> dict[str, Any]:
    """Write the tensors, then the metadata, which is returned: a folder that has it is complete."""
    with user_errors_for_disk(folder):
        make_folder(folder)
        (folder / METADATA).unlink(missing_ok=True)
        write_atomic(folder / TENSORS, save(_tensors(distilled)))
        metadata = describe(distilled, recipe, origin) | {"checksum": sha256_file(folder / TENSORS)}
        write_atomic(folder / METADATA, json.dumps(metadata, indent=1) + "\n")
    return metadata


def describe(distilled: Distilled, recipe: TrainingRecipe, origin: Origin) -> dict[str, Any]:
    """All that the tensors do not say, as JSON values."""
    _, channels, height, width = distilled.images.shape
    return {
        "format": FORMAT,
        "format_version": VERSION,
        "task": "image-classification",
        "label_names": list(distilled.label_names),
        "images_per_class": distilled.images_per_class,
        "channels": channels,
        "height": height,
        "width": width,
        "preprocessing": distilled.transform.kind,
        "labels": "logits" if distilled.labels.is_floating_point() else "hard",
        "step_size": distilled.step_size,
        "recipe": asdict(replace(recipe, step_size=None)),
        "data": origin.data,
        "data_checksum": origin.data_checksum,
        "settings": json.loads(json.dumps(distilled.settings, default=str)),
        "figures": dict(origin.figures),
        "command": command_line(),
        "versions": versions(),
    }


def read_distilled(folder: str | Path) -> tuple[Distilled, dict[str, Any]]:
    """The set in a folder, a matching run's, or the zoo's (zoo:distilled/NAME), and its metadata.

    Raises UserError where there is none, or it is damaged.
    """
    folder = find_distilled(folder)
    try:
        metadata = json.loads((folder / METADATA).read_text())
        if (metadata["format"], metadata["format_version"]) != (FORMAT, VERSION):
            raise ValueError(f"it is {metadata['format']} {metadata['format_version']}, not {FORMAT} {VERSION}")
        if metadata["checksum"] != sha256_file(folder / TENSORS):
            raise ValueError(f"{TENSORS} is not the one that {METADATA} is about")
        return _distilled(load_file(folder / TENSORS), metadata), metadata
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder} is no whole distilled set ({error}); make it or copy it again") from error


def load_distilled(folder: str | Path) -> Loaded:
    """What training takes: images with labels, the transform for real images, and the recipe.

    Raises UserError where there is no such set, or it is damaged.
    """
    distilled, metadata = read_distilled(folder)
    return Loaded(
        TensorDataset(distilled.images, distilled.labels), distilled.transform, recipe_of(distilled, metadata)
    )


def recipe_of(distilled: Distilled, metadata: Mapping[str, Any]) -> TrainingRecipe:
    """The recipe that the set is published with, with its step size."""
    return TrainingRecipe(**{**metadata["recipe"], "step_size": distilled.step_size})


def find_distilled(folder: str | Path) -> Path:
    """The folder that holds a set's metadata. Raises UserError when none does."""
    name = str(folder)
    given = ZOO / name.removeprefix("zoo:") if name.startswith("zoo:") else Path(folder)
    for candidate in (given, given / RESULT):
        if (candidate / METADATA).is_file():
            return candidate
    known = ", ".join(f"zoo:distilled/{path.parent.name}" for path in sorted(ZOO.glob(f"distilled/*/{METADATA}")))
    raise UserError(
        f"{folder} is no distilled set; give a folder that `workbench distill` has finished"
        + (f", or {known}" if known else "")
    )


def _tensors(distilled: Distilled) -> dict[str, Tensor]:
    soft = {"soft_labels": distilled.labels} if distilled.labels.is_floating_point() else {}
    tensors = {
        "images": distilled.images,
        "labels": distilled.classes,
        "step_size": torch.tensor(distilled.step_size, dtype=torch.float64),
        **soft,
        **distilled.transform.state(),
    }
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _distilled(tensors: dict[str, Tensor], metadata: Mapping[str, Any]) -> Distilled:
    return Distilled(
        images=tensors["images"],
        labels=tensors.get("soft_labels", tensors["labels"]),
        step_size=tensors["step_size"].item(),
        transform=Transform.from_state(tensors),
        label_names=tuple(metadata["label_names"]),
        settings=metadata["settings"],
    )
