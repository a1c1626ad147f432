"""What a process knows of its own start."""

import sys
from pathlib import Path

import psutil
import pytest

from workbench.launch import command_line, processes_asked, resume_command, versions

ARGUMENTS = ["rpe2d", "--output-dir", "a b; rm"]


@pytest.mark.parametrize(
    ("parent", "launcher"),
    [
        ("bash", "python gen/train.py"),
        ("/venv/bin/python /venv/bin/accelerate launch gen/train.py", "accelerate launch gen/train.py"),
        ("python /bin/accelerate launch --cpu -m gen.train", "accelerate launch --cpu -m gen.train"),
        ("python /bin/torchrun --nproc_per_node 2 gen/train.py", "torchrun --nproc_per_node 2 gen/train.py"),
    ],
)  # fmt: skip
def test_the_command_is_what_a_person_typed(monkeypatch: pytest.MonkeyPatch, parent: str, launcher: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(Path.cwd() / "gen" / "train.py"), *ARGUMENTS])
    monkeypatch.setattr(psutil.Process, "cmdline", lambda self: [*parent.split(), *ARGUMENTS])
    assert command_line() == f"{launcher} rpe2d --output-dir 'a b; rm'"


def test_a_launcher_that_started_something_else_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(Path.cwd() / "gen" / "train.py"), *ARGUMENTS])
    monkeypatch.setattr(psutil.Process, "cmdline", lambda self: ["accelerate", "launch", "other.py", "--seed", "3"])
    assert command_line() == "python gen/train.py rpe2d --output-dir 'a b; rm'"


def test_the_installed_command_has_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/anywhere/bin/workbench", "train", "rpe2d"])
    assert command_line() == "workbench train rpe2d"


@pytest.mark.parametrize(
    "words",
    [
        ["--overwrite"],
        ["--resume-from-checkpoint", "none"],
        ["--resume_from_checkpoint", "runs/a/checkpoints/step-00000005"],
        ["--resume-from-checkpoint=none", "--overwrite"],
        ["--overwrite", "--resume_from_checkpoint=a=b"],
        [],
    ],
)
def test_resuming_neither_starts_anew_nor_goes_back(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["workbench", "train", "--seed", "3", *words, "--data=x --overwrite"])
    assert resume_command() == "workbench train --seed 3 '--data=x --overwrite'"


@pytest.mark.parametrize(
    ("parent", "asked"),
    [
        ("python accelerate launch --cpu --num_processes 2 gen/train.py", 2),
        ("python accelerate launch --num-processes=4 gen/train.py", 4),
        ("torchrun --standalone --nproc_per_node 2 gen/train.py", 2),
        ("torchrun --nproc-per-node=8 gen/train.py", 8),
        ("torchrun --nproc_per_node gpu gen/train.py", None),
        ("torchrun --nproc_per_node", None),
        ("accelerate launch gen/train.py", None),
        ("bash", None),
        ("", None),
    ],
)
def test_how_many_processes_were_asked_for(monkeypatch: pytest.MonkeyPatch, parent: str, asked: int | None) -> None:
    monkeypatch.setattr(psutil.Process, "cmdline", lambda self: parent.split())
    assert processes_asked() == asked


def test_a_parent_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: psutil.Process) -> list[str]:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "cmdline", gone)
    assert processes_asked() is None


def test_versions_are_those_installed() -> None:
    import torch

    found = versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
