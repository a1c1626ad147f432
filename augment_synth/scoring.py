"""Which features a classifier relies on, from edits: flip rates against a placebo, or the released formula.

`default_scores`: the lower Wilson bound of the flip rate, which must clear a cut-off and be a multiple of what edits do
that leave the feature alone. `paper_scores`: sums of flip rates over merged phrases, no cut-off and no placebo.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from statistics import NormalDist, fmean
from typing import Literal

from augment_synth.edit_log import EditRow, Kind
from augment_synth.features import alike, merged, same_thing

Verdict = Literal["above", "below", "open"]


@dataclass(frozen=True)
class CutOffs:
    """What a feature must show to be called spurious."""

    min_support: int = 20
    min_flip_rate: float = 0.10
    placebo_ratio: float = 2.0
    confidence: float = 0.95


@dataclass(frozen=True)
class ScoredFeature:
    """A feature of a class and its evidence. Rates are of edits that were made: a detector's miss is none.

    `flip_rate`, `lower` and `placebo_flip_rate` are of the replacement that moves the classifier most (`replaced_by`);
    the other replacements stand in `by_replacement`.
    """

    label: int
    kind: Kind
    name: str
    phrases: tuple[str, ...]
    edits: int
    misses: int
    flips: int
    replaced_by: str
    by_replacement: Mapping[str, float]
    flip_rate: float
    lower: float
    placebo_edits: int
    placebo_flip_rate: float
    mean_drop: float
    score: float
    kept: bool
    reason: str


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Bounds of a rate (Wilson 1927); of no trials at all, 0 and 1."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate, z2 = successes / n, z * z
    centre, reach = rate + z2 / (2 * n), z * sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    return max(0.0, (centre - reach) / (1 + z2 / n)), min(1.0, (centre + reach) / (1 + z2 / n))


def verdict(rows: Sequence[EditRow], cutoffs: CutOffs, looks: int) -> Verdict:
    """Whether edits of one feature suffice to say that its flip rate is above or below the cut-off.

    `looks`: how often this is asked in all; the confidence is Bonferroni's, so that asking often finds no more.
    Several replacements are asked one by one: the feature is below where all of them are.
    """
    groups = _by_replacement(row for row in rows if row.made and not row.placebo)
    if not groups:
        return "open"
    confidence = 1 - (1 - cutoffs.confidence) / (looks * len(groups))
    if min(map(len, groups.values())) < cutoffs.min_support:
        return "open"
    bounds = [wilson(_flips(group), len(group), confidence) for group in groups.values()]
    if any(low >= cutoffs.min_flip_rate for low, _ in bounds):
        return "above"
    return "below" if all(high < cutoffs.min_flip_rate for _, high in bounds) else "open"


# ---- default ---------------------------------------------------------------------------------------------------------


def default_scores(rows: Sequence[EditRow], cutoffs: CutOffs) -> list[ScoredFeature]:
    """All features of all classes, best first: by the lower bound of the flip rate above the placebo's."""
    groups = grouped(rows)
    found = [_default_score(*key, group, cutoffs) for key, group in groups.items()]
    return sorted(found, key=lambda feature: (-feature.kept, -feature.score, -feature.mean_drop, feature.name))


def grouped(rows: Iterable[EditRow], paper: bool = False) -> dict[tuple[int, Kind, str], list[EditRow]]:
    """Rows by class, kind and merged phrase."""
    by_class: dict[tuple[int, Kind], list[EditRow]] = defaultdict(list)
    for row in rows:
        by_class[row.label, row.kind].append(row)
    found: dict[tuple[int, Kind, str], list[EditRow]] = defaultdict(list)
    for (label, kind), members in by_class.items():
        names = merged(Counter(row.phrase for row in members), alike if paper else same_thing)
        for row in members:
            found[label, kind, names[row.phrase]].append(row)
    return found


