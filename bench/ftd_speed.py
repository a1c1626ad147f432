"""Speed of distillation: experts, matching and evaluation, each against the published procedure, in one run.

    python bench/ftd_speed.py --output docs/results/ftd_speed.md
    python bench/ftd_speed.py --width 32 --side 28 --channels 1 --compile --output docs/results/ftd_speed.md

Sides take turns, so that a busy machine slows all alike, and the ratio of each turn is taken. All have what our
training loop sets for a CPU: threads that soon sleep, and freed memory that is kept. "The published procedure" is in
bench/ftd_port.py: one network after another, batches collated image by image, automatic differentiation of all steps.
"In turn" and "side by side" (vmap) are our two ways with several networks; a CPU takes the first, a GPU the second, and
both take bf16 products where the machine has them (`--mixed-precision auto`).
Times are of one step of one expert; of one gradient of a match; of one step of one network on the set.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as our commands do, for all sides
import ftd_port
import torch
from measured import table, write_result
from torch import Tensor

from distill import augment
from distill.config import Precision
from distill.ensemble import in_turn, side_by_side
from distill.evaluate import cross_entropy
from distill.flat import FlatNetwork
from distill.nets import NetworkSpec, build_network
from distill.sharpness import flat_direction
from distill.unroll import gradients
from workbench import seeds
from workbench.allocator import keep_freed_memory

PORT = "published procedure"
Turn = Callable[[], object]


def main() -> None:
    """Measure and print; write the table where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--images-per-class", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--batch-size", type=int, default=256, help="of experts")
    parser.add_argument("--networks", type=int, default=5, help="experts, or networks that are evaluated, together")
    parser.add_argument("--synthetic-steps", type=int, default=10)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="also the compiled adjoint")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", help="markdown file for the table")
    options = parser.parse_args()
    keep_freed_memory()
    bench = Bench(options)
    parts = [bench.about()]
    for flat in (False, True):
        parts += [f"## Experts, {'gsam' if flat else 'plain'} steps", measure(bench.experts(flat), options)]
    for count in options.images_per_class:
        parts += [f"## Matching, {count} images a class", measure(bench.matching(count), options)]
        parts += [f"## Evaluation, {count} images a class", measure(bench.evaluation(count), options)]
    write_result("Speed of distillation", __doc__ or "", "\n\n".join(parts), options.output)


