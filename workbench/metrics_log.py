"""What a run says of itself while it trains: means over a window of steps, speed, and metrics.jsonl."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.files import write_atomic


class MetricsLog:
    """One JSON line per call, appended. Lines after step `keep_up_to` are dropped first: those steps come again.

    `last` holds the newest value of every figure.
    """

    def __init__(self, path: Path, keep_up_to: int, active: bool = True) -> None:
        self.path, self.active = path, active
        self.last: dict[str, Any] = {}
        if active and path.exists():
            kept = [row for row in read_metrics(path) if row["step"] <= keep_up_to]
            write_atomic(path, "".join(json.dumps(row) + "\n" for row in kept))
            for row in kept:
                self.last |= row

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Append the figures of one step."""
        row = {"step": step, **figures}
        self.last |= row
        if self.active:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line that was cut short is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


class Window:
    """Sums of figures, skipped steps and times since the last line of the log."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self.sums: dict[str, Tensor] = {}
        self.good = self.skipped = self.timed = 0
        self.began, self.compute = time.perf_counter(), 0.0

    def add(self, figures: Mapping[str, Tensor], finite: bool) -> None:
        """Count one step; the figures of a skipped one are left out of the means."""
        self.timed += 1
        self.good += finite
        self.skipped += not finite
        if finite:
            for key, value in figures.items():
                self.sums[key] = self.sums.get(key, torch.zeros((), device=self.device)) + value.float()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Count the time inside as forward and backward."""
        began = time.perf_counter()
        yield
        self.compute += time.perf_counter() - began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time inside."""
        began = time.perf_counter()
        yield
        self.began += time.perf_counter() - began

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to end this window as if it had not been stopped."""
        return {"sums": {k: v.item() for k, v in self.sums.items()}, "good": self.good, "skipped": self.skipped}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up a window at `state`; its time begins now."""
        self.restart()
        self.sums = {key: torch.tensor(value, device=self.device) for key, value in state["sums"].items()}
        self.good, self.skipped = state["good"], state["skipped"]

    def means(self) -> dict[str, Tensor]:
        """Mean figures of the steps that were not skipped."""
        return {key: total / self.good for key, total in self.sums.items()}

    def speed(self, batch_size: int) -> dict[str, float]:
        """Images per second; on a CPU also the share of time outside forward and backward."""
        elapsed = max(time.perf_counter() - self.began, 1e-9)
        figures = {"images_per_second": self.timed * batch_size / elapsed}
        if self.device.type == "cpu":
            figures["overhead_share"] = 1 - self.compute / elapsed
        return figures
