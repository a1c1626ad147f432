"""Train a generator: `accelerate launch gen/train.py RECIPE ...`.

The same script runs under plain Python, on one GPU, on many, and on many machines:

    python gen/train.py rpe2d --data fashion-mnist --resolution 32 --output-dir runs/fashion
    python gen/train.py pixel --data fashion-mnist --resolution 28 --output-dir runs/one-step
    python gen/train.py inpaint --data path/to/photographs --preset px64 --resolution 64 --output-dir runs/inpaint
    workbench train rpe2d --data path/to/folder --resolution 64x48 --output-dir runs/mine
    accelerate launch gen/train.py rpe2d --data fashion-mnist --resolution 32 --output-dir runs/fashion
    torchrun --standalone --nproc_per_node 2 gen/train.py rpe2d ...        (two processes on a CPU)

Stopped (Ctrl-C, SIGTERM, or worse), the same command goes on where it was. The result is OUTPUT_DIR/pipeline (of
pixel-pretrain, OUTPUT_DIR/encoder).
"""

import importlib
from collections.abc import Sequence
from typing import Any

try:
    from workbench.command import parse, polite
except ModuleNotFoundError as error:  # launched as a script, this folder is on the path and the repository is not
    raise SystemExit(f"error: {error}; install the workbench first: pip install -e . in its folder") from None

from gen.inpaint.config import StructureConfig, VQVAEConfig
from gen.inpaint.texture_config import DiverseInpaintConfig, TextureConfig
from gen.pixel.config import ConsistencyConfig, DiffusionConfig, PixelConfig, PretrainingConfig
from gen.rpe2d.config import RPE2DConfig
from workbench.config import TrainingConfig

CONFIGS: dict[str, type[TrainingConfig]] = {
    "rpe2d": RPE2DConfig,
    "pixel": PixelConfig,
    "pixel-pretrain": PretrainingConfig,
    "pixel-diffusion": DiffusionConfig,
    "pixel-consistency": ConsistencyConfig,
    "inpaint": DiverseInpaintConfig,
    "inpaint-vqvae": VQVAEConfig,
    "inpaint-structure": StructureConfig,
    "inpaint-texture": TextureConfig,
}
RECIPES = {
    "rpe2d": ("gen.rpe2d.recipe", "RPE2DRecipe"),
    "pixel-pretrain": ("gen.pixel.pretraining", "PretrainingRecipe"),
    "pixel-diffusion": ("gen.pixel.diffusion", "DiffusionRecipe"),
    "pixel-consistency": ("gen.pixel.consistency", "ConsistencyRecipe"),
    "inpaint-vqvae": ("gen.inpaint.vqvae_recipe", "VQVAERecipe"),
    "inpaint-structure": ("gen.inpaint.structure_recipe", "StructureRecipe"),
    "inpaint-texture": ("gen.inpaint.texture_recipe", "TextureRecipe"),
}
CHAINS: dict[type[TrainingConfig], tuple[str, str]] = {  # several recipes in a row
    PixelConfig: ("gen.pixel.recipe", "train_all"),
    DiverseInpaintConfig: ("gen.inpaint.recipe", "train_all"),
}
NEXT = {  # what to do with a result
    "pipeline": "sample it with:\n  workbench sample {} --output DATA",
    "encoder": "train a generator from it with:\n  workbench train pixel-diffusion --init-from {} --output-dir RUN",
    "vqvae": "train the other stages with:\n  workbench train inpaint --vqvae {} --output-dir RUN",
    "structure": "join it to the others with:\n  workbench train inpaint --structure {} --vqvae RUN --output-dir RUN",
    "texture": "join it to the others with:\n  workbench train inpaint --texture {} --vqvae RUN --output-dir RUN",
}


def main(arguments: Sequence[str] | None = None, program: str = "gen/train.py") -> None:
    """Read the settings and train; exits with 2 after a mistake, 130 or 143 when stopped."""
    with polite():
        config = parse(CONFIGS, arguments, program, "Train a generator. Each recipe has its own --help.")
        train(config)


def train(config: TrainingConfig) -> None:
    """Train the recipe that `config` belongs to, or all of its stages."""
    config.check()
    if type(config) in CHAINS:
        module, function = CHAINS[type(config)]
        getattr(importlib.import_module(module), function)(config, train)
        return
    from workbench.training import Training

    run = Training(make_recipe(config))
    if config.dry_run:
        print(run.describe(), end="")
        return
    result = run.train()
    if run.main:
        print(f"Done. The {result.name} is in {result}; {NEXT[result.name].format(result)}")


def make_recipe(config: TrainingConfig) -> Any:
    """The recipe of a config: reads the data and builds the model."""
    name = next(name for name, kind in CONFIGS.items() if type(config) is kind)
    module, recipe = RECIPES[name]
    return getattr(importlib.import_module(module), recipe)(config)


if __name__ == "__main__":
    main()
