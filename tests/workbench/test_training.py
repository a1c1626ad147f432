"""The loop: what a step computes, how a batch may be split, and how a run ends. (Stopping: test_resume.py.)"""

import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from diffusers.optimization import get_scheduler
from safetensors.torch import load_file
from torch import nn
from toy_recipe import (
    ToyRecipe,
    assert_equal,
    assert_same_run,
    checkpoint_names,
    losses,
    rows,
    run_toy,
    toy_config,
    train_on_two,
    weights,
)

from workbench import checkpoints, devices, seeds, training
from workbench.command import polite
from workbench.data_order import global_batch
from workbench.errors import UserError
from workbench.training import STEP, Training, ema_update

Start = Callable[..., BaseProcess]


# ---- what a step computes --------------------------------------------------------------------------------------------


def test_a_run_is_plain_adamw_with_clipping_schedule_and_average(tmp_path: Path) -> None:
    """Against the same training written out with torch and diffusers alone."""
    config = toy_config(tmp_path / "run", max_grad_norm=0.5, adam_weight_decay=0.1, seed=5)
    recipe = ToyRecipe(config)
    model = recipe.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1, eps=1e-8)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=3, num_training_steps=12)
    average: list[torch.Tensor] = []
    expected = []
    for step in range(1, 13):
        indices = global_batch(37, 4, 5, step)
        noise = recipe.draw(4, seeds.generator(5, STEP, step), step)["noise"]
        loss = F.mse_loss(model(recipe.inputs[indices] + 0.1 * noise), recipe.targets[indices])
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        expected.append({"loss": loss.item(), "grad_norm": norm.item(), "lr": schedule.get_last_lr()[0]})
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        decay = min(0.9, (1 + len(expected) - 1) / (10 + len(expected) - 1)) if average else 0.0
        now = [p.detach().clone() for p in model.parameters()]
        average = [decay * a + (1 - decay) * p for a, p in zip(average or now, now, strict=True)]
    run = run_toy(tmp_path / "run", max_grad_norm=0.5, adam_weight_decay=0.1, seed=5)
    for row, wanted in zip(rows(run), expected, strict=True):
        assert {name: row[name] for name in wanted} == pytest.approx(wanted, rel=1e-4)
    published = load_file(run / "result" / "model.safetensors")
    for name, value in zip(dict(model.named_parameters()), average, strict=True):
        torch.testing.assert_close(published[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["constant", "constant_with_warmup", "linear", "cosine"])
def test_logged_rates_are_those_of_diffusers(tmp_path: Path, name: str) -> None:
    run = run_toy(tmp_path / "run", lr_scheduler=name, lr_warmup_steps=4, checkpointing_steps=100)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-2)
    schedule = get_scheduler(name, optimizer, num_warmup_steps=4, num_training_steps=12)
    for row in rows(run):
        assert row["lr"] == schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()


def test_the_weight_average_warms_up() -> None:
    for count, factor in [(1, 2 / 11), (40, 41 / 50), (10**6, 0.99)]:
        averaged, current = [torch.ones(3), torch.ones(2, 2)], [torch.zeros(3), torch.zeros(2, 2)]
        ema_update(0.99)(averaged, current, torch.tensor(count))
        for value in averaged:
            torch.testing.assert_close(value, torch.full_like(value, factor))


def test_no_average_publishes_the_raw_weights(tmp_path: Path) -> None:
    run = run_toy(tmp_path / "run", ema_decay=0)
    last = weights(run)
    published = load_file(run / "result" / "model.safetensors")
    assert_equal({f"model.{name}": value for name, value in published.items()},
                 {name: value for name, value in last.items() if name.startswith("model.")})  # fmt: skip
    other = run_toy(tmp_path / "other", ema_decay=0.9)
    assert not torch.equal(published["0.weight"], load_file(other / "result" / "model.safetensors")["0.weight"])


