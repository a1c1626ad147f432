"""Speed and memory of RPE-2D against fixed positions, a sin-cos DiT and diffusers' DiT of equal size, in one run.

    python bench/rpe2d_speed.py --preset tiny --output docs/results/rpe2d_speed.md
    python bench/rpe2d_speed.py --preset S --output docs/results/rpe2d_speed_S2.md
    python bench/rpe2d_speed.py --preset XL --batch-size 64 --compile --output docs/results/rpe2d_speed_XL2_gpu.md

tiny is on pixels (32 px, patches of 4), the others on latents as of 256 px images (patches of 2 on 32 x 32 x 4). All
sides get what our training loop sets for a CPU: threads that soon sleep, and freed memory that is kept. Each model
lives in a process of its own (so that its peak memory is its own); the processes take turns, a few steps each, so that
a busy machine slows all alike. A training step is forward, backward and AdamW; a sampling step is one network call
without gradient. Reported: median throughput over the turns against diffusers' DiT in fp32, the median over turns of
the time against fixed RoPE in the same precision, and the peak memory above the imports. On a GPU also tokens per
second and the share of its peak bf16 rate (model-FLOP utilisation).
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as our commands do, for all sides
import torch
from measured import table, write_result

from gen.presets import PRESETS, forward_flops
from workbench.allocator import keep_freed_memory

MODELS = ("diffusers DiT", "sin-cos DiT", "fixed RoPE", "RPE-2D")
PRECISIONS = ("fp32", "bf16")
KINDS = ("train", "sample")
PEAK_BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # FLOP/s, dense


class Shape(NamedTuple):
    """Side and channels of the input, and the side of its patches."""

    side: int
    channels: int
    patch: int

    @property
    def tokens(self) -> int:
        """Number of patches."""
        return (self.side // self.patch) ** 2


def main() -> None:
    """Measure and print; write the table where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--batch-size", type=int, help="64 images, or 8 on a CPU's S and larger")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3, help="steps in a turn")
    parser.add_argument("--compile", action="store_true", help="compile the blocks of our models")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", help="markdown file for the table")
    options = parser.parse_args()
    small = options.preset in ("smoke", "tiny")
    options.shape = Shape(32, 3, 4) if small else Shape(32, 4, 2)
    options.batch_size = options.batch_size or (64 if small or options.device != "cpu" else 8)
    arms = [(model, precision) for precision in PRECISIONS for model in MODELS]
    workers = {arm: Worker(*arm, options) for arm in arms}
    seconds: dict[Any, list[float]] = {(arm, kind): [] for arm in arms for kind in KINDS}
    for _ in range(options.turns):
        for kind in KINDS:
            for arm, worker in workers.items():
                seconds[arm, kind].append(worker.take_a_turn(kind))
    facts = {arm: worker.stop() for arm, worker in workers.items()}
    write_result("Speed of RPE-2D", __doc__ or "", result(options, seconds, facts), options.output)


def result(options: argparse.Namespace, seconds: dict[Any, list[float]], facts: dict[Any, tuple[int, float]]) -> str:
    """A table for training and one for sampling."""
    shape = options.shape
    parts = [
        f"Preset {options.preset}, {shape.tokens} tokens of {shape.patch}x{shape.patch}x{shape.channels}, "
        f"batch {options.batch_size}, {options.device}{', compiled' if options.compile else ''}, "
        f"{options.turns} turns of {options.steps} steps."
    ]
    for kind in KINDS:
        heads = ["model", "precision", "parameters", "throughput / DiT fp32", "time / fixed RoPE", "spread of turns"]
        heads += ["peak memory, MB"] if kind == "train" else []
        heads += ["tokens/s", "utilisation"] if options.device != "cpu" else []
        rows = [row(options, kind, arm, seconds, facts[arm]) for arm in facts]
        parts += [f"## {'Training' if kind == 'train' else 'Sampling'} step", table(heads, rows)]
    return "\n\n".join(parts)


