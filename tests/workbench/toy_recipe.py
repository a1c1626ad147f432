"""A recipe of 4 x 8 weights that fits noisy lines, and ways to run it: here, in a process of its own, under torchrun.

torchrun --standalone --nproc_per_node 2 tests/workbench/toy_recipe.py '{"output_dir": "runs/toy"}'
"""

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from workbench.command import polite
from workbench.config import TrainingConfig, from_mapping
from workbench.metrics_log import read_metrics
from workbench.recipe import Draws, Recipe
from workbench.training import Training

SPEED = {"images_per_second", "overhead_share"}


class ToyRecipe(Recipe):
    """Least squares with noise on the inputs.

    `poison` maps an example to what is not finite in its batch: the loss ("nan", "inf"), only the "gradient", or the
    "inputs". The first process sends itself the signal `signal_at[1]` in the `signal_at[0]`-th step it does.
    """

    name = "toy"
    result = "result"

    def __init__(
        self,
        config: TrainingConfig,
        *,
        num_examples: int = 37,
        width: int = 8,
        normalised: bool = False,
        poison: Mapping[int, str] | None = None,
        signal_at: tuple[int, int] | None = None,
        pause: float = 0.0,
    ) -> None:
        self.config, self.num_examples = config, num_examples
        self.poison, self.signal_at, self.pause, self.draws = poison or {}, signal_at, pause, 0
        generator = torch.Generator().manual_seed(3)
        self.inputs = torch.randn(num_examples, 3, generator=generator)
        self.targets = self.inputs @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.3
        layers = [nn.Linear(3, width), *([nn.BatchNorm1d(width)] if normalised else []), nn.Tanh(), nn.Linear(width, 1)]
        self.model = nn.Sequential(*layers)
        for weights in self.model.parameters():
            weights.data = torch.randn(weights.shape, generator=generator) / 2

    def to(self, device: torch.device) -> None:
        self.inputs, self.targets = self.inputs.to(device), self.targets.to(device)

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        self.draws += 1
        time.sleep(self.pause)
        if self.signal_at and self.draws == self.signal_at[0] and os.environ.get("RANK", "0") == "0":
            os.kill(os.getpid(), self.signal_at[1])
        return {"noise": torch.randn(batch_size, 3, generator=generator)}

    def loss(self, model: nn.Module, indices: Tensor, draws: Draws) -> dict[str, Tensor]:
        inputs, targets = self.inputs[indices], self.targets[indices]
        evils = {self.poison[k] for k in indices.tolist() if k in self.poison}
        if "inputs" in evils:
            inputs = inputs * torch.inf
        predictions = model(inputs + 0.1 * draws["noise"])
        loss = F.mse_loss(predictions, targets)
        if evils & {"nan", "inf"}:
            loss = loss * float((evils & {"nan", "inf"}).pop())
        if "gradient" in evils:
            loss = loss + (predictions - predictions.detach()).sqrt().sum()  # 0, of infinite slope
        return {"loss": loss, "mean_prediction": predictions.detach().mean()}

    def validate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        model.eval()
        (folder / f"step-{step}.txt").write_text("a picture")
        return {"error": F.mse_loss(model(self.inputs), self.targets).item()}

    def publish(self, model: nn.Module, folder: Path, record: Mapping[str, Any]) -> None:
        save_file(dict(model.state_dict()), folder / "model.safetensors")
        (folder / "record.json").write_text(json.dumps(record))


def toy_config(output: Path, **changes: Any) -> TrainingConfig:
    """Twelve steps of four examples in fp32, a checkpoint every five."""
    settings: dict[str, Any] = {
        "train_batch_size": 4, "max_train_steps": 12, "lr_warmup_steps": 3, "learning_rate": 1e-2, "ema_decay": 0.9,
        "logging_steps": 1, "checkpointing_steps": 5, "checkpoints_total_limit": 2, "validation_steps": 0,
        "mixed_precision": "no", "device": "cpu",
    }  # fmt: skip
    return from_mapping(TrainingConfig, {"output_dir": str(output), **settings, **changes})


def run_toy(output: Path, recipe: Mapping[str, Any] | None = None, **changes: Any) -> Path:
    """Train in this process; returns the run's folder."""
    Training(ToyRecipe(toy_config(output, **changes), **(recipe or {}))).train()
    return output


# ---- what a run left -------------------------------------------------------------------------------------------------


def rows(run: Path, *, but: set[str] = SPEED) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the machine."""
    return [{k: v for k, v in row.items() if k not in but} for row in read_metrics(run / "metrics.jsonl")]


def losses(run: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in rows(run) if "loss" in row}


def checkpoint_names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def weights(run: Path, step: int | None = None) -> dict[str, Tensor]:
    """Weights, their average and the optimizer's state at a checkpoint (the newest unless given), by name."""
    folder = run / "checkpoints" / (f"step-{step:08d}" if step is not None else checkpoint_names(run)[-1])
    found = {
        f"{name}.{k}": v for name in ("model", "ema") for k, v in load_file(folder / f"{name}.safetensors").items()
    }
    optimizer = torch.load(folder / "optimizer.bin", weights_only=True)["state"]
    return found | {f"optimizer.{i}.{k}": v for i, state in optimizer.items() for k, v in state.items()}


def assert_same_run(first: Path, second: Path) -> None:
    """Bit for bit: weights, average, optimizer, published result, and every line of the log but for times."""
    assert rows(first) == rows(second)
    assert_equal(weights(first), weights(second))
    assert_equal(load_file(first / "result" / "model.safetensors"), load_file(second / "result" / "model.safetensors"))


def assert_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


# ---- processes -------------------------------------------------------------------------------------------------------


def train_like_a_command(
    output: Path,
    changes: Mapping[str, Any],
    recipe: Mapping[str, Any] | None = None,
    arguments: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> None:
    """What a process of `gen/train.py ARGUMENTS` does; its words go to OUTPUT.log."""
    os.environ.update(environment or {})
    sys.argv = ["gen/train.py", *arguments]
    with Path(f"{output}.log").open("a") as log, contextlib.redirect_stderr(log), polite():
        run_toy(output, recipe, **changes)


def train_then_die(output: Path, changes: Mapping[str, Any], place: str, name: str, calls: int) -> None:
    """Train, and be killed at the call number `calls` of the function `name` of the module or class `place`."""
    module, _, cls = place.partition(":")
    owner = __import__(module, fromlist=["_"])
    owner = getattr(owner, cls) if cls else owner
    original, left = getattr(owner, name), calls

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, deadly)
    train_like_a_command(output, changes)


def train_on_two(
    start: Callable[..., BaseProcess],
    output: Path,
    changes: Mapping[str, Any],
    *,
    worker: Callable[..., None] = train_like_a_command,
    **recipe: Any,
) -> list[int]:
    """Two processes as torchrun starts them; returns their exit codes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    processes = [
        start(worker, output, changes, recipe, (), {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    for process in processes:
        process.join(60)
    return [process.exitcode if process.exitcode is not None else -1 for process in processes]


if __name__ == "__main__":
    with polite():
        settings = json.loads(sys.argv[1])
        run_toy(Path(settings.pop("output_dir")), **settings)
