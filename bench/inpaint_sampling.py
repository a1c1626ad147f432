"""Speed of the incremental structure sampler against running the whole network again for every token, in one run.

    python bench/inpaint_sampling.py --output docs/results/inpaint_sampling.md
    python bench/inpaint_sampling.py --device cuda --output docs/results/inpaint_sampling_gpu.md

Sampling: the autoregressive network of a preset on maps of 8x8, 16x16 and 32x32 tokens, with 1 and 8 variants; both
sides get the condition and the folded weights for nothing, and draw all variants in one batch. The naive side runs the
whole network once for each token: some of these passes are timed, in turns with the incremental side, and multiplied by
the number of tokens; on the smallest map all of them are run as well, which shows what the multiplication is worth.
Completions: the whole pipeline of each preset, 6 variants of one picture with a hole in the centre. Weights are random
in both: they change no time. Each figure is kept beside the table as it comes (docs/results/inpaint_sampling.jsonl).
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as our commands do
import numpy as np
import torch
import torch.nn.functional as F
from kept import Kept, Settings
from measured import table, write_result
from torch import Tensor

from gen.inpaint.pipeline import DiverseInpaintPipeline
from gen.inpaint.presets import PRESETS
from gen.inpaint.sampler import IncrementalSampler, gumbel_noise, sample
from gen.inpaint.structure import StructureModel
from gen.inpaint.texture import TextureGenerator
from gen.inpaint.vqvae import HierarchicalVQVAE
from workbench.allocator import keep_freed_memory

SIDES, COUNTS = (8, 16, 32), (1, 8)
RESOLUTIONS = {"tiny32": 32, "px64": 64, "px256": 256}
VARIANTS = 6
KEPT = Path("docs/results/inpaint_sampling.jsonl")
Figures = dict[str, float]


@torch.no_grad()
def main() -> None:
    """Measure what is missing; then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="px256", help="whose network is sampled")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of a CPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kept", type=Path, default=KEPT, help="figures so far")
    parser.add_argument("--output", help="markdown file for the table")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    kept = Kept(options.kept)
    shared = {"device": options.device, "threads": options.threads, "turns": options.turns}
    sampling = [
        {"what": "sampling", "preset": options.preset, "side": side, "num_variants": count, **shared}
        for side in SIDES
        for count in COUNTS
    ]
    completing: list[Settings] = [{"what": "completing", "preset": preset, **shared} for preset in RESOLUTIONS]
    body = "\n\n".join([
        f"{options.threads} threads, {options.turns} turns, medians. Sampling with the network of {options.preset}:",
        sampling_table([(settings, found(kept, settings, time_sampling)) for settings in sampling]),
        f"Whole completions, {VARIANTS} variants of one picture:",
        completing_table([(settings, found(kept, settings, time_completing)) for settings in completing]),
    ])  # fmt: skip
    write_result("Sampling structures for inpainting", __doc__ or "", body, options.output)


def found(kept: Kept, settings: Settings, measure: Callable[[Settings], Figures]) -> Figures:
    """Figures that are kept, or measured now and kept."""
    figures = kept.find(settings)
    if figures is None:
        figures = measure(settings)
        kept.add(settings, figures)
        print(settings, figures, flush=True)
    return figures


# ---- sampling --------------------------------------------------------------------------------------------------------


def time_sampling(settings: Settings) -> Figures:
    """Seconds for all variants, of both sides, and by how much their logits differ."""
    side, count, device = settings["side"], settings["num_variants"], settings["device"]
    model = structure_model(settings["preset"]).to(device)
    codes = torch.randn(model.config.num_codes, model.config.code_dim, device=device)
    h = torch.randn(1, model.config.condition_width * model.config.factor, side, side, device=device)
    generators = [torch.Generator().manual_seed(k) for k in range(count)]
    noise = torch.stack([gumbel_noise((side, side), len(codes), generator) for generator in generators]).to(device)
    free = torch.full((count, side, side), -1)
    sampler = IncrementalSampler(model, codes, h)
    ids = sampler.draw(noise, free).ids  # a warm-up; on a GPU it records the rows
    incremental, naive = [], []
    for _ in range(settings["turns"]):
        incremental.append(seconds(lambda: sampler.draw(noise, free), device))
        naive.append(seconds(lambda: full_logits(model, codes, ids, h), device))
    expected = full_logits(model, codes, ids, h)
    figures = {
        "incremental": statistics.median(incremental),
        "naive": statistics.median(naive) * side**2,
        "difference": float((sampler.teacher_forced_logits(ids) - expected).abs().max() / expected.std()),
    }
    if side == SIDES[0]:
        figures["naive_run"] = seconds(lambda: sample_naively(model, codes, h, noise), device)
    return figures


