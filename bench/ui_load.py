"""Several people at once: does the browser app serve all of them, in turn, in the same memory?

python bench/ui_load.py --clients 8 --seconds 600 --output docs/results/ui_load.md
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import psutil
import tyro
from measured import table, write_result

GENERATE: tuple[Any, ...] = ("zoo:fashion-rpe2d", [], [], 4, 4, None, "the model's own", 0)
BROWSE = ("fashion-mnist:extract", "test", "all classes", 1)
MEGABYTE = 2**20


@dataclass
class LoadConfig:
    """How many, for how long."""

    clients: int = 8
    seconds: float = 600.0
    port: int = 7871
    output: str | None = None


@dataclass
class Visit:
    """What one client met with."""

    waits: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def main(config: LoadConfig) -> None:
    """Serve, visit, and write the table."""
    with tempfile.TemporaryDirectory() as folder, serving(folder, config.port) as server:
        address = f"http://127.0.0.1:{config.port}"
        idle = memory(server)
        visits = [Visit() for _ in range(config.clients)]
        warm(address)
        begun, start = memory(server), time.monotonic()
        until = start + config.seconds
        threads = [threading.Thread(target=visit, args=(address, one, until)) for one in visits]
        for thread in threads:
            thread.start()
        seen: list[Seen] = []
        while any(thread.is_alive() for thread in threads):
            seen.append(Seen(time.monotonic() - start, memory(server), sum(len(one.waits) for one in visits)))
            time.sleep(1.0)
    write_result("The browser app under load", __doc__, report(config, visits, idle, begun, seen), config.output)


class Seen(NamedTuple):
    """The server at a moment: seconds since the start, megabytes, and images asked for so far."""

    seconds: float
    memory: float
    turns: int


@contextmanager
def serving(folder: str, port: int) -> Iterator[psutil.Process]:
    """The app in a process of its own, once it answers."""
    import httpx

    process = subprocess.Popen([sys.executable, "-m", "ui.cli", "ui", folder, "--port", str(port)])
    try:
        for _ in range(600):
            try:
                httpx.get(f"http://127.0.0.1:{port}", timeout=5)
                break
            except httpx.HTTPError:
                time.sleep(0.5)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def memory(server: psutil.Process) -> float:
    """Resident, in megabytes."""
    return server.memory_info().rss / MEGABYTE


def warm(address: str) -> None:
    """The first click opens the model, which is no part of the measurement."""
    from gradio_client import Client

    Client(address, verbose=False).predict(*GENERATE, api_name="/generate")


def visit(address: str, found: Visit, until: float) -> None:
    """Generate and browse in turn until the time is over."""
    from gradio_client import Client

    client = Client(address, verbose=False)
    while time.monotonic() < until:
        for words, name in ((GENERATE, "/generate"), (BROWSE, "/browse")):
            began = time.perf_counter()
            try:
                client.predict(*words, api_name=name)
            except Exception as error:  # whatever fails is a failure of the app
                found.failures.append(f"{name}: {error}")
            if name == "/generate":
                found.waits.append(time.perf_counter() - began)


def report(config: LoadConfig, visits: list[Visit], idle: float, begun: float, seen: list[Seen]) -> str:
    """Each client's turns and waits, and the memory in each minute."""
    rows = [
        [str(number), str(len(one.waits)), f"{statistics.median(one.waits):.1f}" if one.waits else "none",
         f"{max(one.waits, default=0):.1f}", str(len(one.failures))]
        for number, one in enumerate(visits)
    ]  # fmt: skip
    turns = [len(one.waits) for one in visits]
    minutes = groupby(seen, lambda one: int(one.seconds // 60) + 1)
    by_minute = [[str(minute), f"{max(one.memory for one in during):.0f}"] for minute, during in minutes]
    late = [one for one in seen if one.seconds >= config.seconds / 2]
    lines = [
        table(["client", "generated", "median wait (s)", "longest wait (s)", "failures"], rows),
        f"A turn is a click for 4 generated images, and one for a page of a data set: {min(turns)} to {max(turns)} of "
        f"each client in {config.seconds:g} s.",
        f"Memory: {idle:.0f} MB before the first click, {begun:.0f} with the model open. In the second half of "
        f"the time it grows by {growth(late):.3f} MB with each turn (least squares).",
        table(["minute", "most memory (MB)"], by_minute),
        *(f"- {failure}" for one in visits for failure in one.failures[:2]),
    ]
    return "\n\n".join(lines)


def growth(seen: list[Seen]) -> float:
    """Megabytes for each turn, by least squares; not a number where there were too few."""
    if len({one.turns for one in seen}) < 2:
        return float("nan")
    return statistics.linear_regression([one.turns for one in seen], [one.memory for one in seen]).slope


if __name__ == "__main__":
    main(tyro.cli(LoadConfig))
