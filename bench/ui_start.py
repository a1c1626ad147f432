"""How soon the browser app is seen after its start, and what it holds in memory while nobody clicks.

python bench/ui_start.py --repeats 5 --output docs/results/ui_start.md      (needs a Chromium and playwright)
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import psutil
import tyro
from measured import table, write_result
from ui_load import memory
from ui_pictures import chromium

from workbench.command import polite

PAINT = "performance.getEntriesByName('first-contentful-paint')[0]"
TABS = "document.querySelectorAll('[role=tab]').length >= 7"
IDLE = 5.0  # seconds


@dataclass
class StartConfig:
    """How often."""

    repeats: int = 5
    output: str | None = None


class Start(NamedTuple):
    """Seconds after the process was started, and megabytes."""

    answers: float
    work: float
    paint: float
    tabs: float
    idle: float


NAMES = (
    "the server answers (s)", "its processor time until then (s)", "first contentful paint (s)",
    "all tabs are there (s)", "idle memory (MB)",
)  # fmt: skip


def main(config: StartConfig) -> None:
    """Start it again and again, each time with an empty folder and a browser that has seen nothing."""
    from playwright.sync_api import sync_playwright

    with polite(), sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        starts = [start(browser) for _ in range(config.repeats)]
        browser.close()
    write_result("The start of the browser app", __doc__, report(starts), config.output)


def start(browser: Any) -> Start:
    """One start; the browser runs already, as a person's does."""
    with tempfile.TemporaryDirectory() as folder, browser.new_context() as context:
        page, port = context.new_page(), free_port()
        began = time.time()
        server = subprocess.Popen([sys.executable, "-m", "ui.cli", "ui", folder, "--port", str(port)])
        try:
            wait_for_port(port)
            answers, work = time.time(), sum(psutil.Process(server.pid).cpu_times()[:2])
            page.goto(f"http://127.0.0.1:{port}")
            page.wait_for_function(TABS)
            tabs = time.time()
            page.wait_for_function(PAINT)
            paint = page.evaluate(f"performance.timeOrigin + {PAINT}.startTime") / 1000
            time.sleep(IDLE)
            return Start(answers - began, work, paint - began, tabs - began, memory(psutil.Process(server.pid)))
        finally:
            server.terminate()
            server.wait()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for_port(port: int) -> None:
    """Return once somebody listens at it."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.01)


def report(starts: list[Start]) -> str:
    """The median and the range of each figure."""
    columns = zip(NAMES, zip(*starts, strict=True), strict=True)
    rows = [
        [name, f"{statistics.median(found):.1f}", f"{min(found):.1f} to {max(found):.1f}"] for name, found in columns
    ]
    about = (
        f"{len(starts)} starts of `workbench ui` on an empty folder. Times are from the start of the process; the "
        f"browser, which keeps nothing from one start to the next, runs already. The first paint is Gradio's sign, on "
        "the app's own page, that its parts are on their way. Memory is what the server's process holds "
        f"{IDLE:g} seconds after the page was opened, before any click."
    )
    return f"{table(['', 'median', 'range'], rows)}\n\n{about}"


if __name__ == "__main__":
    main(tyro.cli(StartConfig))
