"""Distil a data set: `accelerate launch distill/train.py experts|match|evaluate ...`, one after the other.

    python distill/train.py experts --data fashion-mnist --output-dir runs/experts
    python distill/train.py match --experts runs/experts --images-per-class 10 --output-dir runs/ten
    python distill/train.py evaluate runs/ten
    torchrun --standalone --nproc_per_node 2 distill/train.py match ...        (two processes on a CPU)

Stopped (Ctrl-C, SIGTERM, or worse), the same command goes on where it was. `workbench distill` does all of it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

try:
    from workbench.command import parse, polite
except ModuleNotFoundError as error:  # launched as a script, this folder is on the path and the repository is not
    raise SystemExit(f"error: {error}; install the workbench first: pip install -e . in its folder") from None

from distill.config import ExpertsConfig, MatchConfig
from distill.evaluation_config import EvaluateConfig, TrainingRecipe

if TYPE_CHECKING:
    from distill.distilled import Distilled
    from distill.matching import Matching

CONFIGS = {"experts": ExpertsConfig, "match": MatchConfig, "evaluate": EvaluateConfig}


def main(arguments: Sequence[str] | None = None, program: str = "distill/train.py") -> None:
    """Read the settings and do that part; exits with 2 after a mistake, 130 or 143 when stopped."""
    with polite():
        config = parse(CONFIGS, arguments, program, "Distil a data set to a few images. Each part has its own --help.")
        if isinstance(config, ExpertsConfig):
            experts(config)
        elif isinstance(config, MatchConfig):
            match(config)
        else:
            evaluate(config)


def experts(config: ExpertsConfig) -> None:
    """Train the experts that are missing."""
    from distill.experts import describe, train_experts

    if config.dry_run:
        print(describe(config), end="")
    elif train_experts(config):
        print(
            f"Done. The experts are in {config.output_dir}; match them with:\n"
            f"  python distill/train.py match --experts {config.output_dir} --images-per-class 10 --output-dir RUN"
        )


def match(config: MatchConfig) -> Path | None:
    """Distil; returns the product's folder, or None for a dry run."""
    from distill.export import export_distilled
    from distill.matching import Matching
    from distill.product import Origin

    matching = Matching(config)
    if config.dry_run:
        print(matching.describe(), end="")
        return None
    recipe = TrainingRecipe(augmentation=matching.buffer.settings["augmentation"])
    origin = Origin(matching.buffer.settings["data"], matching.buffer.description["data_checksum"])
    result = matching.run(
        lambda distilled: score(distilled, matching, recipe),
        lambda distilled, folder: export_distilled(distilled, recipe, origin, folder),
    )
    if matching.main:
        print(f"Done. The distilled set is in {result}; measure it with:\n  python distill/train.py evaluate {result}")
    return result


def score(distilled: "Distilled", matching: "Matching", recipe: TrainingRecipe) -> float:
    """Mean accuracy on held-out images of a few fresh networks, trained for fewer epochs than the recipe's."""
    import statistics
    from dataclasses import replace

    from distill.evaluate import measure

    config = matching.config
    shorter = replace(recipe, epochs=config.validation_epochs)
    held_out, networks = matching.sources.validation, config.validation_networks
    network = matching.buffer.network
    return statistics.mean(measure(distilled, network, shorter, held_out, networks, config.seed, "validating"))


def evaluate(config: EvaluateConfig) -> None:
    """Measure a distilled set on test images."""
    from distill.evaluation import as_table
    from distill.evaluation import evaluate as measure_all
    from distill.processes import start_processes

    figures = measure_all(config)
    if start_processes(config.device).is_main_process:
        print(as_table(figures))


if __name__ == "__main__":
    main()
