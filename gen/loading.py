"""Opening trained generators: only classes of this package, never code from the folder."""

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.utils import logging

from workbench.errors import UserError
from workbench.files import sha256_file

PIPELINES = {
    "RPE2DPipeline": "gen.rpe2d.pipeline",
    "EPGPipeline": "gen.pixel.pipeline",
    "DiverseInpaintPipeline": "gen.inpaint.pipeline",
}
ZOO = Path(__file__).parents[1] / "zoo"


def load_pipeline(folder: str | Path, device: str = "cpu") -> DiffusionPipeline:
    """The pipeline in `folder`, in the `pipeline` folder of a finished run, or of the zoo (zoo:NAME), on `device`.

    Raises UserError when there is none, or its files are damaged.
    """
    folder = find_pipeline(folder)
    try:
        name = json.loads((folder / "model_index.json").read_text())["_class_name"]
        name = str(name[-1] if isinstance(name, list) else name)
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise UserError(
            f"{folder}/model_index.json cannot be read: {error}; train or copy the pipeline again"
        ) from error
    if name not in PIPELINES:
        raise UserError(f"{folder} holds a {name}; this command opens {', '.join(PIPELINES)}")
    pipeline_class = getattr(importlib.import_module(PIPELINES[name]), name)
    return read_component(pipeline_class, folder, device)


def load_generator(folder: str | Path, device: str = "cpu") -> Any:
    """`load_pipeline` where it makes images of labels. Raises UserError for one that fills holes of pictures."""
    from gen.pipelines import LabelledPipeline

    pipe = load_pipeline(folder, device)
    if not isinstance(pipe, LabelledPipeline):
        raise UserError(f"{folder} fills holes of pictures: use workbench inpaint, or give a generator")
    return pipe


def read_component(component: Any, folder: Path, device: str = "cpu") -> Any:
    """A pipeline or model from its folder, safetensors only. Raises UserError when its files are damaged."""
    logging.disable_progress_bar()
    try:
        return component.from_pretrained(folder, local_files_only=True, use_safetensors=True).to(device)
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{folder} is damaged: {str(error).splitlines()[0]}; train or copy the pipeline again"
        ) from error
    finally:
        logging.enable_progress_bar()


def find_pipeline(folder: str | Path) -> Path:
    """The folder that holds `model_index.json`: the given one, its `pipeline`, or that of zoo:NAME.

    Raises UserError when none does.
    """
    if str(folder).startswith("zoo:"):
        folder = _zoo_folder(str(folder).removeprefix("zoo:"))
    for candidate in (Path(folder), Path(folder) / "pipeline"):
        if (candidate / "model_index.json").is_file():
            return candidate
    if (Path(folder) / "config.yaml").exists():
        raise UserError(f"{folder} is a training run that is not finished; run its training command again to go on")
    raise UserError(f"{folder} is not a trained pipeline; give a folder such as runs/NAME or runs/NAME/pipeline")


def _zoo_folder(name: str) -> Path:
    names = sorted(path.parent.name for path in ZOO.glob("*/model_index.json"))
    if name not in names:
        known = (
            f"the zoo holds {', '.join(names)}"
            if names
            else f"there is no zoo in {ZOO.parent}: clone the repository, or train a generator"
        )
        raise UserError(f"there is no zoo:{name}; {known}")
    return ZOO / name


def pipeline_checksum(folder: str | Path) -> str:
    """SHA-256 over the weights and settings of a pipeline's folder: says which generator made an image."""
    kinds = ("*.safetensors", "*.json")
    digests = [sha256_file(path) for kind in kinds for path in sorted(find_pipeline(folder).rglob(kind))]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
