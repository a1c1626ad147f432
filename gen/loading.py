"""Opening trained generators: only classes of this package, never code from the folder."""

import hashlib
import importlib
import json
from pathlib import Path

from diffusers import DiffusionPipeline

from workbench.errors import UserError
from workbench.files import sha256_file

PIPELINES = {"RPE2DPipeline": "gen.rpe2d.pipeline"}


def load_pipeline(folder: str | Path, device: str = "cpu") -> DiffusionPipeline:
    """The pipeline in `folder`, or in the `pipeline` folder of a finished run, on `device`.

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
    try:
        return pipeline_class.from_pretrained(folder, local_files_only=True, use_safetensors=True).to(device)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{folder} is damaged: {str(error).splitlines()[0]}; train or copy the pipeline again"
        ) from error


def find_pipeline(folder: str | Path) -> Path:
    """The folder that holds `model_index.json`: the given one or its `pipeline`. Raises UserError when neither does."""
    for candidate in (Path(folder), Path(folder) / "pipeline"):
        if (candidate / "model_index.json").is_file():
            return candidate
    if (Path(folder) / "config.yaml").exists():
        raise UserError(f"{folder} is a training run that is not finished; run its training command again to go on")
    raise UserError(f"{folder} is not a trained pipeline; give a folder such as runs/NAME or runs/NAME/pipeline")


def pipeline_checksum(folder: str | Path) -> str:
    """SHA-256 over the weights and settings of a pipeline's folder: says which generator made an image."""
    kinds = ("*.safetensors", "*.json")
    digests = [sha256_file(path) for kind in kinds for path in sorted(find_pipeline(folder).rglob(kind))]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