def measure(sides: dict[str, tuple[Turn, int]], options: argparse.Namespace) -> str:
    """A table of seconds a unit of work; each side comes with the number of units that its turn does."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-2, options.turns):  # two to warm up
        for name, (side, units) in sides.items():
            began = time.perf_counter()
            side()
            if options.device == "cuda":
                torch.cuda.synchronize()
            if turn >= 0:
                seconds[name].append((time.perf_counter() - began) / units)
    rows = []
    for name, mine in seconds.items():
        ratios = [theirs / own for theirs, own in zip(seconds[PORT], mine, strict=True)]
        spread = (max(mine) - min(mine)) / statistics.median(mine)
        rows.append([name, f"{statistics.median(mine) * 1e3:.1f}", f"{statistics.median(ratios):.2f}", f"{spread:.0%}"])
        print(rows[-1], flush=True)
    return table(["side", "ms", "times as fast as the published procedure", "spread of turns"], rows)


class Bench:
    """The network and random images of the options' size."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.device = options, torch.device(options.device)
        self.size = (options.side, options.side)
        self.spec = NetworkSpec("convnet", options.classes, options.channels, self.size, options.width, options.depth)
        self.network = FlatNetwork(build_network(self.spec))
        first = [self.network.initial(seeds.generator(k)) for k in range(options.networks)]
        self.thetas = torch.stack(first).to(self.device)

    def about(self) -> str:
        """What is measured."""
        options = self.options
        return (
            f"ConvNet of width {options.width} and depth {options.depth}, {options.channels}x{options.side}x"
            f"{options.side}, {options.device} ({torch.get_num_threads()} threads); {options.networks} networks "
            f"together; matching of {options.synthetic_steps} steps on all images; {options.turns} turns."
        )

    def images(self, count: int) -> tuple[Tensor, Tensor]:
        """Random images with labels."""
        shape = (count, self.options.channels, *self.size)
        labels = torch.arange(count, device=self.device) % self.options.classes
        return torch.randn(shape, generator=seeds.generator(1)).to(self.device), labels

    # ---- experts and evaluation --------------------------------------------------------------------------------------

    def experts(self, flat: bool) -> dict[str, tuple[Turn, int]]:
        """One step of each expert on a batch of 4,096 real images."""
        data, batch = self.images(4096), self.options.batch_size
        port_step = ftd_port.flat_step if flat else ftd_port.train_step

        def update(thetas: Tensor, find: Callable[[Tensor], Tensor]) -> Tensor:
            return thetas - 0.01 * flat_direction(find, thetas, "gsam" if flat else "none", 0.05, 0.3, False)

        return self._training(data, batch, port_step, update)

    def evaluation(self, images_per_class: int) -> dict[str, tuple[Turn, int]]:
        """One step of each network on the distilled set, or on a batch of 256 of it."""
        data = self.images(images_per_class * self.options.classes)
        return self._training(data, min(256, len(data[1])), ftd_port.train_step, lambda t, find: t - 0.01 * find(t))

    def _training(
        self, data: tuple[Tensor, Tensor], batch: int, port_step: Any, update: Callable[[Tensor, Any], Tensor]
    ) -> dict[str, tuple[Turn, int]]:
        count, generator = self.options.networks, seeds.generator(2)
        networks = [build_network(self.spec).to(self.device) for _ in range(count)]
        optimizers = [torch.optim.SGD(network.parameters(), 0.01, momentum=0.9) for network in networks]
        streams = [ftd_port.endless(ftd_port.loader(*data, batch)) for _ in range(count)]

        def port() -> None:
            for network, optimizer, stream in zip(networks, optimizers, streams, strict=True):
                port_step(network, optimizer, *next(stream), self.options.device)

        def ours(way: Callable[..., Any], precision: Precision = "no") -> None:
            rows = torch.randint(len(data[1]), (count, batch), generator=generator).to(self.device)
            draws = [augment.draw(ftd_port.STRATEGY, batch, self.size, generator) for _ in range(count)]
            images = torch.stack([augment.apply(data[0][own], drawn) for own, drawn in zip(rows, draws, strict=True)])
            loss = cross_entropy(self.network, precision)
            update(self.thetas, lambda thetas: way(loss, thetas, images, data[1][rows])[0])

        return {
            PORT: (port, count),
            "in turn": (lambda: ours(in_turn), count),
            "in turn, bf16 products": (lambda: ours(in_turn, "bf16"), count),
            "side by side": (lambda: ours(side_by_side), count),
            "side by side, bf16 products": (lambda: ours(side_by_side, "bf16"), count),
        }

    # ---- matching ----------------------------------------------------------------------------------------------------

    def matching(self, images_per_class: int) -> dict[str, tuple[Turn, int]]:
        """One gradient of a match."""
        options, generator = self.options, seeds.generator(3)
        images, labels = self.images(images_per_class * options.classes)
        start = self.thetas[0]
        target = start + 0.01 * torch.randn(len(start), generator=generator).to(self.device)
        step_size, module = torch.tensor(0.01, device=self.device), build_network(self.spec).to(self.device)

        def port() -> None:
            ftd_port.match_step(module, start, target, images, labels, step_size, options.synthetic_steps)

        def ours(**changes: Any) -> None:
            steps = range(options.synthetic_steps)
            batches = [torch.randperm(len(labels), generator=generator).to(self.device) for _ in steps]
            draws = [augment.draw(ftd_port.STRATEGY, len(labels), self.size, generator) for _ in steps]
            draws = [drawn.to(self.device) for drawn in draws]
            gradients(self.network, start, target, images, labels, step_size, batches, draws, **changes)

        sides: dict[str, tuple[Turn, int]] = {PORT: (port, 1), "adjoint": (ours, 1)}
        sides["adjoint, every fourth vector kept"] = (lambda: ours(keep_every=4), 1)
        sides["frozen (TESLA)"] = (lambda: ours(mode="frozen"), 1)
        if options.compile:
            sides["adjoint, compiled"] = (lambda: ours(compiled=True), 1)
        return sides


if __name__ == "__main__":
    main()
