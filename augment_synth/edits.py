"""Edits of images: an object removed, a background swapped, and placebos of both; made and classified in batches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from augment_synth.backgrounds import Swapper, Swaps
from augment_synth.debias_data import DebiasData
from augment_synth.edit_log import EditRow, Kind, StepCache, content_hash
from augment_synth.features import Features
from augment_synth.grounding import Mask
from augment_synth.removal import Remover, grown, shifted_elsewhere, shrunk
from workbench import seeds
from workbench.pictures import encode_png
from workbench.progress import progress

AT_ONCE = 256
ELSEWHERE_STREAM = 31


@dataclass(frozen=True)
class Request:
    """An edit to make. A placebo leaves the feature: another place loses pixels, or the same background comes anew."""

    position: int
    kind: Kind
    phrase: str
    replaced_by: str = ""
    placebo: bool = False


@dataclass(frozen=True)
class Subject:
    """What is edited: the data, what each image shows in words and where, and what the classifier says of it."""

    data: DebiasData
    features: Sequence[Features]
    label_masks: Bool[Tensor, "n h w"]
    object_masks: Sequence[Mapping[str, Mask]]  # of each image, by phrase
    background_names: Mapping[str, str]  # of each phrase for a background, that of its cluster
    probabilities: Float[Tensor, "n classes"]

    @cached_property
    def occupied(self) -> Bool[Tensor, "n h w"]:
        """Where the label's object or any other one that was found is."""
        taken = self.label_masks.clone()
        for position, masks in enumerate(self.object_masks):
            for mask in masks.values():
                if mask is not None:
                    taken[position] |= mask
        return taken


class Editing:
    """Makes edits and shows them to the classifier; what was made before is read from the cache."""

    def __init__(
        self,
        subject: Subject,
        remover: Remover,
        swapper: Swapper,
        classify: Callable[[UInt8[Tensor, "n 3 h w"]], Float[Tensor, "n classes"]],
        cache: StepCache,
        identity: Mapping[str, Any],
        seed: int,
    ) -> None:
        self.subject, self.remover, self.swapper, self.classify = subject, remover, swapper, classify
        self.cache, self.identity, self.seed = cache, identity, seed

    def make(self, requests: Sequence[Request]) -> list[EditRow]:
        """All of them, in parts that are written as they come."""
        rows: list[EditRow] = []
        with progress(len(requests), "edits", disable=len(requests) < AT_ONCE) as bar:
            for start in range(0, len(requests), AT_ONCE):
                part = requests[start : start + AT_ONCE]
                key = {**self.identity, "requests": [vars(request) for request in part]}
                rows += self.cache.edits(key, lambda part=part: self._make(part))
                bar.update(len(part))
        return rows

    def _make(self, requests: Sequence[Request]) -> list[EditRow]:
        images: dict[int, UInt8[Tensor, "3 h w"]] = {}
        for kind, edit in (("object", self._removed), ("background", self._swapped)):
            numbers = [number for number, request in enumerate(requests) if request.kind == kind]
            images |= edit(requests, numbers)
        made = sorted(images)
        after = self.classify(torch.stack([images[number] for number in made])) if made else torch.empty(0)
        outcomes = dict(zip(made, after, strict=True))
        return [self._row(r, images.get(number), outcomes.get(number)) for number, r in enumerate(requests)]

    def _removed(self, requests: Sequence[Request], numbers: Sequence[int]) -> dict[int, UInt8[Tensor, "3 h w"]]:
        """Where an object was found, its mask and a little more is filled; the label's own pixels never are."""
        found = {number: self._hole(requests[number]) for number in numbers}
        holes = {number: hole for number, hole in found.items() if hole is not None and bool(hole.any())}
        if not holes:
            return {}
        images = self.subject.data.images[[requests[number].position for number in holes]]
        made = self.remover.remove(images, torch.stack(list(holes.values())), self._seeds(requests, holes))
        return dict(zip(holes, made, strict=True))

    def _hole(self, request: Request) -> Mask:
        mask = self.subject.object_masks[request.position].get(request.phrase)
        if mask is None:
            return None
        label = self.subject.label_masks[request.position]
        hole = grown(mask[None])[0] & ~label
        if not request.placebo:
            return hole
        generator = seeds.generator(self._seed(request), ELSEWHERE_STREAM)
        return shifted_elsewhere(hole[None], self.subject.occupied[request.position][None], [generator])[0]

    def _swapped(self, requests: Sequence[Request], numbers: Sequence[int]) -> dict[int, UInt8[Tensor, "3 h w"]]:
        names = self.subject.background_names
        wanted = {n: names[requests[n].phrase] if requests[n].placebo else requests[n].replaced_by for n in numbers}
        able = [number for number in numbers if self.swapper.can_make(wanted[number])]
        if not able:
            return {}
        positions = [requests[number].position for number in able]
        swaps = Swaps(
            self.subject.data.images[positions], self.subject.occupied[positions],
            [requests[number].phrase for number in able], [wanted[number] for number in able],
            self._seeds(requests, able), positions,
        )  # fmt: skip
        return dict(zip(able, self.swapper.swap(swaps), strict=True))

    def _seeds(self, requests: Sequence[Request], numbers: Any) -> list[int]:
        return [self._seed(requests[number]) for number in numbers]

    def _seed(self, request: Request) -> int:
        """Of the edit alone: the same whatever else is made."""
        return int(content_hash([self.seed, self.subject.data.ids[request.position], vars(request)])[:7], 16)

    def _row(
        self, request: Request, image: UInt8[Tensor, "3 h w"] | None, after: Float[Tensor, " classes"] | None
    ) -> EditRow:
        position, data = request.position, self.subject.data
        before, label = self.subject.probabilities[position], int(data.labels[position])
        made = image is not None and after is not None
        outcome = after if after is not None else before
        return EditRow(
            image_id=data.ids[position], position=position, label=label, kind=request.kind, phrase=request.phrase,
            replaced_by=request.replaced_by, placebo=request.placebo, made=made, p_before=float(before[label]),
            p_after=float(outcome[label]), pred_before=int(before.argmax()), pred_after=int(outcome.argmax()),
            flipped=made and int(outcome.argmax()) != label,
            label_change=0.0 if image is None else self._label_change(position, image),
            seed=self._seed(request), png=b"" if image is None else encode_png(image),
        )  # fmt: skip

    def _label_change(self, position: int, image: UInt8[Tensor, "3 h w"]) -> float:
        """Mean change of the label's own pixels, as a share of the range; those of its edge are not its alone."""
        [mask] = shrunk(self.subject.label_masks[position][None])
        change = (image.float() - self.subject.data.images[position].float()).abs().mean(0)[mask] / 255
        return float(change.mean()) if len(change) else 0.0
