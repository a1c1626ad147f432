"""Commands that the page starts, through its endpoints: a training run and a distillation, stopped and gone on with."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from app_places import served
from gradio_client import Client
from gradio_client.exceptions import AppError
from test_debias_command import write_set

from ui import processes
from workbench.command import parse

pytestmark = pytest.mark.filterwarnings("ignore")  # gradio's and its servers' own, in other threads
PATIENCE = 240  # seconds, of a busy machine
FOREVER = 1_000_000  # steps


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, and a training run that has done three steps of very many."""
    root = tmp_path_factory.mktemp("place")
    write_set(root / "data")
    train(root / "run", root / "data")
    config = yaml.safe_load((root / "run" / "config.yaml").read_text())
    (root / "run" / "config.yaml").write_text(yaml.safe_dump(config | {"max_train_steps": FOREVER}))
    (root / "run" / "finished.json").unlink()
    return root


def train(folder: Path, data: Path) -> None:
    from gen.train import CONFIGS, train

    words = ["rpe2d", "--data", str(data), "--resolution", "8", "--output-dir", str(folder), "--device", "cpu"]
    words += ["--max-train-steps", "3", "--train-batch-size", "2", "--num-layers", "1", "--num-attention-heads", "1"]
    words += ["--attention-head-dim", "8", "--validation-steps", "0", "--logging-steps", "1", "--mixed-precision", "no"]
    train(parse(CONFIGS, words, "train"))
    torch.set_grad_enabled(True)


@pytest.fixture(scope="module")
def client(place: Path) -> Iterator[Client]:
    with served(place) as address:
        yield Client(address, verbose=False)
    processes.stop_all()
    for started in map(processes.find, ("run", *(f"app/{path.name}" for path in (place / "app").glob("distilled-*")))):
        if started is not None:
            started.process.wait(PATIENCE)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def steps_of(run: Path) -> list[int]:
    """Of the figures that are written whole."""
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def test_a_training_run_goes_on_and_is_stopped(client: Client, place: Path) -> None:
    assert steps_of(place / "run") == [1, 2, 3]
    assert "not finished, step 3" in client.predict("run", api_name="/show_run")[0]
    assert "goes on" in client.predict("run", api_name="/resume_run")
    with pytest.raises(AppError, match="runs already"):
        client.predict("run", api_name="/resume_run")
    until(lambda: steps_of(place / "run")[-1] > 5)
    text, charts, _, _ = client.predict("run", api_name="/show_run")
    assert "running here" in text
    assert "<svg" in charts
    assert "saves and ends" in client.predict("run", api_name="/stop_run")
    started = processes.find("run")
    assert started is not None
    until(lambda: not started.runs)
    last = steps_of(place / "run")[-1]
    assert steps_of(place / "run") == list(range(1, last + 1))  # it went on from step 3, and lost none
    assert list((place / "run" / "checkpoints").glob(f"step-*{last}"))
    text, _, _, told = client.predict("run", api_name="/show_run")
    assert "not finished" in text
    assert told.endswith("(stopped)")
    with pytest.raises(AppError, match="was not started here, or has ended"):
        client.predict("run", api_name="/stop_run")


def test_a_stage_of_another_command_is_gone_on_with_there(client: Client, place: Path) -> None:
    (place / "matching").mkdir()
    (place / "matching" / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    (place / "matching" / "config.yaml").write_text("recipe: match\n")
    with pytest.raises(AppError, match=r"is a stage \(match\) of another command"):
        client.predict("matching", api_name="/resume_run")


def test_a_distillation_is_stopped_and_gone_on_with(client: Client, place: Path) -> None:
    job = client.submit("data", 1, "mtt", "quick", api_name="/distill")
    until(lambda: list(place.glob("app/distilled-*/experts/expert_*")) != [])
    (folder,) = place.glob("app/distilled-*/")
    name = folder.relative_to(place).as_posix()
    with pytest.raises(AppError, match="runs already"):
        client.predict(name, api_name="/resume_distilling")
    client.predict(name, api_name="/stop_distilling")
    assert job.result(timeout=PATIENCE)[1].endswith("(stopped)")
    assert "not finished" in client.predict(name, api_name="/show_distilled")[0]
    experts = {path: path.stat().st_mtime_ns for path in folder.glob("experts/expert_*")}
    job = client.submit(name, api_name="/resume_distilling")
    until(lambda: (folder / "matching" / "metrics.jsonl").exists() and len(steps_of(folder / "matching")) > 0)
    text, _, _, charts, *_ = client.predict(name, api_name="/show_distilled")
    assert "running" in text
    assert "<svg" in charts
    client.predict(name, api_name="/stop_distilling")
    assert "(stopped)" in job.result(timeout=PATIENCE)[1]
    assert {path: path.stat().st_mtime_ns for path in experts} == experts  # none was trained twice
