"""Makes images: generators, their training and their sampling. `gen.load(folder)` opens any trained one."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import DiffusionPipeline


def load(folder: "str | Path", device: str = "cpu") -> "DiffusionPipeline":
    """Open a pipeline that was trained here. Raises UserError when `folder` does not hold one."""
    from gen.loading import load_pipeline

    return load_pipeline(folder, device)
