"""Memory and time of the matching gradient: the exact adjoint against automatic differentiation of all steps.

    python bench/ftd_memory.py --output docs/results/ftd_memory.md
    python bench/ftd_memory.py --images 500 --turns 5 --output docs/results/ftd_memory_gpu.md

As for CIFAR-10 with 10 images a class unless told otherwise: the ConvNet of width 128, and all images in every step.
Each gradient is computed in a process of its own, first for its memory and then again for its time; arms take turns, so
that a busy machine slows all alike. Memory is the peak above what the process had before (on a GPU, of torch's
allocator); "kept for backward" is the most that autograd held at any time, counted tensor by tensor. Aims: at most 1.1
times the memory from 10 to 80 steps; and at 30 steps at least 8 times less than automatic differentiation, in at most
1.6 times its time.
"""

import argparse
import math
import multiprocessing
import resource
import statistics
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch
from measured import table, write_result
from torch import Tensor

from distill import augment
from distill.flat import FlatNetwork
from distill.nets import NetworkSpec, build_network
from distill.unroll import gradients
from workbench import seeds
from workbench.allocator import keep_freed_memory

STRATEGY = "color_crop_cutout_flip_scale_rotate"


class Arm(NamedTuple):
    """How a gradient is computed, over how many steps."""

    name: str
    steps: int
    mode: str
    keep_every: int = 1


class Measured(NamedTuple):
    """Of one gradient."""

    seconds: float
    peak: float  # megabytes
    kept: float  # megabytes that autograd held


def main() -> None:
    """Measure and print; write the table where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 30, 80])
    parser.add_argument("--unrolled", type=int, nargs="+", default=[10, 30], help="steps of automatic differentiation")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", help="markdown file for the table")
    options = parser.parse_args()
    arms = [Arm("automatic differentiation", steps, "autograd") for steps in options.unrolled]
    arms += [Arm("adjoint", steps, "adjoint") for steps in options.steps]
    arms += [Arm("adjoint, every fourth vector kept", steps, "adjoint", 4) for steps in options.steps]
    found: dict[Arm, list[Measured]] = {arm: [] for arm in arms}
    for turn in range(options.turns):
        for arm in arms:
            found[arm].append(measure(arm, options, kept=turn == 0))
            print(f"turn {turn + 1}: {arm.name}, {arm.steps} steps: {found[arm][-1]}", flush=True)
    write_result("Memory of trajectory matching", __doc__ or "", result(options, found), options.output)


def result(options: argparse.Namespace, found: dict[Arm, list[Measured]]) -> str:
    """A row an arm."""
    about = (
        f"{options.images} images of {options.channels}x{options.side}x{options.side}, ConvNet of width "
        f"{options.width} and depth {options.depth}, {options.device}; medians of {options.turns} turns."
    )
    heads = ["gradient", "steps", "peak, MB", "/ fewest steps", "automatic / this", "kept for backward, MB",
             "time / automatic"]  # fmt: skip
    peaks = {arm: statistics.median(one.peak for one in turns) for arm, turns in found.items()}
    rows = []
    for arm, turns in found.items():
        fewest = next(other for other in found if other.name == arm.name)
        rival = next((other for other in found if other.mode == "autograd" and other.steps == arm.steps), None)
        cells = [arm.name, str(arm.steps), f"{peaks[arm]:.0f}", f"{peaks[arm] / peaks[fewest]:.2f}"]
        cells += [f"{peaks[rival] / peaks[arm]:.1f}" if rival else "", f"{turns[0].kept:.0f}"]
        ratios = [one.seconds / other.seconds for one, other in zip(turns, found[rival], strict=True)] if rival else []
        rows.append([*cells, f"{statistics.median(ratios):.2f}" if ratios else ""])
    return f"{about}\n\n{table(heads, rows)}"


def measure(arm: Arm, options: argparse.Namespace, kept: bool) -> Measured:
    """One gradient, in a fresh process; what autograd held is the same every time, and counted where `kept`."""
    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(theirs, arm, options, kept))
    process.start()
    theirs.close()
    measured: Measured = mine.recv()
    process.join()
    return measured


def work(pipe: Connection, arm: Arm, options: argparse.Namespace, kept: bool) -> None:
    """Body of the fresh process."""
    keep_freed_memory()
    run = problem(arm, options)
    before = peak_megabytes(options.device)
    run()
    peak = peak_megabytes(options.device) - before
    began = time.perf_counter()
    run()
    if options.device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    pipe.send(Measured(seconds, peak, kept_megabytes(run) if kept else math.nan))


def problem(arm: Arm, options: argparse.Namespace) -> Callable[[], object]:
    """A gradient of random images to be computed."""
    generator, size = seeds.generator(0), (options.side, options.side)
    spec = NetworkSpec("convnet", options.classes, options.channels, size, options.width, options.depth)
    network = FlatNetwork(build_network(spec))
    start = network.initial(generator).to(options.device)
    target = start + 0.01 * torch.randn(len(start), generator=generator).to(options.device)
    images = torch.randn(options.images, options.channels, *size, generator=generator).to(options.device)
    labels = torch.arange(options.images, device=options.device) % options.classes
    batches = [torch.arange(options.images, device=options.device)] * arm.steps
    draws = [augment.draw(STRATEGY, options.images, size, generator) for _ in range(arm.steps)]
    draws = [drawn.to(torch.device(options.device)) for drawn in draws]
    step_size = torch.tensor(0.01, device=options.device)
    return lambda: gradients(
        network, start, target, images, labels, step_size, batches, draws, arm.mode, keep_every=arm.keep_every
    )


def peak_megabytes(device: str) -> float:
    """Peak memory of this process so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def kept_megabytes(run: Callable[[], object]) -> float:
    """The most that autograd has kept for later at any time; what is kept twice counts once."""
    keepers: Counter[int] = Counter()
    alive = most = 0

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal alive, most
            self.tensor = tensor
            self.storage, self.bytes = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
            alive += self.bytes if not keepers[self.storage] else 0
            keepers[self.storage] += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            keepers[self.storage] -= 1
            alive -= self.bytes if not keepers[self.storage] else 0

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        run()
    return most / 1e6


if __name__ == "__main__":
    main()
