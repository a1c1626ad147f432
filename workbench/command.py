"""How every command behaves: settings from the command line, one sentence for a mistake, clean exits."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import tyro

from workbench.errors import UserError

# --overwrite, not --overwrite | --no-overwrite; a switch that is on is turned off by --no-...
CONFIG = (tyro.conf.FlagCreatePairsOff,)


def parse(
    choices: Mapping[str, Any] | type, arguments: Sequence[str] | None, program: str, description: str = ""
) -> Any:
    """Settings from the command line: of one dataclass, or of the sub-command chosen by its first word.

    Exits with code 2 and a sentence for unknown or impossible arguments.
    """
    if isinstance(choices, Mapping):
        return tyro.extras.subcommand_cli_from_dict(
            dict(choices), prog=program, args=arguments, description=description, config=CONFIG
        )
    return tyro.cli(choices, prog=program, args=arguments, description=description or None, config=CONFIG)


@contextmanager
def polite() -> Iterator[None]:
    """Turn a person's mistake into one sentence and exit code 2, Ctrl-C into 130, SIGTERM into 143; no tracebacks."""
    # Before torch is imported: its threads then soon sleep while they wait, instead of taking a busy machine's cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except UserError as error:
        _leave(f"error: {error}", 2)
    except KeyboardInterrupt:
        _leave("\nInterrupted. Run the same command again to go on.", 130)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave("", 1)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def _leave(message: str, code: int) -> None:
    if message:
        print(message, file=sys.stderr)
    raise SystemExit(code)
