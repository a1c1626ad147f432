"""Which edits to make: waves of a few images for every feature, and no more for one as soon as its case is clear."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from augment_synth.edit_log import EditRow, Kind
from augment_synth.edits import Editing, Request, Subject
from augment_synth.features import merged, same_thing
from augment_synth.scoring import CutOffs, verdict
from workbench import seeds

WAVE_STREAM = 41


@dataclass(frozen=True)
class Candidate:
    """A feature of a class that captions name: the images that have it (with their own phrase), in random order."""

    label: int
    kind: Kind
    name: str
    images: tuple[tuple[int, str], ...]  # position and phrase
    replacements: tuple[str, ...]  # none for objects


@dataclass(frozen=True)
class Screening:
    """The edits made, how many of them it took to see what is above the cut-off, and how many it would have been
    without stopping early."""

    rows: list[EditRow]
    decided: int
    grid: int


def candidates(
    subject: Subject, pool: Sequence[int], can_make: Callable[[str], bool], alternates: int, seed: int
) -> list[Candidate]:
    """Every feature of the pool's captions, by class and kind; a background only where another can be put there."""
    found: dict[tuple[int, Kind], list[tuple[int, str]]] = defaultdict(list)
    for position in pool:
        label, features = int(subject.data.labels[position]), subject.features[position]
        found[label, "object"] += [(position, phrase) for phrase in features.foreground]
        if features.background:
            found[label, "background"].append((position, features.background))
    result: list[Candidate] = []
    for (label, kind), having in sorted(found.items()):
        names = merged(Counter(phrase for _, phrase in having), same_thing)
        for name in sorted(set(names.values())):
            images = [(position, phrase) for position, phrase in having if names[phrase] == name]
            others = replacements(subject, label, name, can_make, alternates) if kind == "background" else ()
            if kind == "object" or others:
                order = torch.randperm(len(images), generator=seeds.generator(seed, WAVE_STREAM, len(result)))
                result.append(Candidate(label, kind, name, tuple(images[k] for k in order), others))
    return result


def replacements(
    subject: Subject, label: int, name: str, can_make: Callable[[str], bool], most: int
) -> tuple[str, ...]:
    """Backgrounds to put in another's place: a proposed one first, then those least typical of the class, p(b|c)/p(b).

    Backgrounds typical of other classes are what a classifier can be moved by; a neutral one often is not.
    """
    names = subject.background_names
    labels = subject.data.labels.tolist()
    named = [(own, names[f.background]) for own, f in zip(labels, subject.features, strict=True) if f.background]
    everywhere, here = Counter(b for _, b in named), Counter(b for own, b in named if own == label)
    likely = sorted(everywhere, key=lambda b: (here[b] / everywhere[b], -everywhere[b], b))
    proposed = Counter(
        f.alternate for own, f in zip(labels, subject.features, strict=True)
        if own == label and f.background and names[f.background] == names[name] and f.alternate
    )  # fmt: skip
    wished = [names.get(alternate, alternate) for alternate, _ in proposed.most_common(1)]
    usable = [b for b in dict.fromkeys([*wished, *likely]) if b != names[name] and can_make(b)]
    return tuple(usable[:most])


def requests(candidate: Candidate, images: Sequence[tuple[int, str]], placebos: bool) -> list[Request]:
    """Every replacement of the feature in these images, and one placebo each."""
    made = []
    for position, phrase in images:
        others = candidate.replacements if candidate.kind == "background" else ("",)
        made += [Request(position, candidate.kind, phrase, other) for other in others]
        if placebos:
            made.append(Request(position, candidate.kind, phrase, placebo=True))
    return made


def screen(editing: Editing, found: Sequence[Candidate], cutoffs: CutOffs, most: int) -> Screening:
    """Waves over all features whose case is open, at most `most` images of each; then the rest of those above it."""
    ends = wave_ends(cutoffs.min_support, most)
    rows: dict[int, list[EditRow]] = {number: [] for number in range(len(found))}
    done = dict.fromkeys(rows, 0)
    waiting = set(rows)
    for end in ends:
        _wave(editing, found, rows, {number: (done[number], end) for number in sorted(waiting)})
        done |= {number: min(end, len(found[number].images)) for number in waiting}
        waiting = {
            n for n in waiting if done[n] < len(found[n].images) and verdict(rows[n], cutoffs, len(ends)) == "open"
        }
    decided = sum(map(len, rows.values()))
    clear = [n for n in rows if verdict(rows[n], cutoffs, len(ends)) == "above"]
    _wave(editing, found, rows, {number: (done[number], len(found[number].images)) for number in clear})
    grid = sum(len(requests(candidate, candidate.images, True)) for candidate in found)
    return Screening([row for number in sorted(rows) for row in rows[number]], decided, grid)


def _wave(
    editing: Editing, found: Sequence[Candidate], rows: dict[int, list[EditRow]], spans: Mapping[int, tuple[int, int]]
) -> None:
    """Edits of a span of each feature's images, all in the same batches."""
    wanted = {n: requests(found[n], found[n].images[first:end], True) for n, (first, end) in spans.items()}
    made = iter(editing.make([request for own in wanted.values() for request in own]))
    for number, own in wanted.items():
        rows[number] += [next(made) for _ in own]


def wave_ends(first: int, most: int) -> list[int]:
    """Images of a feature after each wave: doubling from the least support to the most."""
    ends = [min(first, most)]
    while ends[-1] < most:
        ends.append(min(2 * ends[-1], most))
    return ends


def full_grid(editing: Editing, found: Sequence[Candidate]) -> Screening:
    """As released: every image, one replacement, no placebo, no stopping."""
    wanted = [request for candidate in found for request in requests(candidate, candidate.images, False)]
    return Screening(editing.make(wanted), len(wanted), len(wanted))
