"""The small segmenter and captioner in another domain: as the zoo has them, trained from nothing, from the zoo.

    python bench/sonar_described.py sonar-train.parquet sonar-test.parquet --output runs/sonar-described
    python bench/vale_domain.py --data runs/sonar-described --folder runs/domain --output docs/results/vale_domain.md

Trained on the train split, measured on the test split. Figures are kept beside the table as they come
(vale_domain.jsonl), and only what is missing is trained: call again to go on.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as our commands do
import cv2
import numpy as np
import torch
from jaxtyping import Bool, UInt8
from kept import Kept
from measured import table, write_result
from PIL import Image
from torch import Tensor

from explain.caption_config import CaptionConfig
from explain.caption_data import Captioned
from explain.caption_recipe import CaptionRecipe, caption_figures
from explain.captioner import Captioner
from explain.prompts import Prompts
from explain.segment import Segmenter, open_segmenter
from explain.segment_config import SegmentConfig
from explain.segment_recipe import SegmentRecipe
from workbench.allocator import keep_freed_memory
from workbench.files import write_atomic
from workbench.pictures import encode_png, image_grid, resize_images
from workbench.training import Training

ZOO = {"segment": "zoo:small-sam", "caption": "zoo:small-captioner"}
ARMS = {"as the zoo has it": 0, "from nothing": 1, "from the zoo": 1}  # trained or not
TITLES = {"segment": "Segmenter", "caption": "Captioner"}
COLUMNS = {
    "segment": {
        "validation_iou_point": "IoU by a point", "validation_iou_3_points": "by three points",
        "validation_iou_box": "by a box", "validation_iou_point_and_box": "by point and box",
    },
    "caption": {
        "validation_exact_match": "caption exact", "validation_word_precision": "word precision",
        "validation_word_recall": "word recall", "class_named": "class named",
    },
}  # fmt: skip
SHOWN = ("as the zoo has it", "from the zoo")  # in the picture
PICTURES, CELL = 10, (96, 96)
CLASSES = ("plane", "ship")  # a caption that names neither speaks of the ground alone


def main() -> None:
    """Train and measure what is missing; print, and write the table where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="pictures with masks and captions, in two splits")
    parser.add_argument("--folder", type=Path, required=True, help="for the runs")
    parser.add_argument("--segment-steps", type=int, default=500)
    parser.add_argument("--caption-steps", type=int, default=500)
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="of both, from nothing or not")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--results", type=Path, default=Path("docs/results/vale_domain.jsonl"))
    parser.add_argument("--picture", type=Path, default=Path("docs/images/vale_domain.png"))
    parser.add_argument("--output", help="markdown file for the table")
    options = parser.parse_args()
    keep_freed_memory()
    kept = Kept(options.results)
    body = "\n\n".join(f"## {TITLES[kind]}\n\n{part(kind, options, kept)}" for kind in ZOO)
    write_atomic(options.picture, encode_png(picture(options)))
    legend = (
        f"From one point: image, given mask, {', '.join(SHOWN)} (seed 0).\n\n![masks](../images/{options.picture.name})"
    )
    write_result("VALE: a domain of one's own", __doc__ or "", f"{body}\n\n{legend}", options.output)


def part(kind: str, options: argparse.Namespace, kept: Kept) -> str:
    """The rows of the three arms, mean and standard deviation over the seeds."""
    rows = []
    for arm, trained in ARMS.items():
        found = [figures_of(kind, arm, seed, options, kept) for seed in (options.seeds if trained else [0])]
        rows.append([arm, str(steps_of(kind, options) * trained), *(spread(found, name) for name in COLUMNS[kind])])
    return table(["", "steps", *COLUMNS[kind].values()], rows)


def figures_of(kind: str, arm: str, seed: int, options: argparse.Namespace, kept: Kept) -> dict[str, float]:
    """Kept ones, or measured now."""
    settings: dict[str, Any] = {"kind": kind, "arm": arm, "seed": seed, "data": options.data.name}
    if ARMS[arm]:
        settings |= {"steps": steps_of(kind, options), "learning_rate": options.learning_rate}
    figures = kept.find(settings)
    if figures is None:
        figures = {"segment": segmenting, "caption": captioning}[kind](arm, seed, options)
        kept.add(settings, figures)
    return figures


