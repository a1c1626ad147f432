"""How commands end: one sentence and a code, never a traceback for a person's mistake or wish."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.command import polite
from workbench.errors import UserError
from workbench.signals import StopRequest

START = "import os, signal, sys, time\nfrom workbench.command import polite\nfrom workbench.errors import UserError\n"


def run(body: str) -> "subprocess.CompletedProcess[str]":
    """A program whose work, inside `polite`, is `body`."""
    return subprocess.run(
        [sys.executable, "-c", f"{START}with polite():\n    {body}"], capture_output=True, text=True, timeout=60,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip


LISTEN = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # what a shell starts in the background does not


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ("print('fine')", 0, ""),
        ("raise UserError('give more')", 2, "error: give more\n"),
        ("raise KeyboardInterrupt", 130, "\nInterrupted. Run the same command again to go on.\n"),
        (
            f"{LISTEN}; os.kill(os.getpid(), signal.SIGINT); time.sleep(9)",
            130,
            "\nInterrupted. Run the same command again",
        ),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", 143, ""),
        ("raise SystemExit(5)", 5, ""),
    ],
)
def test_ends(body: str, code: int, told: str) -> None:
    done = run(body)
    assert done.returncode == code
    assert done.stderr.startswith(told)
    assert bool(done.stderr) == bool(told)


def test_a_defect_of_ours_keeps_its_traceback() -> None:
    done = run("1 / 0")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_reader_that_has_gone() -> None:
    program = f"{START}with polite():\n    [print('x' * 999) for _ in range(9999)]"
    words = [sys.executable, "-c", program]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as writer:
        assert writer.stdout
        assert writer.stderr
        writer.stdout.readline()
        writer.stdout.close()
        assert writer.stderr.read() == b""
    assert writer.returncode == 1


def test_the_error_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, polite():
        raise UserError("this was given, that is allowed")
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", "error: this was given, that is allowed\n")


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with polite(), StopRequest() as stop:
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
        signal.raise_signal(signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("second", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_second_signal_interrupts(second: signal.Signals, error: type[BaseException]) -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(error):
            signal.raise_signal(second)
        assert stop.signum == signal.SIGINT
