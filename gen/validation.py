"""The pictures that a run's validation leaves, and the seeds they come from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench import seeds
from workbench.files import write_atomic
from workbench.pictures import encode_png, image_grid

VALIDATION = 3  # stream of randomness
COLUMNS = 16


def write_grid(pipe: Any, config: Any, num_classes: int, folder: Path, step: int) -> None:
    """A grid of images from the same noise every time, a label in each column where there are few.

    `config` has the settings `validation_images` and so on of the recipes that train a generator.
    """
    count = config.validation_images
    if not count:
        return
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        [k % num_classes for k in range(count)] if num_classes else None,
        num_images=count,
        num_inference_steps=config.validation_inference_steps,
        guidance_scale=config.validation_guidance_scale,
        generator=[seeds.generator(config.seed, VALIDATION, k) for k in range(count)],
        output_type="pt",
        return_dict=False,
    )[0]
    pictures = list((images * 255).round().byte().cpu())
    grid = image_grid(pictures, columns=num_classes if 2 < num_classes <= 16 else 8)
    write_atomic(folder / f"step-{step:08d}.png", encode_png(grid))


def write_rows(path: Path, rows: Sequence[Float[Tensor, "_ c h w"]]) -> None:
    """Images in [-1, 1] row by row, so that those in a column can be compared; at most the first 16 of each row."""
    pixels = torch.cat([((row[:COLUMNS] + 1) * 127.5).round().clamp(0, 255).byte().cpu() for row in rows])
    write_atomic(path, encode_png(image_grid(pixels, columns=min(COLUMNS, len(rows[0])))))
