"""Our training step against diffusers' DiT of equal width, depth and tokens, with the same optimizer, in one run.

    python bench/train_step.py --output docs/results/train_step.md

Both sides get what our training loop sets for a CPU: threads that soon sleep, and freed memory that is kept.
Each model lives in a process of its own (so that its peak memory is its own); the processes take turns, a few steps
each, so that a busy machine slows all alike. Reported: median throughput over the turns, its ratio to diffusers', and
the peak memory above the imports.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from multiprocessing.connection import Connection

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as our commands do, for both sides
import torch
from measured import table, write_result

from workbench.allocator import keep_freed_memory

WIDTHS = {"tiny": (6, 4, 32), "smoke": (4, 2, 32), "S": (12, 6, 64)}  # layers, heads, head dim
ARMS = ("diffusers DiT fp32", "ours fp32", "diffusers DiT bf16", "ours bf16")


def main() -> None:
    """Measure and print; write the table where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=WIDTHS, default="tiny")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3, help="steps in a turn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", help="markdown file for the table")
    options = parser.parse_args()
    workers = {arm: Worker(arm, options) for arm in ARMS}
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for _ in range(options.turns):
        for arm, worker in workers.items():
            seconds[arm].append(worker.take_a_turn())
    facts = {arm: worker.stop() for arm, worker in workers.items()}
    write_result("Training step", __doc__ or "", result_table(options, seconds, facts), options.output)


def result_table(
    options: argparse.Namespace, seconds: dict[str, list[float]], facts: dict[str, tuple[int, float]]
) -> str:
    """One row for each arm; the ratio is to diffusers' DiT in fp32."""
    images = options.batch_size * options.steps
    base = statistics.median(seconds[ARMS[0]])
    rows = []
    for arm in ARMS:
        median, (parameters, megabytes) = statistics.median(seconds[arm]), facts[arm]
        spread = (max(seconds[arm]) - min(seconds[arm])) / median
        speed = f"{images / median:.0f}" if options.device != "cpu" else "-"
        rows.append([arm, f"{parameters:,}", speed, f"{base / median:.2f}", f"{spread:.0%}", f"{megabytes:.0f}"])
    heads = ["arm", "parameters", "images/s", "throughput ratio", "spread of turns", "peak memory, MB"]
    return (
        f"Preset {options.preset}, {options.resolution} px, batch {options.batch_size}, {options.device}.\n\n"
        + table(heads, rows)
    )


class Worker:
    """A process that owns one model and trains it when told to."""

    def __init__(self, arm: str, options: argparse.Namespace) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(
            target=work, args=(theirs, arm, options), daemon=True
        )
        self.process.start()
        self.take_a_turn()  # warm up

    def take_a_turn(self) -> float:
        """Seconds for one turn."""
        self.pipe.send("step")
        return float(self.pipe.recv())

    def stop(self) -> tuple[int, float]:
        """Number of parameters and peak memory in megabytes."""
        self.pipe.send("stop")
        facts: tuple[int, float] = self.pipe.recv()
        self.process.join()
        return facts


def work(pipe: Connection, arm: str, options: argparse.Namespace) -> None:
    """Body of a worker process."""
    keep_freed_memory()
    model, forward = build(arm, options)
    before = peak_megabytes(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = torch.randn(options.batch_size, 3, options.resolution, options.resolution, device=options.device)
    bf16 = arm.endswith("bf16")

    def step() -> None:
        with torch.autocast(options.device, torch.bfloat16, enabled=bf16):
            prediction = forward(images)
        (prediction.float() - images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    while pipe.recv() == "step":
        began = time.perf_counter()
        for _ in range(options.steps):
            step()
        if options.device == "cuda":
            torch.cuda.synchronize()
        pipe.send(time.perf_counter() - began)
    pipe.send((sum(p.numel() for p in model.parameters()), peak_megabytes(options.device) - before))


def build(arm: str, options: argparse.Namespace):
    """The model of an arm, and a function from images to predictions that also draws what a real step draws."""
    from diffusers import DiTTransformer2DModel

    from gen.rpe2d.positions import sample_positions
    from gen.rpe2d.transformer import RPE2DTransformer2DModel

    layers, heads, dim = WIDTHS[options.preset]
    size, batch, device = options.resolution, options.batch_size, options.device
    shape = {"num_layers": layers, "num_attention_heads": heads, "attention_head_dim": dim, "patch_size": 4}
    labels = torch.randint(10, (batch,), device=device)
    times = torch.randint(1000, (batch,), device=device)
    if arm.startswith("diffusers"):
        dit = DiTTransformer2DModel(in_channels=3, out_channels=3, sample_size=size, num_embeds_ada_norm=10, **shape)
        dit = dit.to(device)
        return dit, lambda images: dit(images, times, labels).sample
    ours = RPE2DTransformer2DModel(sample_size=(size, size), max_positions=(size // 2, size // 2), **shape).to(device)
    generator = torch.Generator(device)
    boxes = torch.rand(batch, 4, device=device)

    def forward(images: torch.Tensor) -> torch.Tensor:
        positions = tuple(sample_positions(batch, size // 4, size // 2, generator) for _ in range(2))
        return ours(images, times, labels, boxes, positions, return_dict=False)[0]

    return ours, forward


def peak_megabytes(device: str) -> float:
    """Peak memory of this process so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
