"""A run that was stopped, in any way and at any moment, and resumed equals the uninterrupted one bit for bit."""

import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from toy_recipe import (
    assert_equal,
    assert_same_run,
    checkpoint_names,
    losses,
    rows,
    run_toy,
    train_like_a_command,
    train_then_die,
    weights,
)

from workbench import checkpoints
from workbench.errors import UserError

Start = Callable[..., BaseProcess]

# Neither epochs (9.25 steps), nor lines of the log, nor checkpoints fall together.
UNEVEN: dict[str, Any] = {"max_train_steps": 22, "logging_steps": 4, "checkpointing_steps": 3, "validation_steps": 11}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    return run_toy(tmp_path_factory.mktemp("whole") / "run", **UNEVEN)


# ---- killed ----------------------------------------------------------------------------------------------------------


def wait_for_lines(metrics: Path, count: int, process: BaseProcess) -> None:
    while process.is_alive() and not (metrics.exists() and metrics.read_text().count("\n") >= count):
        time.sleep(0.001)


def test_killed_at_ten_random_moments(tmp_path: Path, spawn: Start) -> None:
    """The moments are random in steps done (so that a slow machine gets as far as a fast one) and in time after."""
    chance, run = random.Random(0), tmp_path / "run"
    settings: dict[str, Any] = {"max_train_steps": 150, "checkpointing_steps": 3}
    moments = []
    for _ in range(10):
        done = max(losses(run), default=0) if (run / "metrics.jsonl").exists() else 0
        process = spawn(train_like_a_command, run, settings, {"pause": 0.002})
        wait_for_lines(run / "metrics.jsonl", done + chance.randint(0, 8), process)
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        moments.append(max(losses(run), default=0) if (run / "metrics.jsonl").exists() else 0)
    assert max(moments) > 10
    run_toy(run, **settings)
    assert_same_run(run, run_toy(tmp_path / "whole", **settings))


@pytest.mark.parametrize(
    ("place", "name", "calls"),
    [
        ("workbench.training:Training", "_open", 1),
        ("workbench.training:Training", "_build", 1),  # the folder is made, nothing trained
        ("workbench.training", "save_model", 3),  # the weights, at the second checkpoint
        ("workbench.training", "save_model", 4),  # their average
        ("workbench.checkpoints", "_flush", 5),  # between two files
        ("workbench.checkpoints:Path", "rename", 2),  # all written, but not renamed
        ("workbench.checkpoints", "prune", 3),
        ("shutil", "rmtree", 7),  # somewhere in the middle of pruning
        ("workbench.training:Training", "_validate", 2),
        ("workbench.training:Training", "_publish", 1),
        ("workbench.run_folder", "publish_folder", 1),  # the result is written, but not in its place
        ("workbench.run_folder", "write_atomic", 2),  # it is in its place, but not marked as finished
    ],
)
def test_killed_while_writing(tmp_path: Path, whole: Path, spawn: Start, place: str, name: str, calls: int) -> None:
    process = spawn(train_then_die, tmp_path / "run", UNEVEN, place, name, calls)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    run_toy(tmp_path / "run", **UNEVEN)
    if name == "_validate":  # a validation that was killed is not made up for; nothing else depends on it
        assert rows(tmp_path / "run") == rows(whole)[:-1]
        assert_equal(weights(tmp_path / "run"), weights(whole))
    else:
        assert_same_run(tmp_path / "run", whole)
    assert not [p.name for p in tmp_path.rglob("*") if p.suffix in (".tmp", ".partial")]


# ---- stopped by a signal ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_tells_how_to_go_on(
    tmp_path: Path, whole: Path, spawn: Start, number: int, code: int
) -> None:
    run = tmp_path / "run"
    arguments = ("toy", "--output-dir", "runs/a b", "--overwrite", "--resume_from_checkpoint", "none", "--seed=3")
    process = spawn(train_like_a_command, run, UNEVEN, {"signal_at": (7, number)}, arguments)
    process.join(60)
    assert process.exitcode == code
    assert checkpoint_names(run)[-1] == "step-00000007"
    assert checkpoints.is_complete(run / "checkpoints" / "step-00000007")
    log = Path(f"{run}.log").read_text()
    assert "Stopped after step 7" in log
    assert log.splitlines()[-1].strip() == "python gen/train.py toy --output-dir 'runs/a b' --seed=3"
    assert not (run / "result").exists()
    run_toy(run, **UNEVEN)
    assert_same_run(run, whole)


