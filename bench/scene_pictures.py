"""Draws docs/images/scenes.png, the picture in docs/scenes.md; a few seconds on one core.

python bench/scene_pictures.py --overwrite
"""

from pathlib import Path

import torch
import tyro

from workbench.errors import UserError
from workbench.files import write_atomic
from workbench.pictures import encode_png, image_grid
from workbench.planted import planted
from workbench.scenes import Scenes, shapes

SIDE, COLUMNS = 48, 8


def shapes_at_four_sizes() -> list[torch.Tensor]:
    """Two scenes, each at 24, 32, 48 and 24x48 pixels."""
    return [shapes([scene], size).images[0] for scene in (2, 3) for size in (24, 32, SIDE, (24, SIDE))]


def truth(scenes: Scenes) -> list[torch.Tensor]:
    """The object's mask in white, those of the distractors in red, yellow and blue, as far as they are seen."""
    colours = torch.tensor([[255, 255, 255], [230, 60, 50], [240, 210, 40], [60, 110, 240]])
    masks = torch.cat([scenes.masks[:, None], scenes.distractor_masks], dim=1)
    layers = masks[:, :, None] * colours[:, :, None, None]  # (n, kinds, 3, h, w)
    return list(layers.amax(1).byte())


def main(output: Path = Path(__file__).parents[1] / "docs/images/scenes.png", overwrite: bool = False) -> None:
    """Rows: shapes at four sizes; planted training scenes; their masks; the same on brick; test scenes."""
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists already; give --overwrite to draw it again.")
    train = planted(range(COLUMNS), SIDE)
    on_brick = planted(range(COLUMNS), SIDE, background="brick")
    test = planted(range(COLUMNS), SIDE, split="test")
    images = [*shapes_at_four_sizes(), *train.images, *truth(train), *on_brick.images, *test.images]
    write_atomic(output, encode_png(image_grid(images, columns=COLUMNS)))


if __name__ == "__main__":
    tyro.cli(main)
