"""ASPIRE: find what a classifier wrongly relies on by language-guided edits, and make images without it.

Ghosh et al., "ASPIRE: Language-Guided Data Augmentation for Improving Robustness Against Spurious Correlations", 2024.
`discover` is steps 1 to 4 of the method and `augmentation` step 5; step 6 is `retraining.retrain`. What no text says
about the paper's own choices, and where the default departs from its code, stands in docs/debiasing.md.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from augment_synth.backgrounds import open_swapper
from augment_synth.captions import Captioner, open_captioner
from augment_synth.components import Component
from augment_synth.debias_config import DebiasConfig
from augment_synth.debias_data import DebiasData
from augment_synth.edit_log import EditRow, StepCache, batches, content_hash
from augment_synth.edits import Editing, Subject
from augment_synth.extractors import open_extractor
from augment_synth.features import Features, merged, same_thing
from augment_synth.finding import find_labels, find_objects
from augment_synth.removal import open_remover
from augment_synth.scoring import CutOffs, ScoredFeature, default_scores, paper_scores
from augment_synth.screening import Candidate, candidates, full_grid, screen
from workbench import seeds
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier

POOL_STREAM, PAPER_STREAM = 1, 2
PAPER_SEED, PAPER_FIRST, PAPER_LATER, PAPER_MOST = 42, 15, 10, 35  # images for a class, as released


@dataclass(frozen=True)
class Discovery:
    """What steps 1 to 4 found, and all that is needed to make more of it."""

    editing: Editing
    pool: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    rows: list[EditRow]
    ranking: list[ScoredFeature]
    grid: int  # edits without stopping early
    components: tuple[Component, ...]
    notes: tuple[str, ...]

    @property
    def spurious(self) -> list[ScoredFeature]:
        """Features above the cut-offs."""
        return [feature for feature in self.ranking if feature.kept]


def discover(config: DebiasConfig, data: DebiasData, classifier: PixelClassifier, cache: StepCache) -> Discovery:
    """Steps 1 to 4: correct images, captions, features, edits and the classifier's answers to them."""
    device = str(next(classifier.parameters()).device)
    probabilities = class_probabilities(classifier, data.images, data.label_names, config.batch_size)
    pool, notes = hold_out_pool(data, probabilities, config.max_images_per_class, config.seed)

    described, speakers, remarks = describe(config, data, cache, device)

    label_masks, finder = find_labels(config, data, cache, device)
    object_masks, grounder = find_objects(config, data, label_masks, [f.foreground for f in described], cache, device)
    names = merged(Counter(f.background for f in described if f.background), same_thing)
    subject = Subject(data, described, label_masks, object_masks, names, probabilities)
    backgrounds = [names[f.background] if f.background else None for f in described]
    swapper = open_swapper(config.swapper, data.images, subject.occupied, backgrounds, config.seed, device)
    remover = open_remover(config.remover, device)

    components = (*speakers, finder, grounder, remover.component, swapper.component)
    identity = _identity(data, classifier, subject, components, config.seed)
    editing = Editing(
        subject, remover, swapper,
        lambda images: class_probabilities(classifier, images, data.label_names, config.batch_size),
        cache, identity, config.seed,
    )  # fmt: skip
    alternates = 1 if config.mode == "paper" else config.alternates
    found = candidates(subject, pool, swapper.can_make, alternates, config.seed)
    rows, ranking, grid = examine(config, editing, found, pool)
    notes += remarks + _silent_backgrounds(subject, found)
    return Discovery(editing, pool, tuple(found), rows, ranking, grid, components, (*data.notes, *notes))


# ---- step 1 ----------------------------------------------------------------------------------------------------------


def class_probabilities(
    classifier: PixelClassifier, images: UInt8[Tensor, "n 3 h w"], label_names: Sequence[str], batch_size: int
) -> Float[Tensor, "n classes"]:
    """Probabilities, the data's classes first and in their order, then any others that the classifier knows."""
    device = next(classifier.parameters()).device
    with torch.no_grad():
        parts = [classifier(part.to(device).float() / 255).float() for part in images.split(batch_size)]
        given = classifier.probabilities(torch.cat(parts)).cpu()
    known = list(classifier.label_names) or list(label_names)
    if missing := [name for name in label_names if name not in known]:
        raise UserError(
            f"the classifier does not know {', '.join(missing)}, only {', '.join(known[:10])}: give another"
        )
    if given.shape[1] < len(label_names):
        raise UserError(f"the classifier has {given.shape[1]} classes, the data {len(label_names)}: give another")
    own = [known.index(name) for name in label_names]
    return given[:, [*own, *(k for k in range(given.shape[1]) if k not in own)]]


