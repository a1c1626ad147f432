"""Diverse inpainting: does it draw from the true law, and does structure first help? Against its own ablations.

    python bench/inpaint_diversity.py toy --folder runs/inpaint --output docs/results/inpaint_diversity.md
    python bench/inpaint_diversity.py fashion --folder runs/inpaint --output docs/results/inpaint_fashion.md

toy: scenes whose hidden object follows a known law that a cue in sight fixes (bench/inpaint_toy.py); the law of the
completions' shapes, read back without a network, is compared with it. fashion: Fashion-MNIST with a hole in the centre
or over half of it; a classifier trained on real images reads the completions. All arms of a seed share data, VQ-VAE,
structure network, drawn structures, and the texture stage's steps; an arm changes that stage alone. Each figure is kept
beside the table as it comes (docs/results/inpaint_TASK.jsonl), and only what is missing is trained and measured: call
again to go on, or call several at once, with different --seeds or --arms and without --output.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as our commands do
import numpy as np
import torch
from inpaint_arms import ARMS, Task, drawn, painted, run_folder, trained, true_ids
from inpaint_measures import (
    Figures,
    Images,
    Mask,
    diversity_figures,
    fidelity_figures,
    reading_figures,
    to_bytes,
    toy_figures,
)
from inpaint_report import report
from inpaint_toy import FIRST, LAST, Scenes, hole_mask, make_scenes, write_scenes
from kept import Kept
from measured import write_result
from torch import Tensor

from gen.inpaint.masks import draw_masks
from gen.inpaint.prefill import prefilled
from workbench import seeds
from workbench.metrics_log import read_metrics

TRAINING_SCENES, TEST_SEED = 20_000, 10_000
HOLES = 5  # stream of randomness


def main() -> None:
    """Train, paint and measure what is missing; then write the table."""
    options = parse()
    kept = Kept(options.results / f"inpaint_{options.task}.jsonl")
    found = []
    for seed in options.seeds:
        task = make_task(options)
        for what, measure in jobs(task, options, seed).items():
            settings = {"what": what, "seed": seed, **identity(task, options)}
            figures = kept.find(settings)
            if figures is None:
                figures = measure()
                kept.add(settings, figures)
            found.append({"what": what, "seed": seed, **figures})
    if options.output:
        write_result("Diverse inpainting", __doc__ or "", report(options, found), options.output)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("toy", "fashion"))
    parser.add_argument("--folder", type=Path, required=True, help="for data and trained models")
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="for the figures")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--vqvae-steps", type=int, default=3000)
    parser.add_argument("--structure-steps", type=int, default=4000)
    parser.add_argument("--texture-steps", type=int, default=6000)
    parser.add_argument("--adversarial-weight", type=float, default=1.0)
    parser.add_argument("--reconstruction-weight", type=float, default=1.0)
    parser.add_argument("--texture-ema", type=float, default=0.0)
    parser.add_argument("--images", type=int, default=600, help="test images")
    parser.add_argument("--variants", type=int, default=8, help="completions of each")
    parser.add_argument("--preset", default="tiny32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", help="markdown file for the table")
    return parser.parse_args()


def make_task(options: argparse.Namespace) -> Task:
    """The task with its data on disk and the settings of this call."""
    toy = options.task == "toy"
    data = write_scenes(options.folder / "toy-scenes", TRAINING_SCENES, seed=0) if toy else "fashion-mnist"
    return Task(
        name=options.task,
        data=str(data),
        folder=options.folder,
        masks=["centre"] if toy else ["centre", "half"],
        steps={stage: getattr(options, f"{stage}_steps") for stage in ("vqvae", "structure", "texture")},
        settings={"device": options.device, "preset": options.preset, "resolution": "32", "validation_steps": 1000},
        texture={
            "adversarial_weight": options.adversarial_weight, "reconstruction_weight": options.reconstruction_weight,
            "ema_decay": options.texture_ema,
        },
    )  # fmt: skip


def identity(task: Task, options: argparse.Namespace) -> dict[str, Any]:
    """What figures depend on, beside the arm and the seed."""
    return {
        "steps": task.steps, "texture": task.texture, "preset": options.preset, "images": options.images,
        "variants": options.variants,
    }  # fmt: skip


def jobs(task: Task, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What is to be measured for a seed, by its name."""
    test = test_images(options, seed)
    arms = {f"arm {arm}": lambda arm=arm: measure_arm(task, arm, seed, options, *test) for arm in options.arms}
    return {
        "true images": lambda: measure_truth(options, *test),
        "smooth fill": lambda: measure_smooth(options, *test),
        **arms,
        "stages": lambda: measure_stages(task, options.arms[0], seed, *test),
        "known pixels": lambda: measure_known_pixels(task, options.arms[0], seed, *test),
    }