def test_a_second_signal_stops_at_once(tmp_path: Path, spawn: Start) -> None:
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        run = tmp_path / str(code)
        process = spawn(train_like_a_command, run, {"logging_steps": 1}, {"pause": 1.0})
        wait_for_lines(run / "metrics.jsonl", 1, process)
        for _ in range(2):  # both within one step of a second
            time.sleep(0.1)
            assert process.pid
            os.kill(process.pid, number)
        process.join(60)
        assert process.exitcode == code
        assert not (run / "checkpoints").exists()  # the first one would have saved


# ---- resumed elsewhere, and otherwise --------------------------------------------------------------------------------


def stopped(run: Path, at: int, **changes: Any) -> Path:
    """A run with the settings of UNEVEN that was stopped after step `at`."""
    with pytest.raises(SystemExit):
        run_toy(run, {"signal_at": (at, signal.SIGTERM)}, **UNEVEN | changes)
    return run


def test_the_run_does_not_depend_on_the_global_random_state(tmp_path: Path, whole: Path) -> None:
    torch.manual_seed(99)
    run = stopped(tmp_path / "run", 8)
    torch.manual_seed(7)
    assert_same_run(run_toy(run, **UNEVEN), whole)


def test_free_settings_may_change(tmp_path: Path, whole: Path) -> None:
    run = stopped(tmp_path / "run", 8)
    run_toy(run, **UNEVEN | {
        "train_batch_size": 2, "gradient_accumulation_steps": 2, "checkpointing_steps": 7, "checkpoints_total_limit": 5,
        "validation_steps": 0, "max_nonfinite_steps": 2, "resume_from_checkpoint": "latest",
    })  # fmt: skip
    assert list(losses(run).values()) == pytest.approx(list(losses(whole).values()), rel=1e-5)
    assert "checkpointing_steps: 7" in (run / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"learning_rate": 0.5}, "learning_rate was 0.01 and is now 0.5"),
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"train_batch_size": 5}, "global_batch_size was 4 and is now 5"),
        ({"max_train_steps": 30}, "max_train_steps was 22 and is now 30"),
        ({"data": "other", "ema_decay": 0.5}, "data was 'fashion-mnist' and is now 'other', ema_decay was 0.9 and"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    run = stopped(tmp_path / "run", 2)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"holds a run with other settings: .*{re.escape(told)}.*--overwrite"):
        run_toy(run, **UNEVEN | changes)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["constant", "constant_with_warmup"])
def test_a_constant_schedule_may_go_on(tmp_path: Path, name: str) -> None:
    longer = run_toy(tmp_path / "longer", lr_scheduler=name, max_train_steps=18)
    run = run_toy(tmp_path / "run", lr_scheduler=name, max_train_steps=12)
    run_toy(run, lr_scheduler=name, max_train_steps=18)
    assert_same_run(run, longer)
    with pytest.raises(UserError, match="is finished"):
        run_toy(run, lr_scheduler=name, max_train_steps=12)


def test_fewer_steps_than_are_done(tmp_path: Path) -> None:
    run = stopped(tmp_path / "run", 8, lr_scheduler="constant")
    with pytest.raises(UserError, match=r"step-00000008 is past --max-train-steps 7; give at least 8"):
        run_toy(run, **UNEVEN | {"lr_scheduler": "constant", "max_train_steps": 7})


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    run = run_toy(tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"is finished, its result is .*/result; give --overwrite"):
        run_toy(run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_overwrite_keeps_the_old_result_until_the_new_one_is_there(tmp_path: Path) -> None:
    run = run_toy(tmp_path / "run")
    old = (run / "result" / "model.safetensors").read_bytes()
    stopped(run, 8, seed=1, overwrite=True)
    assert (run / "result" / "model.safetensors").read_bytes() == old
    assert checkpoint_names(run) == ["step-00000006", "step-00000008"]  # of the new run alone
    assert max(losses(run)) == 8
    run_toy(run, **UNEVEN, seed=1)
    assert_same_run(run, run_toy(tmp_path / "new", **UNEVEN, seed=1))
    assert (run / "result" / "model.safetensors").read_bytes() != old


# ---- which checkpoint ------------------------------------------------------------------------------------------------


def damage(files: Iterable[Path], how: str) -> None:
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2] if how == "truncated" else whole[:-1] + bytes([whole[-1] ^ 1]))


