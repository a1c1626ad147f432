"""metrics.jsonl and the window behind its lines."""

import json
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from workbench.metrics_log import MetricsLog, Window, read_metrics

CPU = torch.device("cpu")


def test_lines_are_appended_and_read_back(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m.jsonl", keep_up_to=0)
    log.write(1, {"loss": 0.1 + 0.2})
    log.write(2, {"loss": 1e-30, "error": 3})
    assert read_metrics(log.path) == [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "loss": 1e-30, "error": 3}]
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [1, 2]


@pytest.mark.parametrize("cut", ['{"step": 3', '{"step": 3, "loss": ', "\0\0\0"])
def test_resuming_drops_later_lines_and_a_cut_one(tmp_path: Path, cut: str) -> None:
    log = MetricsLog(tmp_path / "m.jsonl", keep_up_to=0)
    for step in range(1, 6):
        log.write(step, {"loss": float(step)})
    log.path.write_text(log.path.read_text() + cut)
    resumed = MetricsLog(log.path, keep_up_to=3)
    assert resumed.last == {"step": 3, "loss": 3.0}
    resumed.write(4, {"loss": 40.0})
    assert read_metrics(log.path) == [{"step": s, "loss": v} for s, v in [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]]


def test_last_holds_the_newest_of_every_figure(tmp_path: Path) -> None:
    for active in (True, False):
        log = MetricsLog(tmp_path / "m.jsonl", keep_up_to=0, active=active)
        log.write(1, {"loss": 3.0})
        log.write(1, {"error": 0.5})
        log.write(2, {"loss": 2.0})
        assert log.last == {"step": 2, "loss": 2.0, "error": 0.5}


def test_only_the_active_one_writes(tmp_path: Path) -> None:
    MetricsLog(tmp_path / "m.jsonl", keep_up_to=0, active=False).write(1, {"loss": 1.0})
    assert not (tmp_path / "m.jsonl").exists()


def figures(value: float) -> dict[str, Tensor]:
    return {"loss": torch.tensor(value), "grad_norm": torch.tensor(2 * value, dtype=torch.float64)}


def test_means_leave_skipped_steps_out() -> None:
    window = Window(CPU)
    assert window.means() == {}
    window.add(figures(float("nan")), finite=False)
    assert window.means() == {}
    window.add(figures(1.0), finite=True)
    window.add(figures(4.0), finite=True)
    assert {k: v.item() for k, v in window.means().items()} == {"loss": 2.5, "grad_norm": 5.0}
    assert window.skipped == 1
    window.restart()
    assert (window.means(), window.skipped) == ({}, 0)


def test_a_window_taken_up_ends_as_if_never_stopped() -> None:
    values = [0.1, 0.7, 1 / 3, 1e-8]
    whole, first = Window(CPU), Window(CPU)
    for k, value in enumerate(values):
        whole.add(figures(value), finite=k != 1)
        if k < 2:
            first.add(figures(value), finite=k != 1)
    second = Window(CPU)
    second.load_state(json.loads(json.dumps(first.state())))
    for value in values[2:]:
        second.add(figures(value), finite=True)
    assert second.means() == whole.means()
    assert second.skipped == 1


def test_speed_counts_this_process_and_no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    window = Window(CPU)
    now = 150.0
    window.load_state({"sums": {}, "good": 1000, "skipped": 0})  # done before the stop
    for _ in range(2):
        with window.computing():
            now += 3
        window.add(figures(1.0), finite=True)
        now += 1
    with window.paused():
        now += 30
    assert window.speed(batch_size=8) == pytest.approx({"images_per_second": 16 / 8, "overhead_share": 2 / 8})


def test_gpu_windows_claim_no_share_of_time() -> None:
    window = Window(torch.device("meta"))
    assert "overhead_share" not in window.speed(8)