def test_rows_are_means_over_their_window(tmp_path: Path) -> None:
    each = rows(run_toy(tmp_path / "each"))
    five = rows(run_toy(tmp_path / "five", logging_steps=5, validation_steps=4))
    assert [row["step"] for row in five] == [4, 5, 8, 10, 12, 12]  # validation has lines of its own
    assert [row["step"] for row in five if "error" in row] == [4, 8, 12]
    for row, steps in zip([row for row in five if "loss" in row], [range(5), range(5, 10), range(10, 12)], strict=True):
        for name in ("loss", "grad_norm", "mean_prediction"):
            assert row[name] == pytest.approx(sum(each[k][name] for k in steps) / len(steps), rel=1e-5)


def test_validation_writes_pictures_and_changes_nothing(tmp_path: Path) -> None:
    run = run_toy(tmp_path / "run", {"normalised": True}, validation_steps=5)
    assert sorted(p.name for p in (run / "samples").iterdir()) == ["step-10.txt", "step-12.txt", "step-5.txt"]
    quiet = run_toy(tmp_path / "quiet", {"normalised": True})
    assert_equal(weights(run), weights(quiet))


def test_speed_and_overhead_are_reported(tmp_path: Path) -> None:
    run = run_toy(tmp_path / "run", {"pause": 0.02}, logging_steps=4, checkpointing_steps=100)
    for row in rows(run, but=set()):
        assert 0 < row["images_per_second"] < 4 / 0.02
        assert 0.5 < row["overhead_share"] < 1  # the pause is outside forward and backward


def test_training_teaches(tmp_path: Path) -> None:
    run = run_toy(tmp_path / "run", max_train_steps=150, validation_steps=150, checkpointing_steps=150)
    assert rows(run)[-1]["error"] < 0.2 < losses(run)[1]


# ---- one batch, split in any way -------------------------------------------------------------------------------------


def assert_same_curve(first: dict[int, float], second: dict[int, float]) -> None:
    assert first.keys() == second.keys()
    assert list(first.values()) == pytest.approx(list(second.values()), rel=1e-5)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_toy(tmp_path_factory.mktemp("whole") / "run", train_batch_size=8)


@pytest.mark.parametrize(("size", "parts"), [(4, 2), (2, 4), (1, 8)])
def test_gradient_accumulation_changes_nothing(tmp_path: Path, one_process: Path, size: int, parts: int) -> None:
    run = run_toy(tmp_path / "run", train_batch_size=size, gradient_accumulation_steps=parts)
    assert_same_curve(losses(run), losses(one_process))
    assert [r["grad_norm"] for r in rows(run)] == pytest.approx([r["grad_norm"] for r in rows(one_process)], rel=1e-4)


def test_two_processes_under_torchrun(tmp_path: Path, one_process: Path) -> None:
    toy = Path(__file__).with_name("toy_recipe.py")
    settings = json.dumps({"output_dir": str(tmp_path / "run")})
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(toy), settings],
        check=True, capture_output=True, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert_same_curve(losses(tmp_path / "run"), losses(one_process))
    record = json.loads((tmp_path / "run" / "result" / "record.json").read_text())
    assert record["settings"]["global_batch_size"] == 8
    assert record["command"].startswith("torchrun --standalone --nproc_per_node 2 ")


STOPPED: dict[str, Any] = {"max_train_steps": 12, "logging_steps": 5, "checkpointing_steps": 3}


@pytest.mark.parametrize("then", ["two", "one"])
def test_resuming_two_processes(tmp_path: Path, one_process: Path, spawn: Start, then: str) -> None:
    """The run stops inside a line of the log, and goes on with two processes or with one."""
    assert train_on_two(spawn, tmp_path / "run", STOPPED, signal_at=(7, 15)) == [143, 143]
    assert checkpoint_names(tmp_path / "run") == ["step-00000006", "step-00000007"]
    if then == "two":
        assert train_on_two(spawn, tmp_path / "run", STOPPED) == [0, 0]
    else:
        run_toy(tmp_path / "run", **STOPPED, gradient_accumulation_steps=2)
    whole = rows(run_toy(tmp_path / "whole", **STOPPED, train_batch_size=8))
    assert_same_curve(losses(tmp_path / "run"), {row["step"]: row["loss"] for row in whole})
    for name, value in weights(one_process).items():
        torch.testing.assert_close(weights(tmp_path / "run")[name], value, rtol=1e-4, atol=1e-5)