def full_logits(model: StructureModel, codes: Tensor, ids: Tensor, h: Tensor) -> Tensor:
    """By the whole network: (n, ht, wt, k)."""
    return model.logits(F.embedding(ids, codes).movedim(-1, 1), h).movedim(1, -1)


def sample_naively(model: StructureModel, codes: Tensor, h: Tensor, noise: Tensor) -> Tensor:
    """The whole network again for each token."""
    ids = torch.zeros(noise.shape[:3], dtype=torch.int64, device=noise.device)
    for row in range(noise.shape[1]):
        for column in range(noise.shape[2]):
            logits = full_logits(model, codes, ids, h)[:, row, column]
            ids[:, row, column] = (logits + noise[:, row, column]).argmax(-1)
    return ids


def structure_model(preset: str) -> StructureModel:
    """With random weights."""
    torch.manual_seed(0)
    shape = PRESETS[preset].vqvae
    model = StructureModel(
        num_codes=shape.num_codes, code_dim=shape.code_dim, factor=shape.factor, **PRESETS[preset].structure._asdict()
    )  # fmt: skip
    return model.eval()


def seconds(work: Callable[[], Any], device: str) -> float:
    """Of one call."""
    began = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def sampling_table(rows: list[tuple[Settings, Figures]]) -> str:
    """A line for each map and number of variants."""
    heads = ["tokens", "variants", "naive, s", "(all passes run)", "incremental, s", "times faster", "per variant, s",
             "logits differ by, in standard deviations"]  # fmt: skip
    lines = []
    for settings, figures in rows:
        side, count, fast = settings["side"], settings["num_variants"], figures["incremental"]
        whole = f"{figures['naive_run']:.2f}" if "naive_run" in figures else ""
        lines.append([
            f"{side}x{side}", str(count), f"{figures['naive']:.2f}", whole, f"{fast:.2f}",
            f"{figures['naive'] / fast:.0f}", f"{fast / count:.3f}", f"{figures['difference']:.0e}",
        ])  # fmt: skip
    return table(heads, lines)


# ---- completions -----------------------------------------------------------------------------------------------------


def time_completing(settings: Settings) -> Figures:
    """Seconds for a picture and its mask, as a person waits for them, and for the structures alone."""
    device, side = settings["device"], RESOLUTIONS[settings["preset"]]
    pipe = pipeline(settings["preset"], side).to(device)
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    mask = np.zeros((side, side), dtype=np.uint8)
    mask[side // 4 : side * 3 // 4, side // 4 : side * 3 // 4] = 255
    pipe(picture, mask, num_variants=1)
    whole = [seconds(lambda: pipe(picture, mask, num_variants=VARIANTS), device) for _ in range(settings["turns"])]
    images = torch.zeros(1, 3, side, side, device=device)

    def structures() -> None:
        h = pipe.structure.condition(images, images[:, :1])
        generators = [torch.Generator().manual_seed(k) for k in range(VARIANTS)]
        sample(pipe.structure, pipe.vqvae.top.codebook, h, VARIANTS, generators)

    return {
        "whole": statistics.median(whole),
        "structures": statistics.median(seconds(structures, device) for _ in range(settings["turns"])),
    }


def pipeline(preset: str, side: int) -> DiverseInpaintPipeline:
    """With random weights."""
    shape = PRESETS[preset]
    vqvae = HierarchicalVQVAE(**shape.vqvae._asdict()).eval()
    structure = structure_model(preset)
    texture = TextureGenerator(
        sample_size=(side, side), structure_dim=shape.vqvae.code_dim, first_stride=shape.texture.first_stride,
        width=shape.texture.width,
    ).eval()  # fmt: skip
    for model in (structure, texture):
        model.register_to_config(codebook_hash=vqvae.codebook_hash(), mask_kinds=("centre",))
    pipe = DiverseInpaintPipeline(vqvae, structure, texture)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def completing_table(rows: list[tuple[Settings, Figures]]) -> str:
    """A line for each preset."""
    heads = ["preset", "pixels", "structures, s", "whole, s", "per variant, s"]
    lines = []
    for settings, figures in rows:
        side = RESOLUTIONS[settings["preset"]]
        lines.append([settings["preset"], f"{side}x{side}", f"{figures['structures']:.2f}", f"{figures['whole']:.2f}",
                      f"{figures['whole'] / VARIANTS:.2f}"])  # fmt: skip
    return table(heads, lines)


if __name__ == "__main__":
    main()