def segmenting(arm: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """IoU with the test split's masks, by the first prompts and after three points."""
    settings = common("segment", arm, seed, options)
    start = None if arm == "from nothing" else ZOO["segment"]
    if ARMS[arm]:
        start = trained(SegmentRecipe, SegmentConfig(**settings, init_from=start))
    recipe = SegmentRecipe(SegmentConfig(**settings, init_from=start, validation_images=1000))
    with tempfile.TemporaryDirectory() as folder:
        return recipe.validate(recipe.model, Path(folder), 0)


def picture(options: argparse.Namespace) -> UInt8[Tensor, "3 h w"]:
    """The first test images that have a mask, that mask, and those of segmenters told the point deepest inside it."""
    rows = [json.loads(line) for line in (options.data / "test" / "metadata.jsonl").read_text().splitlines()]
    folders = [common("segment", arm, 0, options)["output_dir"] if ARMS[arm] else ZOO["segment"] for arm in SHOWN]
    segmenters = [open_segmenter(str(folder), options.device) for folder in folders]
    cells: list[Tensor] = []
    for row in [row for row in rows if row["mask_file_name"]][:PICTURES]:
        image, mask = (
            torch.from_numpy(np.array(Image.open(options.data / "test" / row[name]).convert("RGB"))).permute(2, 0, 1)
            for name in ("file_name", "mask_file_name")
        )
        masks = [255 * found.byte().expand(3, -1, -1) for found in found_masks(segmenters, image, mask[0] > 0)]
        cells += [resize_images(cell[None], CELL)[0] for cell in (image, mask, *masks)]
    return image_grid(cells, columns=2 * (2 + len(SHOWN)))


def found_masks(segmenters: list[Segmenter], image: UInt8[Tensor, "3 h w"], mask: Bool[Tensor, "h w"]) -> list[Tensor]:
    """The mask that each segmenter thinks best."""
    depth = cv2.distanceTransform(mask.byte().numpy(), cv2.DIST_L2, 5)
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    prompts = Prompts(((float(x), float(y)),), (1,), None, (1.0,))
    answers = [segmenter.masks(segmenter.embed(image), prompts) for segmenter in segmenters]
    return [masks[quality.argmax()].cpu() for masks, quality in answers]


def captioning(arm: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """How the captions of the test split agree with the true ones."""
    config = CaptionConfig(
        **common("caption", arm, seed, options), init_from=None if arm == "from nothing" else ZOO["caption"],
        random_flip=True, validation_images=1000,
    )  # fmt: skip
    found = trained(CaptionRecipe, config) if ARMS[arm] else ZOO["caption"]
    return caption_measures(Captioner.load(found, options.device), CaptionRecipe(config).held_out)


def trained(recipe: type[SegmentRecipe] | type[CaptionRecipe], config: Any) -> str:
    """The folder of a run that is finished, or is finished now."""
    if not (config.output_dir / "finished.json").exists():
        Training(recipe(config)).train()
    return str(config.output_dir)


def caption_measures(captioner: Captioner, held_out: Captioned) -> dict[str, float]:
    """Words in common, and whether the caption names the class that the true one names, or none where that does."""
    captions = captioner.caption(held_out.images)
    named = [
        set(CLASSES) & set(said.text.split()) == set(CLASSES) & set(true)
        for said, true in zip(captions, held_out.words, strict=True)
    ]
    figures = {f"validation_{name}": value for name, value in caption_figures(captions, held_out).items()}
    return {**figures, "class_named": fmean(named)}


def common(kind: str, arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Settings of all trainings."""
    return {
        "data": str(options.data), "output_dir": options.folder / f"{kind}-{arm.replace(' ', '-')}-{seed}",
        "seed": seed, "max_train_steps": steps_of(kind, options), "learning_rate": options.learning_rate,
        "validation_steps": 0, "device": options.device,
    }  # fmt: skip


def steps_of(kind: str, options: argparse.Namespace) -> int:
    """Of a part's trainings."""
    return int(options.segment_steps if kind == "segment" else options.caption_steps)


def spread(rows: list[dict[str, float]], name: str) -> str:
    """Mean, and standard deviation where there are several."""
    values = [row[name] for row in rows]
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
