"""VALE: which region of a picture a classifier looks at, cut out, checked by forward passes, and put into words.

    vale = Vale(classifier, open_segmenter("auto"), open_describer("auto"))
    explanation = vale.explain(image)

After Natarajan and Nambiar (arXiv 2408.12808): Shapley values find the place, a segmenter makes an object of it, a
describer puts it into words. What is added: the region is verified, and the sentences on the classifier are measured.
The pictures explain the classifier; a generated text only says what the region looks like.

Letters: (h, w) the picture explained, no larger than LONGEST and no larger than the image.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from explain.candidates import Candidate, choose, without_effect
from explain.cautions import cautions
from explain.describe import Describer, Description
from explain.facts import Facts, half_area, measure_region, sentences
from explain.prompts import Prompts, evidence_region, prompts_of
from explain.region_views import region_views
from explain.segment import Segmenter, masks_of
from explain.shapley import Attribution, Scale, attribute
from explain.stability import prompt_stability
from explain.targets import Targets, resolve_targets
from explain.verification import verify_region
from workbench.errors import UserError
from workbench.pictures import as_colour, resize_images
from workbench.pixel_classifier import PixelClassifier

LONGEST = 640  # pixels, of the picture that is segmented and shown
LISTED = 5  # most likely classes that are named


@dataclass(frozen=True)
class Finding:
    """All stages of one class. `chosen` is None where no candidate fits the evidence or the best one does no more than
    regions elsewhere, `prompts` where there is no evidence; then nobody describes. `control` is the evidence above half
    of its maximum, which a segment has to beat. `contrast` is the map of this class minus that of `why_not`."""

    attribution: Attribution
    prompts: Prompts | None
    candidates: tuple[Candidate, ...]
    chosen: int | None
    control: Candidate | None
    facts: Facts
    descriptions: tuple[Description, ...]
    contrast: Float[Tensor, "h w"] | None
    seconds: dict[str, float]  # of each stage

    @property
    def mask(self) -> Bool[Tensor, "h w"] | None:
        """The region."""
        return None if self.chosen is None else self.candidates[self.chosen].mask

    @property
    def text(self) -> str:
        """The measured sentences."""
        return " ".join(sentences(self.facts))


@dataclass(frozen=True)
class ValeExplanation:
    """Everything of one image, and who segmented and described."""

    name: str
    image: UInt8[Tensor, "c height width"]  # as it came
    picture: UInt8[Tensor, "3 h w"]
    findings: tuple[Finding, ...]
    segmenter: str  # all that offered masks
    classical: bool  # no learned one among them
    describer: str


class Stages:
    """The seconds of each stage, and who wants to know of it."""

    def __init__(self, report: Callable[[str], object] | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.report = report

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What is done inside is that stage."""
        if self.report:
            self.report(name)
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began


