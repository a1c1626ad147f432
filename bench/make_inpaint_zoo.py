"""Put a trained inpainter of Fashion-MNIST into the zoo: its networks, card, pictures and measured figures.

    python bench/make_inpaint_zoo.py runs/inpaint-fashion zoo/fashion-inpaint

Figures are of test images, for each kind of hole that was learned, with seeds that are written down.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
from fashion_measures import real
from inpaint_diversity import class_figures
from inpaint_measures import Figures, Images, Mask, Variants, diversity_figures, fidelity_figures
from measured import table
from PIL import Image
from torch import Tensor

import gen
from gen.inpaint.completion import Cut
from gen.inpaint.masks import draw_masks
from gen.inpaint.pipeline import DiverseInpaintPipeline, Request
from gen.inpaint.prefill import prefilled
from gen.loading import find_pipeline
from gen.validation import write_rows
from workbench import seeds
from workbench.allocator import keep_freed_memory
from workbench.datasets import load_images
from workbench.files import publish_folder, write_atomic
from workbench.progress import progress

HOLES, COMPLETIONS = 5, 6  # stream of randomness; of each image
PICTURED = 3  # images of each kind of hole
# Of a test image of this class, the rows and columns that are to be filled: top, bottom, left, right.
EXAMPLES = {"boot": ("Ankle boot", (6, 20, 12, 32)), "coat": ("Coat", (14, 32, 0, 32))}
EXAMPLE = 3  # the number of the example among test images of its class
COLUMNS = ("class_agreement", "distinct_classes", "hole_psnr_one", "hole_psnr_best", "border_error", "pair_l1")


def main() -> None:
    """Write the folder; an older one of the same name is replaced."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-images", type=int, default=200, help="measured with each kind of hole")
    options = parser.parse_args()
    keep_freed_memory()
    pipe = gen.load(options.run)
    rows, pictures = [], []
    for kind in pipe.structure.config.mask_kinds:
        images, mask, labels = test_images(pipe, kind, options.num_images)
        variants, ids = completions(pipe, kind, images, mask)
        rows += measured(kind, variants, ids, images, mask, labels)
        pictures.append([images * (1 - mask), images, *variants.unbind(1)])
    partial = options.folder.with_name(options.folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipe.save_pretrained(partial)
    write_picture(partial / "samples.png", pictures)
    write_examples(partial / "examples", pipe.native_size)
    write_atomic(partial / "README.md", card(options, rows))
    publish_folder(partial, options.folder)


def test_images(pipe: DiverseInpaintPipeline, kind: str, count: int) -> tuple[Images, Mask, Tensor]:
    """Images that no training has seen, with holes of one kind, and their labels."""
    test = real("test", pipe.native_size).select(range(count))
    mask = draw_masks([kind], count, pipe.native_size, seeds.generator(0, HOLES))  # type: ignore[list-item]
    return torch.as_tensor(test.images) / 127.5 - 1, mask, torch.as_tensor(test.labels)


def completions(pipe: DiverseInpaintPipeline, kind: str, images: Images, mask: Mask) -> tuple[Variants, Tensor]:
    """Of each image, and the tokens of their structures; variant k from seed k."""
    pipe.set_progress_bar_config(disable=True)
    variants, ids = [], []
    with progress(len(images), f"filling holes: {kind}", unit="image") as bar:
        for cut in map(Cut, images.split(1), mask.split(1)):
            painted = pipe.paint([cut], Request(num_variants=COMPLETIONS))
            variants.append(painted.images[0][:, 0])
            ids.append(painted.tokens[0].flatten(1))
            bar.update()
    return torch.stack(variants), torch.stack(ids)


def measured(kind: str, variants: Variants, ids: Tensor, images: Images, mask: Mask, labels: Tensor) -> list[list[str]]:
    """A line of the model's completions, one of a smooth filling, one of the true images."""
    lines = {kind: (variants, ids)}
    for name, one in (("smooth filling", prefilled(images, mask)), ("true images", images)):
        lines[name] = one[:, None], ids[:, :1]
    return [row(name, figures(*pair, images, mask, labels)) for name, pair in lines.items()]


def figures(variants: Variants, ids: Tensor, images: Images, mask: Mask, labels: Tensor) -> Figures:
    """Of all completions of one kind of hole."""
    found = class_figures(variants, mask, labels) | fidelity_figures(variants, images, mask)
    return found | (diversity_figures(variants, mask, ids) if variants.shape[1] > 1 else {})


def row(name: str, found: Figures) -> list[str]:
    """A line of the table; an exact filling has no PSNR."""
    return [name, *(f"{found[key]:.3g}" if key in found and found[key] < 80 else "-" for key in COLUMNS)]


def write_picture(path: Path, pictures: list[list[Images]]) -> None:
    """A column for each image: masked, true, and its completions; images of all kinds of holes side by side."""
    write_rows(path, [torch.cat([rows[k][:PICTURED] for rows in pictures]) for k in range(len(pictures[0]))])


def write_examples(folder: Path, size: tuple[int, int]) -> None:
    """Pictures with masks to begin with, as a person has them."""
    folder.mkdir()
    test = load_images("fashion-mnist:extract", "test", size)
    for name, (label, (top, bottom, left, right)) in EXAMPLES.items():
        number = np.flatnonzero(test.labels == test.label_names.index(label))[EXAMPLE]
        mask = np.zeros(size, np.uint8)
        mask[top:bottom, left:right] = 255
        Image.fromarray(test.images[number, 0].numpy()).save(folder / f"{name}.png")
        Image.fromarray(mask).save(folder / f"{name}-mask.png")


def card(options: argparse.Namespace, rows: list[list[str]]) -> str:
    """The run's own card, with the zoo's name, and the measured figures before its training."""
    text = (find_pipeline(options.run) / "README.md").read_text().replace("THIS_FOLDER", f"zoo:{options.folder.name}")
    text = text.replace(
        "Images generated at the end of training", "Test images with holes, the true ones, and six completions of each"
    )
    about = (
        f"## Measured\n\n{COMPLETIONS} completions of each of {options.num_images} test images, variant k from seed k, "
        "for each kind of hole. A small network trained on the real training images says how often a completion is "
        "taken for its true class, and for how many classes those of one image are taken; hole PSNR in dB of the first "
        "and of the best completion; mean absolute differences (of values from -1 to 1) across the hole's border from "
        "the true step, and between two completions.\n\n"
    )
    text = text.replace("## Training\n", about + table(["", *heads()], rows) + "\n\n## Training\n", 1)
    limits = (
        "## Limits\n\nIt has seen gray clothes of 32 pixels and nothing else. Photographs are filled channel by "
        "channel with what clothes are made of: an edge goes on, a texture does not."
    )
    return text.rstrip() + "\n\n" + limits + "\n"


def heads() -> list[str]:
    """Of the columns."""
    return [name.replace("_", " ") for name in COLUMNS]


if __name__ == "__main__":
    main()
