"""Commands that the page starts, each in a process of its own: what it prints, and a stop after which it can go on."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from workbench.errors import UserError

LINES = 12  # of a log that are shown
PATIENCE = 1.0  # seconds between two looks at a process
ENDS = {0: "done", 2: "ended by a mistake", 130: "stopped", 143: "stopped", -signal.SIGTERM: "stopped"}
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

    @property
    def told(self) -> str:
        """The last lines, and how it ended."""
        code = self.process.poll()
        return self.tail if code is None else f"{self.tail}\n({ENDS.get(code, f'ended with code {code}')})"

    def watch(self) -> Iterator[str]:
        """The last lines every second while it runs, and once more at its end."""
        while self.runs:
            yield self.told
            time.sleep(PATIENCE)
        yield self.told


def words_of(command: str, config: Any) -> list[str]:
    """The command line of settings whose positional argument is `data`; what is the default is left out.

    Raises UserError for settings that cannot work, and for a part of a list that would be taken for another option.
    """
    config.check()
    words = [command, str(config.data)]
    for field in fields(config):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        value, flag = getattr(config, field.name), f"--{field.name.replace('_', '-')}"
        if field.name == "data" or value == default:
            continue
        if not isinstance(value, list):
            words.append(f"{flag}={value}")
        elif any(str(one).startswith("-") for one in value):
            raise UserError(f"{flag} has {', '.join(map(str, value))}; none may begin with a hyphen")
        else:
            words += [flag, *map(str, value)]
    return words


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
    """Ask it to save and end. Raises UserError where nothing of that name runs."""
    started = _STARTED.get(name)
    if started is None or not started.runs:
        raise UserError(f"{name} was not started here, or has ended; press Ctrl-C where it was started")
    started.process.terminate()  # Ctrl-C is ignored by what is started in the background


def stop_all() -> None:
    """When the app ends, so do its commands, each after saving."""
    for started in _STARTED.values():
        if started.runs:
            started.process.terminate()