def _default_score(label: int, kind: Kind, name: str, rows: Sequence[EditRow], cutoffs: CutOffs) -> ScoredFeature:
    made = [row for row in rows if row.made and not row.placebo]
    placebos = [row for row in rows if row.made and row.placebo]
    groups = _by_replacement(made)
    confidence = 1 - (1 - cutoffs.confidence) / max(1, len(groups))  # the best of several is chosen
    bounds = {other: wilson(_flips(group), len(group), confidence)[0] for other, group in groups.items()}
    best = max(bounds, key=lambda other: (bounds[other], other), default="")
    strongest = groups.get(best, [])
    rate, lower = _rate(strongest), bounds.get(best, 0.0)
    reason = _why_not(len(strongest), rate, lower, _rate(placebos), len(placebos), cutoffs)
    return ScoredFeature(
        label=label, kind=kind, name=name, phrases=tuple(sorted({row.phrase for row in rows})),
        edits=len(made), misses=sum(not row.made and not row.placebo for row in rows), flips=_flips(made),
        replaced_by=best, by_replacement={other: _rate(group) for other, group in groups.items()},
        flip_rate=rate, lower=lower, placebo_edits=len(placebos), placebo_flip_rate=_rate(placebos),
        mean_drop=fmean(row.p_before - row.p_after for row in strongest) if strongest else 0.0,
        score=lower - _rate(placebos), kept=not reason, reason=reason or "relied on",
    )  # fmt: skip


def _why_not(n: int, rate: float, lower: float, placebo: float, n_placebo: int, cutoffs: CutOffs) -> str:
    """Nothing where all evidence is there."""
    if n < cutoffs.min_support:
        return f"too few edits ({n}, at least {cutoffs.min_support} are needed)"
    if lower < cutoffs.min_flip_rate:
        return f"the flip rate's lower bound {lower:.3f} is below {cutoffs.min_flip_rate}"
    if n_placebo < cutoffs.min_support:
        return f"too few placebo edits ({n_placebo}, at least {cutoffs.min_support} are needed)"
    if rate <= cutoffs.placebo_ratio * placebo:
        return f"edits that leave it alone flip {placebo:.3f}, too near to {rate:.3f}"
    return ""


def _by_replacement(rows: Iterable[EditRow]) -> dict[str, list[EditRow]]:
    groups: dict[str, list[EditRow]] = defaultdict(list)
    for row in rows:
        groups[row.replaced_by].append(row)
    return groups


def _flips(rows: Sequence[EditRow]) -> int:
    return sum(row.flipped for row in rows)


def _rate(rows: Sequence[EditRow]) -> float:
    return _flips(rows) / len(rows) if rows else 0.0


# ---- as released -----------------------------------------------------------------------------------------------------


def paper_scores(rows: Sequence[EditRow], support: Mapping[tuple[int, str], int]) -> list[ScoredFeature]:
    """The released formula: s(c, o) = flips / images that name o; a cluster's score is the sum, ties by its flips.

    `support`: how many correctly classified images of a class name a phrase. There is no cut-off: whatever flipped
    at all is in the ranking.
    """
    real = [row for row in rows if not row.placebo]
    score = partial(_paper_score, support=support)
    found = [score(*key, group) for key, group in grouped(real, paper=True).items()]
    return sorted(found, key=lambda feature: (-feature.score, -feature.flips, feature.name))


def _paper_score(
    label: int, kind: Kind, name: str, rows: Sequence[EditRow], support: Mapping[tuple[int, str], int]
) -> ScoredFeature:
    flips = Counter(row.phrase for row in rows if row.flipped)
    phrases = tuple(sorted({row.phrase for row in rows}))
    made = [row for row in rows if row.made]
    score = sum(flips[phrase] / support[label, phrase] for phrase in phrases)
    return ScoredFeature(
        label=label, kind=kind, name=name, phrases=phrases, edits=len(made), misses=len(rows) - len(made),
        flips=sum(flips.values()), replaced_by="", by_replacement={}, flip_rate=_rate(made),
        lower=wilson(sum(flips.values()), len(made))[0], placebo_edits=0, placebo_flip_rate=0.0,
        mean_drop=fmean(row.p_before - row.p_after for row in made) if made else 0.0,
        score=score, kept=score > 0, reason="flipped" if score > 0 else "never flipped",
    )  # fmt: skip
