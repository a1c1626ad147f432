"""The tables of the pixel benchmark: diffusion models, one-step models, probes, and four questions with yes or no."""

import argparse
import statistics
from typing import Any, NamedTuple

from measured import table
from pixel_arms import CONSISTENCY, DIFFUSION, ENCODERS, Task, costs

LONGER = "scratch-long"
MANY = 18
SIGNS = {True: "**yes**", False: "**no**", None: "not measured"}
DISTANCE, KERNEL, AGREEMENT = "frechet_distance", "kernel_distance", "class_agreement"
ENOUGH = 0.8  # of the many-step model's class agreement, for one step to work
MEANINGFUL = 0.5  # class agreement of the many-step model, below which its heir's says nothing


class Found(NamedTuple):
    """What was measured of one arm, after so many steps, by so many evaluations an image."""

    arm: str
    seed: int
    steps: int
    evaluations: int
    figures: dict[str, float]


class Results:
    """The rows of all seeds, by what was measured."""

    def __init__(self, found: list[Found]) -> None:
        self.found = found

    def values(self, measure: str, arm: str, steps: int, evaluations: int) -> list[float]:
        """One for each seed."""
        wanted = (arm, steps, evaluations)
        return [row.figures[measure] for row in self.found if (row.arm, row.steps, row.evaluations) == wanted]

    def cell(self, measure: str, arm: str, steps: int, evaluations: int) -> str:
        """Mean and standard deviation over seeds."""
        return spread(self.values(measure, arm, steps, evaluations))

    def has(self, arm: str) -> bool:
        """Whether the arm was measured."""
        return any(row.arm == arm for row in self.found)


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    if len(values) < 2:
        return "".join(f"{value:.3g}" for value in values) or "-"
    return f"{statistics.mean(values):.3g} ± {statistics.stdev(values):.2g}"


def pixel_tables(task: Task, found: list[Found], real: dict[str, float], options: argparse.Namespace) -> str:
    """All of it, as markdown."""
    results = Results(found)
    parts = [
        f"{task.data} at {task.resolution} px, preset {options.preset}, patches of {options.patch_size}, "
        f"{options.optimizer}, batch {options.batch_size}, pre-training {task.pretraining_steps} steps; seeds "
        f"{', '.join(map(str, options.seeds))}; {options.images} images of each row. "
        f"As many real training images: Frechet distance {real[DISTANCE]:.3g}, kernel distance {real[KERNEL]:.2g}, "
        f"class agreement {real[AGREEMENT]:.3g}. Mean ± standard deviation over seeds.",
        "## Answers\n\n" + table(["question", "answer", "figures"], answers(task, results)),
        f"## Diffusion models, {MANY} evaluations an image\n\n" + diffusion_table(task, results),
        "## In few evaluations\n\n" + few_table(task, results),
        "## What the encoders know: accuracy of 20 neighbours, by noise level\n\n" + probe_table(task, results),
    ]
    return "\n\n".join(parts)


def diffusion_table(task: Task, results: Results) -> str:
    """Distance by steps, and what they cost with the pre-training."""
    heads = ["encoder", *(f"Frechet distance at {steps}" for steps in task.milestones), "kernel distance",
             "class agreement", "training, PFLOP"]  # fmt: skip
    rows = []
    for name, arm in DIFFUSION.items():
        if results.has(name):
            last = (name, task.steps, MANY)
            cells = [results.cell(DISTANCE, name, steps, MANY) for steps in task.milestones]
            cells += [results.cell(KERNEL, *last), results.cell(AGREEMENT, *last), f"{petaflops(task, name):.2f}"]
            rows.append([arm.name, *cells])
    if results.has(LONGER):
        longer = (LONGER, task.longer("full"), MANY)
        cells = [results.cell(measure, *longer) for measure in (DISTANCE, KERNEL, AGREEMENT)]
        named = f"from nothing, longer: {longer[1]} steps"
        rows.append([named, *["-"] * (len(task.milestones) - 1), *cells, f"{petaflops(task, LONGER):.2f}"])
    return table(heads, rows)


