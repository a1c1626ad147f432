"""Train what explanations are made with: `accelerate launch explain/train.py RECIPE ...`.

The same script runs under plain Python, on one GPU and on many:

    python explain/train.py ttame --classifier runs/classifier --data fashion-mnist --output-dir runs/ttame
    workbench train ttame --classifier torchvision:resnet50 --data path/to/images --output-dir runs/ttame
    accelerate launch explain/train.py ttame --classifier timm:resnet18 --data path/to/images --output-dir runs/ttame
    workbench train caption --data scenes:planted --output-dir runs/captioner
    workbench train segment --data scenes --output-dir runs/segmenter

Stopped (Ctrl-C, SIGTERM, or worse), the same command goes on where it was. The result is OUTPUT_DIR/explainer (of
caption, OUTPUT_DIR/captioner; of segment, OUTPUT_DIR/segmenter).
"""

import importlib
from collections.abc import Sequence
from typing import Any

try:
    from workbench.command import parse, polite
except ModuleNotFoundError as error:  # launched as a script, this folder is on the path and the repository is not
    raise SystemExit(f"error: {error}; install the workbench first: pip install -e . in its folder") from None

from explain.caption_config import CaptionConfig
from explain.segment_config import SegmentConfig
from explain.ttame_config import TTameConfig
from workbench.config import TrainingConfig

CONFIGS: dict[str, type[TrainingConfig]] = {"ttame": TTameConfig, "caption": CaptionConfig, "segment": SegmentConfig}
RECIPES = {
    "ttame": ("explain.ttame_recipe", "TTameRecipe"),
    "caption": ("explain.caption_recipe", "CaptionRecipe"),
    "segment": ("explain.segment_recipe", "SegmentRecipe"),
}
NEXT = {  # what to do with a result; in braces the run's settings and its result
    "explainer": "explain images with it:\n  workbench explain IMAGE_OR_FOLDER --classifier {config.classifier} "
    "--method ttame --explainer {config.output_dir} --output DIR",
    "segmenter": "let it cut out what a classifier looks at:\n  workbench explain IMAGE_OR_FOLDER "
    "--classifier SPEC --method vale --segmenter {result} --output DIR",
    "captioner": "let it describe what a classifier looks at:\n  workbench explain IMAGE_OR_FOLDER "
    "--classifier SPEC --method vale --describer {result} --output DIR",
}


def main(arguments: Sequence[str] | None = None, program: str = "explain/train.py") -> None:
    """Read the settings and train; exits with 2 after a mistake, 130 or 143 when stopped."""
    with polite():
        train(parse(CONFIGS, arguments, program, "Train what explanations are made with."))


def train(config: TrainingConfig) -> None:
    """Train the recipe that `config` belongs to, or only say how large the work is, or which learning rate suits."""
    config.check()
    from workbench.training import Training

    run = Training(recipe := make_recipe(config))
    if config.dry_run:
        print(run.describe(), end="")
        if isinstance(config, TTameConfig):
            _print_layers(recipe)
        return
    if isinstance(config, TTameConfig) and config.find_learning_rate:
        _print_rates(run)
        return
    result = run.train()
    if run.main:
        print(f"Done. The {result.name} is in {result}; {NEXT[result.name].format(config=config, result=result)}")


def make_recipe(config: TrainingConfig) -> Any:
    """The recipe of a config: reads the data and builds the model."""
    name = next(name for name, kind in CONFIGS.items() if type(config) is kind)
    module, recipe = RECIPES[name]
    return getattr(importlib.import_module(module), recipe)(config)


def _print_layers(recipe: Any) -> None:
    from explain.anatomy import dissect

    print("# layers that --layers can name:")
    print(dissect(recipe.classifier, recipe.pictures.size).table())


def _print_rates(run: Any) -> None:
    from workbench.rate_range import range_test

    if run.main:
        print(range_test(run.recipe, run.accelerator.device).table())


if __name__ == "__main__":
    main()
