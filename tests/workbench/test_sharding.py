"""FSDP: the same training, checkpoints and results as with a whole model in each process."""

from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from sharded_toy import sharding_accelerator, train_sharded
from toy_recipe import assert_same_run, checkpoint_names, rows, toy_config, train_like_a_command, train_on_two, weights

from gen.rpe2d.transformer import RPE2DTransformer2DModel
from workbench.errors import UserError
from workbench.sharding import check_sharding

Start = Callable[..., BaseProcess]

WIDTH = 9  # two processes get five rows and four; of the last bias the second one gets nothing
UNEVEN: dict[str, Any] = {
    "max_train_steps": 12, "logging_steps": 5, "checkpointing_steps": 3, "validation_steps": 6,
    "max_grad_norm": 0.5, "adam_weight_decay": 0.1,
}  # fmt: skip
WORKERS = {"sharded": train_sharded, "whole": train_like_a_command}


def train(start: Start, output: Path, how: str, **more: Any) -> list[int]:
    changes = UNEVEN | more.pop("changes", {})
    return train_on_two(start, output, changes, worker=WORKERS[how], width=WIDTH, **more)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, spawn: Start) -> dict[str, Path]:
    """Uninterrupted ones."""
    made = {how: tmp_path_factory.mktemp(how) / "run" for how in WORKERS}
    for how, output in made.items():
        assert train(spawn, output, how) == [0, 0], Path(f"{output}.log").read_text()
    return made


def assert_close_run(first: Path, second: Path) -> None:
    """To rounding: every line of the log, the last checkpoint and the published result."""
    for mine, other in zip(rows(first), rows(second), strict=True):
        assert mine == pytest.approx(other, rel=1e-5)
    published = [load_file(run / "result" / "model.safetensors") for run in (first, second)]
    for mine, other in ((weights(first), weights(second)), published):
        assert {name: value.shape for name, value in mine.items()} == {k: v.shape for k, v in other.items()}
        for name, value in mine.items():
            torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-6, msg=name)


def test_a_sharded_run_is_the_same_training(runs: dict[str, Path]) -> None:
    assert_close_run(runs["sharded"], runs["whole"])
    assert not torch.equal(weights(runs["whole"])["model.0.weight"], weights(runs["whole"])["ema.module.0.weight"])
    files = [{f.name for f in (run / "checkpoints" / "step-00000012").iterdir()} for run in runs.values()]
    assert files[0] == files[1]


def test_a_stopped_sharded_run_goes_on_bit_for_bit(tmp_path: Path, runs: dict[str, Path], spawn: Start) -> None:
    assert train(spawn, tmp_path / "run", "sharded", signal_at=(7, 15)) == [143, 143]
    assert checkpoint_names(tmp_path / "run") == ["step-00000006", "step-00000007"]
    assert train(spawn, tmp_path / "run", "sharded") == [0, 0]
    assert_same_run(tmp_path / "run", runs["sharded"])


@pytest.mark.parametrize(("first", "then"), [("sharded", "whole"), ("whole", "sharded")])
def test_a_run_may_go_on_in_the_other_way(
    tmp_path: Path, runs: dict[str, Path], spawn: Start, first: str, then: str
) -> None:
    assert train(spawn, tmp_path / "run", first, signal_at=(7, 15)) == [143, 143]
    assert train(spawn, tmp_path / "run", then) == [0, 0]
    assert_close_run(tmp_path / "run", runs["whole"])


def test_precision_is_that_of_a_whole_model(tmp_path: Path, spawn: Start) -> None:
    """FSDP's own rounding, of inputs and of gradients, would be another training than autocast's."""
    low = {"mixed_precision": "bf16", "gradient_accumulation_steps": 2, "ema_decay": 0.0, "validation_steps": 0}
    for how in WORKERS:
        assert train(spawn, tmp_path / how, how, changes=low) == [0, 0]
    assert_close_run(tmp_path / "sharded", tmp_path / "whole")


def test_a_bad_step_is_skipped_by_all(tmp_path: Path, spawn: Start) -> None:
    for how in WORKERS:
        assert train(spawn, tmp_path / how, how, poison={3: "gradient"}) == [0, 0]
    assert any(row.get("skipped_steps") for row in rows(tmp_path / "sharded"))
    torch.testing.assert_close(weights(tmp_path / "sharded"), weights(tmp_path / "whole"), rtol=1e-5, atol=1e-6)


def test_another_models_checkpoint_is_a_sentence(tmp_path: Path, runs: dict[str, Path], spawn: Start) -> None:
    chosen = {"resume_from_checkpoint": str(runs["sharded"] / "checkpoints" / "step-00000012")}
    assert train_on_two(spawn, tmp_path / "run", UNEVEN | chosen, worker=train_sharded, width=10) == [2, 2]
    assert "is a checkpoint of another model" in Path(f"{tmp_path / 'run'}.log").read_text()


@pytest.fixture
def forgotten() -> Iterator[None]:
    """accelerate keeps its state for the whole process, that of other tests too."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("options", "settings", "told"),
    [
        ({"version": 1}, {}, "fsdp_version: 1"),
        ({"offload": True}, {}, "fsdp_offload_params"),
        ({"mixed_precision": "fp16"}, {}, "--mixed-precision fp16"),
        ({}, {"optimizer": "muon"}, "--optimizer muon"),
        ({"offload": True}, {"optimizer": "muon"}, "fsdp_offload_params and --optimizer muon"),
    ],
)
def test_what_does_not_work_is_a_sentence(
    tmp_path: Path, forgotten: None, options: dict[str, Any], settings: dict[str, Any], told: str
) -> None:
    accelerator = sharding_accelerator(cpu=True, **options)
    with pytest.raises(UserError, match=f"FSDP does not work with {told}; launch as .*fsdp-eight-gpus.yaml does"):
        check_sharding(accelerator, toy_config(tmp_path, **settings))


def test_the_launch_file_is_one_that_works(tmp_path: Path, forgotten: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What accelerate makes of it, up to the plugin that each process reads from its environment."""
    file = Path(__file__).parents[2] / "configs" / "accelerate" / "fsdp-eight-gpus.yaml"
    arguments = launch_command_parser().parse_args(["--config_file", str(file), "-m", "ui.cli"])
    arguments, *_ = _validate_launch_command(arguments)
    for name, value in prepare_multi_gpu_env(arguments).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.transformer_cls_names_to_wrap == RPE2DTransformer2DModel._no_split_modules
    accelerator = sharding_accelerator(cpu=True)
    accelerator.state.fsdp_plugin = plugin
    check_sharding(accelerator, toy_config(tmp_path))
    assert (arguments.num_processes, accelerator.mixed_precision) == (8, "bf16")