def few_table(task: Task, results: Results) -> str:
    """One-step models beside diffusion models that are asked as seldom."""
    heads = ["model", "evaluations", "Frechet distance", "kernel distance", "class agreement"]
    arms = [(f"one-step, {arm.name}", name, task.consistency_steps, (1, 2)) for name, arm in CONSISTENCY.items()]
    arms += [(f"diffusion, {DIFFUSION[name].name}", name, task.steps, (1, 2, 4, MANY)) for name in ("ssl", "scratch")]
    rows = []
    for named, name, steps, evaluations in arms:
        for count in evaluations if results.has(name) else ():
            cells = [results.cell(measure, name, steps, count) for measure in (DISTANCE, KERNEL, AGREEMENT)]
            rows.append([named, str(count), *cells])
    return table(heads, rows)


def probe_table(task: Task, results: Results) -> str:
    """Accuracy of the neighbours' votes."""
    sigmas = ("0.01", "0.5", "2")
    rows = []
    for name in ENCODERS:
        if results.has(name):
            steps = task.pretraining_steps
            rows.append([name, *(results.cell(f"neighbour_accuracy_at_{s}", name, steps, 0) for s in sigmas)])
    return table(["pre-training", *(f"sigma {s}" for s in sigmas)], rows)


def petaflops(task: Task, name: str) -> float:
    """What training costs up to the last milestone, pre-training included; a backward pass counts as two forward."""
    alone, whole = costs(task)
    steps = task.longer("full") if name == LONGER else task.steps
    start = DIFFUSION[name].start if name in DIFFUSION else None
    pretraining = task.pretraining_steps * ENCODERS[start].passes * alone if start else 0.0
    return (pretraining + 3 * steps * whole) * task.settings["train_batch_size"] / 1e15


def answers(task: Task, results: Results) -> list[list[str]]:
    """The four questions. An answer is yes where it holds for every seed."""
    last = (task.steps, MANY)
    one, many = (task.consistency_steps, 1), ("ssl", *last)
    return [
        ["Does pre-training help at equal steps of the second stage?",
         *lower(results, ("ssl", *last), ("scratch", *last))],
        ["At equal compute in total?", *lower(results, ("ssl", *last), (LONGER, task.longer("full"), MANY))],
        ["Does consistency between noise levels add to contrast alone?",
         *lower(results, ("ssl", *last), ("ssl-noRC", *last))],
        ["Does the one-step model work (default road)?", *one_step(results, ("cm-dm", *one), many)],
        ["Does it on the paper's road, from the encoder?", *one_step(results, ("cm-ssl-guide", *one), many)],
    ]  # fmt: skip


Row = tuple[str, int, int]  # arm, steps, evaluations


def lower(results: Results, mine: Row, other: Row) -> list[str]:
    """Whether the first one's distance is the lower one, seed by seed."""
    ours, theirs = (results.values(DISTANCE, *row) for row in (mine, other))
    if not ours or len(ours) != len(theirs):
        return [SIGNS[None], "-"]
    wins = sum(a < b for a, b in zip(ours, theirs, strict=True))
    return [SIGNS[wins == len(ours)], f"{spread(ours)} against {spread(theirs)}; lower in {wins} of {len(ours)} seeds"]


def one_step(results: Results, mine: Row, many: Row) -> list[str]:
    """Whether one step is closer than the diffusion model's one and two, and as clear as four fifths of its many,
    which has to be clear itself."""
    arm, steps, _ = many
    ours, agreement = (results.values(measure, *mine) for measure in (DISTANCE, AGREEMENT))
    few = [results.values(DISTANCE, arm, steps, count) for count in (1, 2)]
    reached = results.values(AGREEMENT, *many)
    if not ours or any(len(values) != len(ours) for values in (*few, reached)):
        return [SIGNS[None], "-"]
    closer = all(a < min(b) for a, b in zip(ours, zip(*few, strict=True), strict=True))
    shares = [a / b for a, b in zip(agreement, reached, strict=True)]
    told: Any = f"{spread(ours)} against {spread(few[0])} (one) and {spread(few[1])} (two evaluations); agreement "
    works = closer and min(shares) >= ENOUGH and min(reached) >= MEANINGFUL
    return [SIGNS[works], f"{told}{spread(agreement)}, {spread(shares)} of that of {MANY}"]
