"""Train a generator: `accelerate launch gen/train.py RECIPE ...`.

The same script runs under plain Python, on one GPU, on many, and on many machines:

    python gen/train.py rpe2d --data fashion-mnist --resolution 32 --output-dir runs/fashion
    workbench train rpe2d --data path/to/folder --resolution 64x48 --output-dir runs/mine
    accelerate launch gen/train.py rpe2d --data fashion-mnist --resolution 32 --output-dir runs/fashion
    torchrun --standalone --nproc_per_node 2 gen/train.py rpe2d ...        (two processes on a CPU)

Stopped (Ctrl-C, SIGTERM, or worse), the same command goes on where it was. The result is OUTPUT_DIR/pipeline.
"""

import importlib
from collections.abc import Sequence
from typing import Any

try:
    from workbench.command import parse, polite
except ModuleNotFoundError as error:  # launched as a script, this folder is on the path and the repository is not
    raise SystemExit(f"error: {error}; install the workbench first: pip install -e . in its folder") from None

from gen.rpe2d.config import RPE2DConfig
from workbench.config import TrainingConfig

CONFIGS: dict[str, type[TrainingConfig]] = {"rpe2d": RPE2DConfig}
RECIPES = {"rpe2d": ("gen.rpe2d.recipe", "RPE2DRecipe")}


def main(arguments: Sequence[str] | None = None, program: str = "gen/train.py") -> None:
    """Read the settings and train; exits with 2 after a mistake, 130 or 143 when stopped."""
    with polite():
        config = parse(CONFIGS, arguments, program, "Train a generator. Each recipe has its own --help.")
        train(config)


def train(config: TrainingConfig) -> None:
    """Train the recipe that `config` belongs to."""
    config.check()
    from workbench.training import Training

    run = Training(make_recipe(config))
    if config.dry_run:
        print(run.describe(), end="")
        return
    result = run.train()
    if run.main:
        print(f"Done. The pipeline is in {result}; sample it with:\n  workbench sample {result} --output DATA")


def make_recipe(config: TrainingConfig) -> Any:
    """The recipe of a config: reads the data and builds the model."""
    name = next(name for name, kind in CONFIGS.items() if type(config) is kind)
    module, recipe = RECIPES[name]
    return getattr(importlib.import_module(module), recipe)(config)


if __name__ == "__main__":
    main()
