"""Train an explainer of a classifier: `accelerate launch explain/train.py ttame ...`.

The same script runs under plain Python, on one GPU and on many:

    python explain/train.py ttame --classifier runs/classifier --data fashion-mnist --output-dir runs/ttame
    workbench train ttame --classifier torchvision:resnet50 --data path/to/images --output-dir runs/ttame
    accelerate launch explain/train.py ttame --classifier timm:resnet18 --data path/to/images --output-dir runs/ttame

Stopped (Ctrl-C, SIGTERM, or worse), the same command goes on where it was. The result is OUTPUT_DIR/explainer.
"""

from collections.abc import Sequence

try:
    from workbench.command import parse, polite
except ModuleNotFoundError as error:  # launched as a script, this folder is on the path and the repository is not
    raise SystemExit(f"error: {error}; install the workbench first: pip install -e . in its folder") from None

from explain.ttame_config import TTameConfig

CONFIGS: dict[str, type[TTameConfig]] = {"ttame": TTameConfig}


def main(arguments: Sequence[str] | None = None, program: str = "explain/train.py") -> None:
    """Read the settings and train; exits with 2 after a mistake, 130 or 143 when stopped."""
    with polite():
        train(parse(CONFIGS, arguments, program, "Train an explainer of a classifier."))


def train(config: TTameConfig) -> None:
    """Train an attention module, or only say how large the work is."""
    config.check()
    from explain.anatomy import dissect
    from explain.ttame_recipe import TTameRecipe
    from workbench.training import Training

    run = Training(recipe := TTameRecipe(config))
    if config.dry_run:
        print(run.describe() + "# layers that --layers can name:")
        print(dissect(recipe.classifier, recipe.pictures.size).table())
        return
    result = run.train()
    if run.main:
        print(
            f"Done. The explainer is in {result}; explain images with it:\n  workbench explain IMAGE_OR_FOLDER "
            f"--classifier {config.classifier} --method ttame --explainer {config.output_dir} --output DIR"
        )


if __name__ == "__main__":
    main()