def test_images(options: argparse.Namespace, seed: int) -> tuple[Images, Mask, Any]:
    """Images that no training has seen, their holes, and the truth about them: scenes, or labels."""
    if options.task == "toy":
        scenes = make_scenes(options.images, TEST_SEED + seed)
        return scenes.images / 127.5 - 1, hole_mask(options.images), scenes
    from fashion_measures import real

    test = real("test", (32, 32)).select(range(options.images))
    masks = draw_masks(["centre", "half"], options.images, (32, 32), seeds.generator(seed, HOLES))
    return test.images / 127.5 - 1, masks, test.labels


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure_arm(
    task: Task, arm: str, seed: int, options: argparse.Namespace, images: Images, mask: Mask, truth: Any
) -> Figures:
    """Completions over drawn, true and shuffled structures."""
    networks = trained(task, arm, seed)
    count = 1 if networks.texture.structure is None else options.variants  # a single stage has one
    ids = drawn(task, networks, images, mask, options.variants, seed)[:, :count]
    flat = painted(networks, images.repeat_interleave(count, 0), mask.repeat_interleave(count, 0), ids.flatten(0, 1))
    variants = flat.unflatten(0, (-1, count))
    true = true_ids(networks, images)
    over = {"true": painted(networks, images, mask, true), "shuffled": painted(networks, images, mask, true.roll(3, 0))}
    figures = measure_variants(options, variants, images, mask, truth, ids.flatten(2))
    for name, completions in over.items():
        one = measure_variants(options, completions[:, None], images, mask, truth, true[:, None].flatten(2))
        figures |= {f"{name}_structure_{key}": value for key, value in one.items()}
    row = read_metrics(run_folder(task, arm.replace(" ", "-").replace(",", ""), "texture", seed) / "metrics.jsonl")
    logged = [line for line in row if "attention_self_weight" in line]
    return figures | {key: logged[-1][key] for key in ("attention_self_weight", "attention_entropy") if logged}


def measure_variants(
    options: argparse.Namespace, variants: Tensor, images: Images, mask: Mask, truth: Any, ids: Tensor
) -> Figures:
    """By the toy's reader, or by a classifier."""
    if isinstance(truth, Scenes):
        figures = toy_figures(variants, truth, mask, ids, images)
        return figures | {"right": reading_figures(variants[:, 0], truth)["right"]}
    return {
        **class_figures(variants, mask, truth),
        **fidelity_figures(variants, images, mask),
        **diversity_figures(variants, mask, ids),
    }


def class_figures(variants: Tensor, mask: Mask, labels: Tensor) -> Figures:
    """How often a completion is taken for its true class, of all holes and of each kind, and how many classes those of
    one image are taken for."""
    from fashion_measures import network

    flat = to_bytes(variants).flatten(0, 1)
    classes = network((32, 32)).logits(flat).argmax(-1).view(variants.shape[:2])
    distinct = [len(set(row)) for row in classes.tolist()]
    right = (classes == labels[:, None]).float().mean(1)
    half = mask.mean((1, 2, 3)) > 0.4
    return {
        "class_agreement": right.mean().item(),
        "class_agreement_centre": right[~half].mean().item(),
        "class_agreement_half": right[half].mean().item(),
        "distinct_classes": float(np.mean(distinct)),
    }


def measure_truth(options: argparse.Namespace, images: Images, mask: Mask, truth: Any) -> Figures:
    """The reader, or the classifier, on the true images: how good it can be."""
    ids = torch.zeros(len(images), 1, 1, dtype=torch.long)
    return measure_variants(options, images[:, None], images, mask, truth, ids)


def measure_smooth(options: argparse.Namespace, images: Images, mask: Mask, truth: Any) -> Figures:
    """The instant floor: the hole filled smoothly from around."""
    ids = torch.zeros(len(images), 1, 1, dtype=torch.long)
    return measure_variants(options, prefilled(images, mask)[:, None], images, mask, truth, ids)


@torch.no_grad()
def measure_stages(task: Task, arm: str, seed: int, images: Images, mask: Mask, truth: Any) -> Figures:
    """What each level of the VQ-VAE tells, and the bits that a structure token takes."""
    vqvae = trained(task, arm, seed).vqvae
    part = images.to(vqvae.device)
    found = vqvae.encode(part)
    top, bottom = vqvae.top.vectors(found.top_ids), vqvae.bottom.vectors(found.bottom_ids)
    levels = {"both": (top, bottom), "top": (top, bottom * 0), "bottom": (top * 0, bottom)}
    errors = {
        f"mse_{name}_levels": (vqvae.decode(*pair) - part).square().mean().item() for name, pair in levels.items()
    }
    rows = read_metrics(run_folder(task, "structure", "structure", seed) / "metrics.jsonl")
    bits = next(row for row in reversed(rows) if "validation_bits_per_token" in row)
    names = ("validation_bits_per_token", "validation_hole_bits_per_token", "validation_unigram_bits")
    return errors | {name: bits[name] for name in names}


def measure_known_pixels(task: Task, arm: str, seed: int, images: Images, mask: Mask, truth: Any) -> Figures:
    """Through the pipeline, as people use it, inside a larger picture: the largest change of a known pixel."""
    networks = trained(task, arm, seed)
    if networks.texture.structure is None:
        return {}
    worst = 0
    for number in range(8):
        picture = np.pad(to_bytes(images[number]).numpy(), ((0, 0), (7, 20), (11, 3)), mode="wrap").transpose(1, 2, 0)
        hole = np.zeros(picture.shape[:2], bool)
        hole[7 + FIRST : 7 + LAST, 11 + FIRST : 11 + LAST] = True
        for filled in networks.pipeline()(picture.squeeze(), hole, num_variants=2).images:
            change = np.abs(np.asarray(filled).astype(int) - picture.squeeze())
            worst = max(worst, int(change[~hole].max()))
    return {"largest_change_of_a_known_pixel": float(worst)}


if __name__ == "__main__":
    main()
