"""Put a trained run into the zoo: half-precision weights, its card, pictures and measured figures.

    python bench/make_zoo.py runs/zoo-fashion zoo/fashion-rpe2d --reference fashion-mnist --size 16 --size 28 --size 56

Figures are of the weights as they are stored, from seeds that are written down, against the reference's test images of
the same size.
"""

import argparse
import shutil
from pathlib import Path

import torch
from jaxtyping import UInt8
from measured import table
from torch import Tensor

import gen
from gen.loading import find_pipeline
from ui.datasheet import measure_against
from workbench.config import Size, parse_size
from workbench.datasets import LabelledImages
from workbench.files import publish_folder, write_atomic
from workbench.pictures import encode_png, image_grid

MEASURES = ("class_agreement", "kernel_distance", "frechet_distance", "precision", "recall")
SETTINGS = {"guidance_scale": 1.5, "num_inference_steps": 25}
BATCH = 100
LARGEST = 64  # pixels of a picture's cell


def main() -> None:
    """Write the folder; an older one of the same name is replaced."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--size", action="append", required=True)
    parser.add_argument("--num-images", type=int, default=1000, help="measured at each size")
    options = parser.parse_args()
    partial = options.folder.with_name(options.folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipe = gen.load(options.run)
    pipe.transformer.half()
    pipe.save_pretrained(partial)
    sizes = [parse_size(size) for size in options.size]
    made = {size: sample(partial, size, options.num_images) for size in sizes}
    write_atomic(partial / "samples.png", encode_png(picture(list(made.values()))))
    rows = [row(options.reference, size, images) for size, images in made.items()]
    write_atomic(partial / "README.md", card(options, rows))
    publish_folder(partial, options.folder)


def sample(folder: Path, size: Size, count: int) -> LabelledImages:
    """Images of all labels in turn, image k from seed k."""
    pipe = gen.load(folder)
    pipe.set_progress_bar_config(disable=True)
    classes, batches = len(pipe.label_names), []
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        images = pipe(
            [k % classes for k in numbers], *size, output_type="pt",
            generator=[torch.Generator().manual_seed(k) for k in numbers], **SETTINGS,
        ).images  # fmt: skip
        batches.append((images * 255).round().byte())
    return LabelledImages(torch.cat(batches), torch.arange(count) % classes, pipe.label_names, "generated")


def row(reference: str, size: Size, images: LabelledImages) -> list[str]:
    """The measures at one size, each with that of real images."""
    (found,) = measure_against(images, reference, len(images))
    assert found.floor is not None
    cells = (f"{getattr(found.figures, name):.3g} ({getattr(found.floor, name):.3g})" for name in MEASURES)
    return ["x".join(map(str, size)), *cells]


def picture(made: list[LabelledImages]) -> UInt8[Tensor, "c h w"]:
    """Two rows of images of each size, in their true proportions."""
    rows = []
    for images in made:
        assert isinstance(images.images, Tensor)
        columns = len(images.label_names)
        cells = [centred(image) for image in images.images[: 2 * columns]]
        rows += cells
    return image_grid(rows, columns=len(made[0].label_names))


def centred(image: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "c cell cell"]:
    """On a field that holds the largest image."""
    c, height, width = image.shape
    field = torch.zeros(c, LARGEST, LARGEST, dtype=torch.uint8)
    top, left = (LARGEST - height) // 2, (LARGEST - width) // 2
    field[:, top : top + height, left : left + width] = image
    return field


def card(options: argparse.Namespace, rows: list[list[str]]) -> str:
    """The run's own card, with the zoo's name, and the measured figures before its training."""
    text = (find_pipeline(options.run) / "README.md").read_text().replace("THIS_FOLDER", f"zoo:{options.folder.name}")
    text = text.replace("Images generated at the end of training", "Generated images, two rows of each size")
    measured = (
        f"## Measured\n\n{options.num_images} images of each size from seeds 0 to {options.num_images - 1}, guidance "
        f"{SETTINGS['guidance_scale']}, {SETTINGS['num_inference_steps']} steps, against the test images of "
        f"{options.reference} at the same size, as a small network trained on the real training images sees them. In "
        "brackets: as many real training images in their place. Figures of different sizes cannot be compared.\n\n"
        + table(["size", *(name.replace("_", " ") for name in MEASURES)], rows)
    )
    return text.replace("## Training\n", measured + "\n\n## Training\n", 1)


if __name__ == "__main__":
    main()