@dataclass(frozen=True)
class Vale:
    """The whole chain for one classifier. `budget`: forward passes for the Shapley values of a class; `fill`: what
    hides pixels from it, as in `hiding`."""

    classifier: PixelClassifier
    segmenter: Segmenter
    describer: Describer
    budget: int = 500
    fill: str = "mean"
    scale: Scale = "probability"
    prompt: str = "points+box"  # as in `prompts_of`
    batch_size: int = 50
    seed: int = 0
    others: tuple[Segmenter, ...] = ()  # whose masks are candidates too

    def __post_init__(self) -> None:
        parts: tuple[Segmenter | Describer, ...] = (*self.segmenters, self.describer)
        for part in parts:
            if not part.trained:
                raise UserError(f"{part.name} is not trained, and what it gives means nothing; choose another")

    @property
    def segmenters(self) -> tuple[Segmenter, ...]:
        """All that cut."""
        return (self.segmenter, *self.others)

    def explain(
        self,
        image: UInt8[Tensor, "c height width"],
        targets: Targets = None,
        why_not: int | str | None = None,
        name: str = "image",
        report: Callable[[str], object] | None = None,
    ) -> ValeExplanation:
        """Explain an image: the most likely class, or `targets` as in `resolve_targets`, each compared with `why_not`.

        `report` is told the name of each stage as it begins. Raises `UserError` for a class that does not exist.
        """
        seen = self._look(image, why_not, report)
        targets = resolve_targets(targets, self.classifier, seen.predictions[None])[0].tolist()
        findings = tuple(self._finding(seen, target) for target in targets)
        return ValeExplanation(
            name, image, as_colour(seen.picture), findings, " and ".join(one.name for one in self.segmenters),
            all(one.classical for one in self.segmenters), self.describer.name,
        )  # fmt: skip

    def _finding(self, seen: "_Seen", target: int) -> Finding:
        """The stages of one class, from the evidence to the words."""
        stages = Stages(seen.report)
        with stages.stage("attribute"):
            attribution = self._attribute(seen.pixels, target)
            contrast = self._contrast(seen, attribution)
        with stages.stage("prompt"):
            prompts = prompts_of(attribution.values, self.prompt)
        with stages.stage("segment"):
            candidates, chosen = self._segment(seen, attribution, prompts)
            control = None if prompts is None else self._control(seen, attribution)
        with stages.stage("verify"):
            candidates, chosen, facts = self._verified(seen, attribution, candidates, chosen)
            region = None if chosen is None else candidates[chosen]
            facts = replace(facts, stability=self._stability(seen, prompts, region))
            facts = replace(facts, warnings=cautions(facts, attribution, candidates, chosen))
        mask = None if region is None else region.mask.cpu()
        with stages.stage("describe"):
            described = () if mask is None else self.describer.describe(region_views(seen.picture, mask), facts)
        return Finding(attribution, prompts, candidates, chosen, control, facts, described, contrast, stages.seconds)

    # ---- the stages --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _look(
        self, image: UInt8[Tensor, "c height width"], why_not: int | str | None, report: Callable[[str], object] | None
    ) -> "_Seen":
        """The picture that is explained, and what the classifier says of it."""
        scale = min(1.0, LONGEST / max(image.shape[1:]))
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[2] * scale)))
        picture = resize_images(image[None], size)[0]
        pixels = picture.to(self.classifier.mean.device).float() / 255
        predictions = self.classifier.probabilities(self.classifier(pixels[None]).float())[0]
        other = None
        if why_not is not None:
            other = int(resolve_targets([why_not], self.classifier, predictions[None])[0, 0])
        return _Seen(
            picture, pixels, predictions, other, report,
            tuple(_Once(partial(one.embed, as_colour(picture))) for one in self.segmenters),
        )  # fmt: skip

    def _attribute(self, pixels: Float[Tensor, "c h w"], target: int) -> Attribution:
        return attribute(
            self.classifier, pixels, target, budget=self.budget, fill=self.fill, scale=self.scale, seed=self.seed,
            batch_size=self.batch_size,
        )  # fmt: skip

    def _contrast(self, seen: "_Seen", found: Attribution) -> Float[Tensor, "h w"] | None:
        """The map of the class minus that of the other: from the same evaluations, chosen for the class, unless there
        are so many classes that only one was kept."""
        if seen.other in (None, found.target):
            return None
        every = found.all_values
        return found.values - (self._attribute(seen.pixels, seen.other).values if every is None else every[seen.other])

    def _segment(
        self, seen: "_Seen", attribution: Attribution, prompts: Prompts | None
    ) -> tuple[tuple[Candidate, ...], int | None]:
        if prompts is None:
            return (), None
        masks, qualities, names = masks_of(self.segmenters, [one.get() for one in seen.embeddings], prompts)
        return choose(self.classifier, seen.pixels, attribution, masks, qualities, names)

    def _control(self, seen: "_Seen", attribution: Attribution) -> Candidate:
        """The evidence itself as a mask."""
        mask = evidence_region(attribution.values)[None]
        return choose(self.classifier, seen.pixels, attribution, mask, torch.tensor([torch.nan]), ["nobody"])[0][0]

    def _verified(
        self, seen: "_Seen", attribution: Attribution, candidates: tuple[Candidate, ...], chosen: int | None
    ) -> tuple[tuple[Candidate, ...], int | None, Facts]:
        """What is measured, and the candidates again: one without effect is no region."""
        facts = self._facts(seen, attribution, None if chosen is None else candidates[chosen].mask.cpu())
        if chosen is None or any(one.matters for one in facts.verifications):
            return candidates, chosen, facts
        facts = replace(facts, region=None, verifications=(), why_not_verifications=())
        return without_effect(candidates, chosen), None, facts

    def _stability(self, seen: "_Seen", prompts: Prompts | None, region: Candidate | None) -> float | None:
        """How far the region stays without a point."""
        if prompts is None or region is None:
            return None
        number = [one.name for one in self.segmenters].index(region.segmenter)
        return prompt_stability(self.segmenters[number], seen.embeddings[number].get(), prompts, region.mask)

    def _facts(self, seen: "_Seen", attribution: Attribution, mask: Bool[Tensor, "h w"] | None) -> Facts:
        """What is measured: by forward passes and from pixels."""
        name, target, predictions = self.classifier.label_name, attribution.target, seen.predictions
        other = None if seen.other == target else seen.other
        most_likely = predictions.argsort(descending=True)[:LISTED].tolist()
        facts = Facts(
            label=name(target),
            probability=float(predictions[target]),
            predictions=tuple((name(k), float(predictions[k])) for k in most_likely),
            base=attribution.base_probability,
            scale=attribution.scale,
            fill=attribution.fill,
            evaluations=attribution.evaluations,
            additivity_error=attribution.additivity_error,
            half_area=half_area(attribution.values.cpu()),
            why_not=None if other is None else name(other),
        )
        if mask is None:
            return facts
        asked = (target,) if other is None else (target, other)
        verified = verify_region(self.classifier, seen.pixels, asked, mask, seed=self.seed, batch_size=self.batch_size)
        return replace(
            facts,
            region=measure_region(seen.pixels.cpu(), attribution.values.cpu(), mask),
            verifications=tuple(one for one in verified if one.target == target),
            why_not_verifications=tuple(one for one in verified if one.target == other),
        )


@dataclass(frozen=True)
class _Seen:
    """An image on its way through the stages."""

    picture: UInt8[Tensor, "c h w"]
    pixels: Float[Tensor, "c h w"]  # in [0, 1], where the classifier is
    predictions: Float[Tensor, " k"]
    other: int | None
    report: Callable[[str], object] | None
    embeddings: tuple["_Once", ...]  # of each segmenter


class _Once:
    """What is computed when it is first asked for, and kept: one embedding serves all classes of an image."""

    def __init__(self, compute: Callable[[], Any]) -> None:
        self.compute, self.value = compute, None

    def get(self) -> Any:
        """The value."""
        if self.value is None:
            self.value = self.compute()
        return self.value
