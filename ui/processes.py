"""Commands that the page starts, each in a process of its own: what it prints, and a stop as by Ctrl-C."""

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import UserError

LINES = 12  # of a log that are shown
_STARTED: dict[str, "Started"] = {}
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Started:
    """A running or ended `workbench` command, and the file that has its output."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def tail(self) -> str:
        """The last lines it printed; each state of a progress bar is one."""
        states = self.log.read_bytes().decode(errors="replace").replace("\r", "\n").splitlines()
        lines = [line for line in states if line.strip()]
        return "\n".join(lines[-LINES:])


def start(name: str, words: Sequence[str], log: Path) -> Started:
    """Start `workbench WORDS` under a name. Raises UserError where one of that name runs already."""
    with _LOCK:
        if name in _STARTED and _STARTED[name].runs:
            raise UserError(f"{name} runs already; stop it first, or wait until it is done")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "ui.cli", *words], stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        _STARTED[name] = Started(process, log)
        return _STARTED[name]


def find(name: str) -> Started | None:
    """What was started under a name."""
    return _STARTED.get(name)


def stop(name: str) -> None:
    """Ask it to save and end, as Ctrl-C does. Raises UserError where nothing of that name runs."""
    started = _STARTED.get(name)
    if started is None or not started.runs:
        raise UserError(f"{name} was not started here, or has ended; press Ctrl-C where it was started")
    started.process.send_signal(signal.SIGINT)


def stop_all() -> None:
    """When the app ends, so do its commands, each after saving."""
    for started in _STARTED.values():
        if started.runs:
            started.process.send_signal(signal.SIGINT)
