"""The tables of the benchmark of ASPIRE, and what its claims came to."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from aspire_arms import ALONE, BALANCED_SET, BOTH, DIRECT, ERM, FEWER, GENERATED, NONE, OTHERS, PLAIN
from measured import table

Figures = dict[str, float]
Place = tuple[str, str]  # items, plant
Arms = dict[tuple[str, str], list[Figures]]  # method, addition: one for each seed
GAIN, GAP = 0.5, 0.08  # that ASPIRE should lift ERM's worst group by, and how near to the balanced set it should come
FOUND = {
    "precision_at_1": "precision@1", "first_of_its_class": "first of its class", "recall_at_k": "recall@k",
    "auroc": "AUROC", "reciprocal_rank": "reciprocal rank", "kept": "planted, above the cut-off",
    "false": "others above it", "features": "features", "edits": "edits",
    "edits_without_screening": "without screening", "backgrounds_right": "backgrounds said right",
    "objects_right": "objects said right", "label_iou": "IoU of the label's mask", "seconds": "seconds",
}  # fmt: skip


@dataclass
class Found:
    """Figures of each set, one for each seed."""

    discovery: defaultdict[Place, list[Figures]] = field(default_factory=lambda: defaultdict(list))
    accuracy: defaultdict[Place, defaultdict[tuple[str, str], list[Figures]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )


def aspire_table(found: Found) -> str:
    """What was found in all sets, accuracy set by set, and the claims."""
    heads = [name for name in FOUND if any(name in one for seeds in found.discovery.values() for one in seeds)]
    rows = [
        [items, plant, *(mean(seeds, name) for name in heads), str(len(seeds))]
        for (items, plant), seeds in found.discovery.items()
    ]
    parts = [
        "## What is found",
        "Features of the ranking, best first, against what was planted; means over seeds. The last columns say what "
        "the stand-ins are worth, on training images.",
        table(["items", "planted", *(FOUND[name] for name in heads), "seeds"], rows),
    ]
    for (items, plant), arms in found.accuracy.items():
        parts += [f"## Accuracy: {items}, {plant}", accuracy_table(arms)]
    return "\n\n".join([*parts, "## Claims", "\n".join(f"- {line}" for line in claims(found))])


def accuracy_table(arms: Arms) -> str:
    """Percent, mean and standard deviation over seeds; an addition of which there was nothing has no row."""
    names = ("worst", "average", "weighted")
    rows = [
        [method, addition, mean(seeds, "added"), *(spread([one[name] for one in seeds]) for name in names)]
        for (method, addition), seeds in arms.items()
        if all("worst" in one for one in seeds)
    ]
    return table(["method", "added", "images", "worst group", "average", "weighted as in training"], rows)


def mean(seeds: Sequence[Figures], name: str) -> str:
    """Over the seeds that have it."""
    values = [one[name] for one in seeds if name in one]
    return f"{fmean(values):.3g}" if values else "-"


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, in percent."""
    return f"{100 * fmean(values):.1f}" + (f" ± {100 * stdev(values):.1f}" if len(values) > 1 else "")


# ---- claims ----------------------------------------------------------------------------------------------------------


def claims(found: Found) -> list[str]:
    """Each says whether it holds, with the figures it was judged by."""
    lines = []
    for (items, plant), seeds in found.discovery.items():
        lines += [f"{items}, {plant}: {line}" for line in found_claims(seeds, plant)]
    for (items, plant), arms in found.accuracy.items():
        lines += [f"{items}, {plant}: {line}" for line in accuracy_claims(arms)]
    return lines


def found_claims(seeds: Sequence[Figures], plant: str) -> list[str]:
    """Each planted feature first in its class in every seed, and none but planted ones above the cut-off."""
    false = [one["false"] for one in seeds]
    lines = [verdict(not any(false), f"nothing but what was planted is above the cut-off ({words(false)} others)")]
    if plant != "none":
        first, right = ([one[name] for one in seeds] for name in ("precision_at_1", "first_of_its_class"))
        lines.append(verdict(min(first) == 1, f"precision@1 is 1 ({words(first)})"))
        lines.append(verdict(min(right) == 1, f"a planted feature is the first of each class ({words(right)})"))
    return lines


def accuracy_claims(arms: Arms) -> list[str]:
    """Against ERM, the balanced set, each method alone, and the controls, by the mean of the worst group."""
    worst = {arm: fmean(one["worst"] for one in seeds) for arm, seeds in arms.items() if _measured(seeds)}
    lines = []
    if {(ERM, NONE), (ERM, DIRECT)} <= set(worst):
        plain, with_edits = worst[ERM, NONE], worst[ERM, DIRECT]
        lines.append(verdict(with_edits - plain >= GAIN, f"lifts ERM by {GAIN:.0%} ({plain:.1%} to {with_edits:.1%})"))
        if (BALANCED_SET, NONE) in worst:
            bound = worst[BALANCED_SET, NONE]
            text = f"comes within {GAP:.0%} of the balanced set ({with_edits:.1%} against {bound:.1%})"
            lines.append(verdict(bound - with_edits <= GAP, text))
    for addition in (DIRECT, GENERATED):
        pairs = [(m, worst[m, NONE], value) for (m, a), value in worst.items() if a == addition and (m, NONE) in worst]
        lines += [
            verdict(value > plain, f"{addition} lifts {method} ({plain:.1%} to {value:.1%})")
            for method, plain, value in pairs
        ]
    for ours, control in ((FEWER, OTHERS), (GENERATED, PLAIN), (FEWER, GENERATED), (DIRECT, ALONE), (DIRECT, BOTH)):
        if {(ERM, ours), (ERM, control)} <= set(worst):
            a, b = worst[ERM, ours], worst[ERM, control]
            lines.append(verdict(a > b, f"{ours} beats {control} ({a:.1%} against {b:.1%})"))
    return lines


def _measured(seeds: Sequence[Figures]) -> bool:
    return bool(seeds) and all("worst" in one for one in seeds)


def verdict(holds: bool, text: str) -> str:
    """In words."""
    return f"{'holds' if holds else 'FAILS'}: {text}"


def words(values: Sequence[float]) -> str:
    """One for each seed."""
    return ", ".join(f"{value:.3g}" for value in values)