def test_two_processes_name_a_mistake_alike(tmp_path: Path, spawn: Start) -> None:
    run_toy(tmp_path / "run")
    assert train_on_two(spawn, tmp_path / "run", {}) == [2, 2]
    log = Path(f"{tmp_path / 'run'}.log").read_text()
    assert log.count("error: ") == 2
    assert "Traceback" not in log


# ---- precision -------------------------------------------------------------------------------------------------------


def test_cpu_trains_in_fp32_where_bf16_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for fast, kind in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(devices, "has_fast_bf16", lambda device, fast=fast: fast)
        seen: set[torch.dtype] = set()
        recipe = ToyRecipe(toy_config(tmp_path / str(fast), mixed_precision="auto"))
        first = next(recipe.model.children())
        first.register_forward_hook(lambda module, args, output, seen=seen: seen.add(output.dtype))
        Training(recipe).train()
        assert seen == {kind}


def test_bf16_follows_fp32(tmp_path: Path) -> None:
    low, full = run_toy(tmp_path / "low", mixed_precision="bf16"), run_toy(tmp_path / "full")
    assert list(losses(low).values()) == pytest.approx(list(losses(full).values()), rel=0.05)
    assert losses(low) != losses(full)
    assert all(value.dtype in (torch.float32, torch.int64) for value in weights(low).values())


def test_fp16_is_refused_on_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fp16 does not work on a CPU; give bf16"):
        run_toy(tmp_path / "run", mixed_precision="fp16")
    assert not (tmp_path / "run").exists()


# ---- steps that are not finite ---------------------------------------------------------------------------------------


BAD = 7  # the step in the middle of a run whose batch holds this example
BAD_EXAMPLE = int(global_batch(37, 4, 0, BAD)[0])


@pytest.mark.parametrize("kind", ["nan", "inf", "gradient", "inputs"])
def test_bad_steps_are_skipped_and_counted(tmp_path: Path, kind: str) -> None:
    """Weights, average, optimizer and running statistics are those before the step."""
    recipe: dict[str, Any] = {"poison": {BAD_EXAMPLE: kind}, "normalised": True}
    settings: dict[str, Any] = {"checkpointing_steps": 1, "checkpoints_total_limit": 99, "max_train_steps": 9}
    run = run_toy(tmp_path / "run", recipe, **settings)
    assert [int(name[5:]) for name in checkpoint_names(run)] == [1, 2, 3, 4, 5, 6, 8, 9]  # 7 might be broken
    before, after = weights(run, BAD - 1), weights(run, BAD + 1)
    assert all(value.isfinite().all() for value in after.values())
    assert after["ema.n_averaged"] == before["ema.n_averaged"] + 1
    assert after["optimizer.0.step"] == before["optimizer.0.step"] + 1
    assert int(after["model.1.num_batches_tracked"]) == int(before["model.1.num_batches_tracked"]) + 1
    assert rows(run)[BAD - 1] == {"step": BAD, "lr": rows(run)[BAD - 1]["lr"], "skipped_steps": 1}
    assert [row["step"] for row in rows(run) if "skipped_steps" in row] == [BAD]


def test_a_window_leaves_bad_steps_out_of_its_means(tmp_path: Path) -> None:
    recipe = {"poison": {BAD_EXAMPLE: "nan"}}
    each = losses(run_toy(tmp_path / "each", recipe, max_train_steps=9))
    first, second = rows(run_toy(tmp_path / "window", recipe, max_train_steps=9, logging_steps=9))
    assert (first["step"], first["skipped_steps"], second["step"]) == (BAD, 1, 9)
    assert first["loss"] == pytest.approx(sum(each[s] for s in range(1, BAD)) / (BAD - 1))
    assert second["loss"] == pytest.approx((each[8] + each[9]) / 2)


def test_bad_steps_in_a_row_stop_the_run(tmp_path: Path) -> None:
    """Only the examples of the first four steps are good."""
    good = set(torch.cat([global_batch(37, 4, 0, s) for s in range(1, 5)]).tolist())
    poison = {k: "nan" for k in range(37) if k not in good}
    with pytest.raises(UserError, match=r"not finite 3 steps in a row, up to step 7.*step-00000004.*--learning-rate"):
        run_toy(tmp_path / "run", {"poison": poison}, max_nonfinite_steps=3, checkpointing_steps=2)
    run = tmp_path / "run"
    assert checkpoint_names(run) == ["step-00000002", "step-00000004"]
    assert not (run / "result").exists()
    clean = run_toy(tmp_path / "clean", max_train_steps=12, checkpointing_steps=4, checkpoints_total_limit=9)
    assert_equal(weights(run), weights(clean, 4))
    run_toy(run, max_nonfinite_steps=3)  # with the data mended it goes on from there
    assert_same_run(run, clean)