@pytest.mark.parametrize("how", ["truncated", "one bit"])
@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.bin", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, whole: Path, name: str, how: str) -> None:
    run = stopped(tmp_path / "run", 8, checkpoints_total_limit=9)
    damage([run / "checkpoints" / "step-00000008" / name], how)
    assert checkpoints.latest(run / "checkpoints") == run / "checkpoints" / "step-00000006"
    run_toy(run, **UNEVEN)
    assert_same_run(run, whole)


def test_a_damaged_checkpoint_does_not_displace_a_good_one(tmp_path: Path) -> None:
    run = stopped(tmp_path / "run", 8)
    damage([run / "checkpoints" / "step-00000008" / "model.safetensors"], "truncated")
    stopped(run, 1, checkpoints_total_limit=1)
    assert checkpoints.latest(run / "checkpoints") == run / "checkpoints" / "step-00000007"


def test_an_older_checkpoint_by_its_path(tmp_path: Path, whole: Path) -> None:
    run = stopped(tmp_path / "run", 8, checkpoints_total_limit=9)
    chosen = run / "checkpoints" / "step-00000003"
    run_toy(run, **UNEVEN, resume_from_checkpoint=str(chosen))
    assert_same_run(run, whole)


def test_none_starts_from_the_first_step(tmp_path: Path, whole: Path) -> None:
    run = stopped(tmp_path / "run", 8)
    stopped(run, 4, resume_from_checkpoint="none")
    assert checkpoint_names(run) == ["step-00000003", "step-00000004"]  # the later ones were of another try
    assert_same_run(run_toy(run, **UNEVEN), whole)


def test_a_checkpoint_of_another_run(tmp_path: Path) -> None:
    """It starts this run's weights; another model's is refused."""
    first = run_toy(tmp_path / "first", max_train_steps=10)
    chosen = str(first / "checkpoints" / "step-00000010")
    run = run_toy(tmp_path / "run", resume_from_checkpoint=chosen, learning_rate=1e-3)
    assert sorted(losses(run)) == [11, 12]
    with pytest.raises(UserError, match="is a checkpoint of another model; give the settings"):
        run_toy(tmp_path / "wide", {"width": 9}, resume_from_checkpoint=chosen)


@pytest.mark.parametrize("wish", ["nowhere", "checkpoints/step-00000099"])
def test_an_unknown_checkpoint(tmp_path: Path, wish: str) -> None:
    with pytest.raises(UserError, match=rf"{wish} is not a complete checkpoint; give a folder such as .*or latest"):
        run_toy(tmp_path / "run", resume_from_checkpoint=wish)
    run_toy(tmp_path / "run")  # the refused try is not in the way


def test_the_log_survives_a_cut_line(tmp_path: Path, whole: Path) -> None:
    run = stopped(tmp_path / "run", 10)
    lines = (run / "metrics.jsonl").read_text()
    assert [json.loads(line)["step"] for line in lines.splitlines()] == [4, 8]
    (run / "metrics.jsonl").write_text(lines + '{"step": 9, "loss": 0.')
    assert_same_run(run_toy(run, **UNEVEN), whole)
    steps = [row["step"] for row in rows(run) if "loss" in row]
    assert steps == sorted(set(steps))


def test_figures_of_a_run_that_only_had_to_publish(tmp_path: Path) -> None:
    run = run_toy(tmp_path / "run")
    whole = json.loads((run / "result" / "record.json").read_text())["figures"]
    shutil.rmtree(run / "result")
    (run / "finished.json").unlink()
    run_toy(run)
    assert json.loads((run / "result" / "record.json").read_text())["figures"] == whole


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="holds files that are not a training run; choose another --output-dir"):
            run_toy(tmp_path, overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="cannot be made, because part of that path is a file"):
            run_toy(place)
    with pytest.raises(UserError, match=r"/proc/nothing/run cannot be made there: choose another folder"):
        run_toy(Path("/proc/nothing/run"))


def test_the_settings_are_in_the_folder(tmp_path: Path) -> None:
    run = run_toy(tmp_path / "run", learning_rate=0.02)
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert stored["learning_rate"] == 0.02
    assert stored["mixed_precision"] == "no"
    assert stored["global_batch_size"] == 4
    assert weights(run)["ema.n_averaged"] == 12