def hold_out_pool(
    data: DebiasData, probabilities: Float[Tensor, "n classes"], most: int, seed: int
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Step 1: correctly classified images, at most so many of a class, and what must be said of classes without any.

    Raises `UserError` where no image at all is classified right.
    """
    correct = probabilities.argmax(1) == data.labels
    if not correct.any():
        raise UserError("the classifier gets no training image right, so nothing can be learned from it: give another")
    pool: list[int] = []
    notes = []
    for label, name in enumerate(data.label_names):
        own = (correct & (data.labels == label)).nonzero()[:, 0]
        if not len(own):
            notes.append(f"no image of {name} is classified right, so nothing is said of that class")
        order = torch.randperm(len(own), generator=seeds.generator(seed, POOL_STREAM, label))
        pool += own[order[:most]].tolist()
    if len(probabilities.argmax(1).unique()) == 1:
        notes.append("the classifier gives one class to all images")
    return tuple(sorted(pool)), tuple(notes)


# ---- steps 2 and 3 ---------------------------------------------------------------------------------------------------


def describe(
    config: DebiasConfig, data: DebiasData, cache: StepCache, device: str
) -> tuple[list[Features], list[Component], tuple[str, ...]]:
    """Captions of all training images (the donors of backgrounds too) and the features in them; who said so, and what
    must be known of it."""
    given = config.given_features()
    if given is not None and data.captions is None and config.captioner == "auto":
        person = Component("extract", "--edits", "person", "the same for all images")
        return _given_everywhere(given, len(data)), [person], ()
    captions, captioner = _captions(config, data, cache, device)
    described, extractor, notes = _features(config, data, captions, cache, device)
    return described, [captioner, extractor], notes


def _captions(config: DebiasConfig, data: DebiasData, cache: StepCache, device: str) -> tuple[list[str], Component]:
    captioner: Captioner = open_captioner(config.captioner, data.captions, config.caption_column, device)
    if captioner.component.kind == "data":
        return captioner.caption(data.images, range(len(data))), captioner.component
    captions: list[str] = []
    for images, positions in batches(data.images, range(len(data)), config.batch_size):
        key = {"component": str(captioner.component), "images": images.numpy().tobytes(), "positions": list(positions)}
        captions += cache.json("captions", key, partial(captioner.caption, images, positions))
    return captions, captioner.component


def _features(
    config: DebiasConfig, data: DebiasData, captions: Sequence[str], cache: StepCache, device: str
) -> tuple[list[Features], Component, tuple[str, ...]]:
    extractor = open_extractor(config.extractor, config.label_synonyms(), device)
    pairs = [(caption, data.label_names[label]) for caption, label in zip(captions, data.labels.tolist(), strict=True)]
    key = {"pairs": pairs, "component": str(extractor.component), "synonyms": config.label_synonyms()}

    def extract() -> dict[str, Any]:
        found = extractor.extract(pairs)
        return {"features": [vars(features) for features in found], "notes": extractor.notes}

    said = cache.json("phrases", key, extract)
    found = [
        Features(**{**features, "foreground": tuple(features["foreground"]), "caption": caption})
        for features, caption in zip(said["features"], captions, strict=True)
    ]
    return found, extractor.component, tuple(said["notes"])


def _given_everywhere(given: Sequence[tuple[str, str]], count: int) -> list[Features]:
    """Without captions a detector must say which images have an object; nobody could say it of a background."""
    if any(kind == "background" for kind, _ in given):
        raise UserError("which images have that background nobody says: give --captioner or --caption-column too")
    return [Features(tuple(phrase for _, phrase in given), raw="--edits")] * count


# ---- step 4 ----------------------------------------------------------------------------------------------------------


def _identity(
    data: DebiasData, classifier: PixelClassifier, subject: Subject, components: Sequence[Component], seed: int
) -> dict[str, Any]:
    """What edits depend on besides the request itself."""
    pixels = content_hash([data.images.numpy().tobytes(), subject.occupied.numpy().tobytes(), list(data.ids)])
    return {
        "data": pixels, "classifier": classifier.fingerprint(), "seed": seed,
        "components": [str(component) for component in components],
    }  # fmt: skip


def examine(
    config: DebiasConfig, editing: Editing, found: Sequence[Candidate], pool: Sequence[int]
) -> tuple[list[EditRow], list[ScoredFeature], int]:
    """Edits of every candidate, and the ranking; features that a person listed or vetoed are taken or left."""
    given = config.given_features()
    if given is not None:
        found = [c for c in found if any(c.kind == kind and same_thing(c.name, phrase) for kind, phrase in given)]
    if config.mode == "paper":
        screening = full_grid(editing, found)
        ranking = paper_scores(screening.rows, _support(editing.subject, pool))
    else:
        cutoffs = CutOffs(config.min_support, config.min_flip_rate, config.placebo_ratio)
        screening = screen(editing, found, cutoffs, config.max_images_per_class)
        ranking = default_scores(screening.rows, cutoffs)
    names = editing.subject.data.label_names
    return screening.rows, [_vetoed(feature, config.veto, names) for feature in ranking], screening.grid


def _support(subject: Subject, pool: Sequence[int]) -> Counter[tuple[int, str]]:
    """How many images of the pool name each phrase, by class."""
    named: Counter[tuple[int, str]] = Counter()
    for position in pool:
        label, features = int(subject.data.labels[position]), subject.features[position]
        named.update((label, phrase) for phrase in {*features.foreground, features.background} if phrase)
    return named


def _vetoed(feature: ScoredFeature, veto: Sequence[str], label_names: Sequence[str]) -> ScoredFeature:
    for text in veto:
        label, _, phrase = text.rpartition(":")
        fits = not label or label.strip().lower() == label_names[feature.label].lower()
        if fits and phrase.strip().lower() in (feature.name, *feature.phrases):
            return replace(feature, kept=False, reason=f"vetoed ({text}); before: {feature.reason}")
    return feature


def _silent_backgrounds(subject: Subject, found: Sequence[Candidate]) -> tuple[str, ...]:
    """Backgrounds that no edit could test, because nothing could be put in their place."""
    tested = {candidate.name for candidate in found if candidate.kind == "background"}
    tested |= {subject.background_names[name] for name in tested}
    silent = sorted(set(subject.background_names.values()) - tested)
    return tuple(
        f"the background {name} was not tested: no correct image has it, or no other can replace it" for name in silent
    )


# ---- step 5 ----------------------------------------------------------------------------------------------------------


def augmentation(discovery: Discovery, mode: str, max_label_change: float) -> list[EditRow]:
    """Edited images for training: all edits of spurious features (paper: few, and flipped ones only) whose label's
    object is untouched."""
    features: dict[tuple[int, str, str], ScoredFeature] = {
        (feature.label, feature.kind, phrase): feature for feature in discovery.spurious for phrase in feature.phrases
    }
    usable = [
        row for row in discovery.rows
        if row.made and not row.placebo and row.label_change <= max_label_change
        and (row.label, row.kind, row.phrase) in features
    ]  # fmt: skip
    return usable if mode == "default" else _as_released(discovery.spurious, usable, features)


def _as_released(
    ranked: Sequence[ScoredFeature], rows: Sequence[EditRow], features: Mapping[tuple[int, str, str], ScoredFeature]
) -> list[EditRow]:
    """Flipped edits at random, down each class's ranking: 15 of the first feature, 10 of each later one, 35 in all."""
    chosen: dict[int, list[EditRow]] = defaultdict(list)
    for number, feature in enumerate(ranked):
        own = [r for r in rows if r.flipped and features[r.label, r.kind, r.phrase] is feature]
        most = PAPER_LATER if chosen[feature.label] else PAPER_FIRST
        most = min(most, PAPER_MOST - len(chosen[feature.label]))
        order = torch.randperm(len(own), generator=seeds.generator(PAPER_SEED, PAPER_STREAM, number))
        chosen[feature.label] += [own[k] for k in order[:most]]
    return [row for rows in chosen.values() for row in rows]
