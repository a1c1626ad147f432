"""distill/train.py: its three parts one after the other, its words for a mistake, and two processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import experts_config, match_config, run_matching

from distill.buffer import expert_file
from distill.config import MatchConfig
from distill.presets import FTD, hyperparameters, nearest_preset
from distill.train import main
from workbench.config import to_mapping

ROOT = Path(__file__).parents[2]


def words(part: str, config: Any, *names: str) -> list[str]:
    """A command line that gives these settings."""
    values = to_mapping(config)
    found = [part]
    for name in names:
        value = values[name]
        found += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return found


EXPERTS = "data output_dir width depth num_experts epochs train_batch_size learning_rate augmentation device flatness"
MATCH = (
    "experts output_dir images_per_class synthetic_steps max_start_epoch initial_step_size max_train_steps "
    "validation_epochs validation_networks threshold device"
)


def test_the_three_parts_follow_each_other(
    digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experts = experts_config(digits_folder, tmp_path / "experts")
    main(words("experts", experts, *EXPERTS.split()))
    assert f"The experts are in {experts.output_dir}; match them with:" in capsys.readouterr().out
    match = match_config(experts.output_dir, tmp_path / "run", max_train_steps=3, validation_epochs=20)
    main(words("match", match, *MATCH.split()))
    assert f"The distilled set is in {match.output_dir}/distilled; measure it" in capsys.readouterr().out
    assert (match.output_dir / "distilled" / "grid.png").exists()
    main(["evaluate", str(match.output_dir), "--networks", "convnet", "--num-networks", "1", "--epochs", "5",
          "--random-subsets", "1", "--device", "cpu"])  # fmt: skip
    assert "convnet, without augmentation" in capsys.readouterr().out


def test_a_dry_run_does_nothing(experts_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    match = match_config(experts_folder, tmp_path / "run", max_train_steps=3)
    main([*words("match", match, *MATCH.split()), "--dry-run"])
    assert "megabytes_of_the_set" in capsys.readouterr().out
    assert not match.output_dir.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["match", "--experts", "nowhere", "--output-dir", "run"], "error: nowhere holds no experts; train some with"),
        (["experts", "--data", "nowhere", "--output-dir", "run"], "error: There is no file or folder nowhere"),
        (["experts", "--output-dir", "run", "--epochs", "0"], "error: --epochs is 0; give 1 or more"),
    ],
)
def test_mistakes_are_sentences(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--device", "cpu"])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(sentence)


# ---- presets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "size", "classes", "preset"),
    [
        ("fashion-mnist:extract", (28, 28), 10, "fashion-mnist"),
        ("folder", (32, 32), 10, "cifar10"),
        ("folder", (28, 32), 100, "cifar100"),
        ("folder", (64, 48), 10, "tiny-imagenet"),
        ("folder", (128, 128), 10, "imagenet-10"),
    ],
)
def test_the_nearest_table_is_taken(data: str, size: tuple[int, int], classes: int, preset: str) -> None:
    assert nearest_preset(data, size, classes) == preset


def test_rows_are_the_published_ones_and_can_be_overridden() -> None:
    row = hyperparameters("ftd", "cifar10", 10, "any", (32, 32), 10)
    assert (row.synthetic_steps, row.expert_epochs, row.max_start_epoch, row.ema_decay) == (30, 2, 20, 0.9995)
    assert hyperparameters("mtt", "cifar10", 10, "any", (32, 32), 10) == row._replace(ema_decay=0.0)
    assert hyperparameters("mtt", "cifar10", 50, "any", (32, 32), 10).initial_step_size == 0.001
    assert hyperparameters("mtt", "tiny-imagenet", 50, "any", (64, 64), 200).inner_batch_size == 300
    assert hyperparameters("ftd", "cifar10", 5, "any", (32, 32), 10) == FTD["cifar10"][10]  # the nearest by ratio
    assert hyperparameters("ftd", "cifar10", 2, "any", (32, 32), 10) == FTD["cifar10"][1]
    datm = hyperparameters("datm", "cifar100", 50, "any", (32, 32), 100)
    assert (datm.labels, datm.min_start_epoch, datm.max_start_epoch, datm.threshold) == ("learned", 20, 70, 1.0)
    config = MatchConfig(experts=Path("e"), output_dir=Path("o"), synthetic_steps=7, method="mtt", images_per_class=1)
    assert config.resolved("any", (32, 32), 10).synthetic_steps == 7
    assert config.resolved("any", (32, 32), 10).max_start_epoch == 2


# ---- processes -------------------------------------------------------------------------------------------------------

TWO = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {generators!r}]
from tiny_runs import experts_config, match_config, run_matching
from distill.experts import train_experts

data, folder = Path({data!r}), Path({folder!r})
train_experts(experts_config(data, folder / "experts"))
run_matching(match_config(folder / "experts", folder / "run", max_train_steps=4, checkpointing_steps=4))
"""


def test_two_processes_share_experts_and_students(digits_folder: Path, experts_folder: Path, tmp_path: Path) -> None:
    """An expert is the same whoever trains it, and two processes of one student are one process of two."""
    places = {"tests": str(Path(__file__).parent), "generators": str(ROOT / "tests" / "gen")}
    script = TWO.format(data=str(digits_folder), folder=str(tmp_path), **places)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    processes = [
        subprocess.Popen([sys.executable, "-c", script], env={**shared, "RANK": rank, "LOCAL_RANK": rank}, cwd=ROOT)
        for rank in ("0", "1")
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    for number in (0, 1):
        one, two = (load_file(expert_file(folder, number)) for folder in (experts_folder, tmp_path / "experts"))
        assert torch.equal(one["theta"], two["theta"])
    run_matching(
        match_config(experts_folder, tmp_path / "one", max_train_steps=4, checkpointing_steps=4, starts_per_step=2)
    )
    values = [
        load_file(tmp_path / run / "checkpoints" / "step-00000004" / "learned.safetensors") for run in ("run", "one")
    ]
    for name, value in values[0].items():
        torch.testing.assert_close(value, values[1][name], rtol=1e-5, atol=1e-6)