# ---- settings that cannot work ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tracker", ["tensorboard", "trackio", "wandb"])
def test_a_missing_tracker_is_named_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"--report-to {tracker} .*pip install {tracker}"):
        run_toy(tmp_path / "run", report_to=tracker)
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_the_figures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = run_toy(tmp_path / "run", report_to="tensorboard", validation_steps=6)
    events = EventAccumulator(str(run / "workbench")).Reload()
    assert {s.step: s.value for s in events.Scalars("loss")} == pytest.approx(losses(run))
    assert [s.step for s in events.Scalars("error")] == [6, 12]


def test_a_device_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda is not available here; give --device auto"):
        run_toy(tmp_path / "run", device="cuda")


def test_a_small_world_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "processes_asked", lambda: 2)
    with pytest.warns(RuntimeWarning, match=r"2 processes were asked for but 1 started.*torchrun --standalone"):
        Training(ToyRecipe(toy_config(tmp_path / "run")))
    monkeypatch.setattr(training, "processes_asked", lambda: 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Training(ToyRecipe(toy_config(tmp_path / "run")))


def test_describe_is_the_size_of_the_work(tmp_path: Path) -> None:
    run = Training(ToyRecipe(toy_config(tmp_path / "run", gradient_accumulation_steps=2)))
    told = yaml.safe_load(run.describe())
    assert told["parameters"] == 3 * 8 + 8 + 8 + 1
    assert told["steps_per_epoch"] == pytest.approx(37 / 8, abs=0.01)
    assert told["epochs"] == pytest.approx(12 * 8 / 37, abs=0.01)
    assert told["learning_rate"] == 1e-2
    assert not (tmp_path / "run").exists()  # it only tells


# ---- ends ------------------------------------------------------------------------------------------------------------


def test_the_result_says_how_it_was_made(tmp_path: Path) -> None:
    run = run_toy(tmp_path / "run", validation_steps=12)
    record = json.loads((run / "result" / "record.json").read_text())
    assert record["settings"] == yaml.safe_load((run / "config.yaml").read_text())
    assert record["settings"]["recipe"] == "toy"
    assert {"python", "torch", "accelerate"} <= record["versions"].keys()
    last, validated = rows(run, but=set())[-2:]
    assert record["figures"] == {**last, **validated}
    assert math.isfinite(record["figures"]["loss"])


FULL: list[Any] = [
    OSError(28, "No space left on device"),
    RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534"),  # torch.save
    type("SafetensorError", (Exception,), {})("I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL, ids=["system", "torch", "safetensors"])
def test_a_full_disk_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    original, saved = training.save_model, []

    def fills_up(network: nn.Module, path: str) -> None:
        saved.append(path)
        if len(saved) == 4:  # the average at the second checkpoint
            Path(path).write_bytes(b"half")
            raise error
        original(network, path)

    monkeypatch.setattr(training, "save_model", fills_up)
    with pytest.raises(UserError, match=r"is full: free some space, then run the same command again"):
        run_toy(tmp_path / "run")
    assert checkpoint_names(tmp_path / "run") == ["step-00000005"]
    assert checkpoints.latest(tmp_path / "run" / "checkpoints")
    monkeypatch.undo()
    run_toy(tmp_path / "run")
    assert_same_run(tmp_path / "run", run_toy(tmp_path / "whole"))


def test_the_last_line_is_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), polite():
        run_toy(tmp_path / "run", {"poison": dict.fromkeys(range(37), "nan")}, max_nonfinite_steps=2)
    line = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert line.startswith("error: the loss or its gradient was not finite 2 steps in a row")
    assert "the last good checkpoint is none yet" in line


def test_errors_of_our_own_are_not_the_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyRecipe, "loss", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_toy(tmp_path / "run")
