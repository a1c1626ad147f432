"""`workbench distill`: experts, matching, the product and its figures, one after the other.

`distill` below reads top to bottom as what is done. Each stage leaves files that say that it is complete, so that a
second call goes on where the first one stopped, or says that all is done.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ui.clock import Clock
from ui.distill_config import DistillConfig
from workbench.command import parse, polite
from workbench.config import to_mapping
from workbench.errors import UserError

if TYPE_CHECKING:
    from distill.ledger import Figures
    from ui.distill_plan import Plan

SETTINGS, FIGURES = "distill.yaml", "figures.json"
OUR_FOLDERS = ("experts", "matching", "png", "png.partial")
OUR_FILES = ("distilled.safetensors", "metadata.json", "grid.png", "README.md", "seconds.json", SETTINGS, FIGURES)
FREE = {"overwrite", "device", "output"}  # settings that change no result


def main(arguments: Sequence[str] | None = None, program: str = "workbench distill") -> None:
    """Read the settings and distil; exits with 2 after a mistake, 130 or 143 when stopped."""
    with polite():
        run(parse(DistillConfig, arguments, program))


def run(config: DistillConfig) -> None:
    """Distil, and print the figures."""
    figures = distill(config)
    from distill.evaluation import as_table

    print(f"\n{as_table(figures)}\n\nDone. The distilled set is in {config.output}; its README.md says how to use it")


def distill(config: DistillConfig) -> Figures:
    """Do all stages that are not done yet; returns the figures of the set.

    Raises UserError when the output folder holds something else, or the data cannot be used.
    """
    config.check()
    _open(config)
    if (config.output / FIGURES).exists():
        print(f"{config.output} is complete; nothing to do (--overwrite starts anew)")
        return _read(config.output / FIGURES)

    from ui.distill_plan import make_plan

    plan = make_plan(config)
    clock = Clock(config.output / "seconds.json")
    with clock.stage("1 of 4", f"train {plan.experts.num_experts} experts on {config.data}"):
        train_experts(plan)
    with clock.stage("2 of 4", f"match their trajectories; pictures as it goes: {plan.matching.output_dir}/samples"):
        match(plan)
    with clock.stage("3 of 4", "measure the distilled set on real test images"):
        figures = measure(plan)
    with clock.stage("4 of 4", "write it with its pictures and its card"):
        publish(plan, config.output, figures)
    return figures


# ---- the stages ---------------------------------------------------------------------------------------------------


def train_experts(plan: Plan) -> None:
    """Train those that are missing."""
    from distill import experts

    experts.train_experts(plan.experts)


def match(plan: Plan) -> None:
    """Distil; the result is a product of its own, with the recipe of matching."""
    from distill.export import export_distilled
    from distill.matching import Matching
    from distill.product import METADATA
    from distill.train import score

    if (plan.product / METADATA).exists():
        return
    matching = Matching(plan.matching)
    matching.run(
        lambda distilled: score(distilled, matching, plan.recipe),
        lambda distilled, folder: export_distilled(distilled, plan.recipe, plan.origin, folder),
    )


def measure(plan: Plan) -> Figures:
    """All figures, measured on the test images once."""
    from distill.evaluation import evaluate

    assert plan.evaluation.output is not None
    return _read(plan.evaluation.output) if plan.evaluation.output.exists() else evaluate(plan.evaluation)


def publish(plan: Plan, output: Path, figures: Figures) -> None:
    """Write the product with its figures; these last, as the mark that all is done."""
    from dataclasses import replace

    from distill.export import export_distilled
    from distill.product import read_distilled
    from workbench.files import user_errors_for_disk, write_atomic

    distilled, _ = read_distilled(plan.product)
    export_distilled(distilled, plan.recipe, replace(plan.origin, figures=figures), output, overwrite=True)
    with user_errors_for_disk(output):
        write_atomic(output / FIGURES, json.dumps({"figures": figures}, indent=1) + "\n")


def _read(path: Path) -> Figures:
    figures: Figures = json.loads(path.read_text())["figures"]
    return figures


# ---- the output folder ---------------------------------------------------------------------------------------------


def _open(config: DistillConfig) -> None:
    """Make or reopen the output folder. Raises UserError when it holds other settings, or something else."""
    from workbench.files import make_folder, user_errors_for_disk, write_atomic

    path = config.output / SETTINGS
    settings = {key: value for key, value in to_mapping(config).items() if key not in FREE}
    ours = path.exists()
    if ours and config.overwrite:
        _forget(config.output)
    elif ours:
        _check_same(config.output, settings, yaml.safe_load(path.read_text()) or {})
    elif config.output.is_dir() and any(config.output.iterdir()):
        raise UserError(f"{config.output} holds files that are no distillation; choose another --output")
    with user_errors_for_disk(config.output):
        make_folder(config.output)
        write_atomic(path, yaml.safe_dump(settings, sort_keys=False))


def _check_same(output: Path, settings: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    changed = [key for key in settings if stored.get(key) != settings[key]]
    if changed:
        told = ", ".join(f"{key} was {stored.get(key)!r} and is now {settings[key]!r}" for key in changed)
        raise UserError(
            f"{output} holds a distillation with other settings: {told}; give the same settings to go on, "
            "another --output, or --overwrite to start anew"
        )


def _forget(output: Path) -> None:
    """Remove an earlier distillation, and nothing that a person has put beside it."""
    for name in OUR_FOLDERS:
        shutil.rmtree(output / name, ignore_errors=True)
    for name in OUR_FILES:
        (output / name).unlink(missing_ok=True)