def row(
    options: argparse.Namespace,
    kind: str,
    arm: tuple[str, str],
    seconds: dict[Any, list[float]],
    facts: tuple[int, float],
) -> list[str]:
    """What is told of one model."""
    mine, median = seconds[arm, kind], statistics.median(seconds[arm, kind])
    base = statistics.median(seconds[(MODELS[0], "fp32"), kind])
    fixed = seconds[("fixed RoPE", arm[1]), kind]
    ratio = statistics.median(a / b for a, b in zip(mine, fixed, strict=True))
    cells = [*arm, f"{facts[0]:,}", f"{base / median:.2f}", f"{ratio:.3f}", f"{(max(mine) - min(mine)) / median:.0%}"]
    cells += [f"{facts[1]:.0f}"] if kind == "train" else []
    if options.device != "cpu":
        images = options.batch_size * options.steps / median
        flops = forward_flops(PRESETS[options.preset], options.shape.tokens) * (3 if kind == "train" else 1)
        cells += [f"{images * options.shape.tokens:,.0f}", f"{images * flops / peak_rate():.0%}"]
    return cells


def peak_rate() -> float:
    """The GPU's dense bf16 rate as its maker states it; NaN for one that is not listed."""
    name = torch.cuda.get_device_name()
    return next((rate for key, rate in PEAK_BF16.items() if key in name), float("nan"))


class Worker:
    """A process that owns one model and works when told to."""

    def __init__(self, model: str, precision: str, options: argparse.Namespace) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(
            target=work, args=(theirs, model, precision, options), daemon=True
        )
        self.process.start()
        for kind in KINDS:  # warm up
            self.take_a_turn(kind)

    def take_a_turn(self, kind: str) -> float:
        """Seconds for one turn of a kind."""
        self.pipe.send(kind)
        return float(self.pipe.recv())

    def stop(self) -> tuple[int, float]:
        """Number of parameters and peak memory in megabytes."""
        self.pipe.send("stop")
        facts: tuple[int, float] = self.pipe.recv()
        self.process.join()
        return facts


def work(pipe: Connection, name: str, precision: str, options: argparse.Namespace) -> None:
    """Body of a worker process."""
    keep_freed_memory()
    model, forward = build(name, options)
    before = peak_megabytes(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = torch.randn(options.batch_size, options.shape.channels, *[options.shape.side] * 2, device=options.device)

    def predict() -> torch.Tensor:
        with torch.autocast(options.device, torch.bfloat16, enabled=precision == "bf16"):
            return forward(images)

    def train() -> None:
        (predict().float() - images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    steps = {"train": train, "sample": torch.no_grad()(predict)}
    while (kind := pipe.recv()) in steps:
        began = time.perf_counter()
        for _ in range(options.steps):
            steps[kind]()
        if options.device == "cuda":
            torch.cuda.synchronize()
        pipe.send(time.perf_counter() - began)
    pipe.send((sum(p.numel() for p in model.parameters()), peak_megabytes(options.device) - before))


def build(name: str, options: argparse.Namespace) -> tuple[Any, Any]:
    """The model of an arm, and a function from images to predictions that also draws what a real step draws."""
    from diffusers import DiTTransformer2DModel

    from gen.rpe2d.positions import sample_positions
    from gen.rpe2d.transformer import RPE2DTransformer2DModel

    side, channels, patch = options.shape
    batch, device, grid = options.batch_size, options.device, side // patch
    shape = {**PRESETS[options.preset]._asdict(), "patch_size": patch, "in_channels": channels}
    labels = torch.randint(10, (batch,), device=device)
    times = torch.randint(1000, (batch,), device=device)
    if name == "diffusers DiT":
        dit = DiTTransformer2DModel(out_channels=channels, sample_size=side, num_embeds_ada_norm=10, **shape).to(device)
        return dit, lambda images: dit(images, times, labels).sample
    most = 2 * grid if name == "RPE-2D" else grid
    encoding = "sincos" if name == "sin-cos DiT" else "rope"
    ours = RPE2DTransformer2DModel(
        sample_size=(side, side), max_positions=(most, most), pos_embed_type=encoding, **shape
    ).to(device)
    if options.compile:
        ours.compile_repeated_blocks(fullgraph=True)
    generator = torch.Generator(device)
    boxes = torch.rand(batch, 4, device=device)
    fixed = (torch.arange(grid, device=device), torch.arange(grid, device=device))

    def forward(images: torch.Tensor) -> torch.Tensor:
        drawn = name == "RPE-2D" and torch.is_grad_enabled()
        positions = tuple(sample_positions(batch, grid, most, generator) for _ in range(2)) if drawn else fixed
        return ours(images, times, labels, boxes, positions, return_dict=False)[0]

    return ours, forward


def peak_megabytes(device: str) -> float:
    """Peak memory of this process so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
