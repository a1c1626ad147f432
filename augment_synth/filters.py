"""Which new images are worth training on. The released code filters nothing; these follow ALIA (Dunlap et al., 2023).

Left out are near-duplicates of a real image or of an earlier new one; generated images on which the classifier is surer
of the right answer than it is on training images, because nothing is missing from them; and, where a model can say so,
images that look less like their label than like anything else. What it is surely wrong on stays: that is sought for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from augment_synth.debias_data import DebiasData
from augment_synth.synthetic import Synthetic

CELLS, NEAR = 8, 0.02  # along a side; change of the most changed cell, as a share of the range
AT_ONCE = 256
Classify = Callable[[UInt8[Tensor, "n 3 h w"]], Float[Tensor, "n classes"]]


@runtime_checkable
class Likeness(Protocol):
    """How likely images show their label rather than anything else, from 0 to 1; from 1/2 on it is believed."""

    name: str

    def scores(self, images: UInt8[Tensor, "n 3 h w"], labels: Sequence[str]) -> Float[Tensor, " n"]: ...


@dataclass(frozen=True)
class Filters:
    """What images are judged by: the classifier, its probabilities of the training images, and a likeness, if any."""

    classify: Classify
    probabilities: Float[Tensor, "n classes"]
    likeness: Likeness | None = None

    def apply(self, made: Synthetic, data: DebiasData) -> Synthetic:
        """Those that pass all, with what was measured of each in its row."""
        if not len(made):
            return made
        labels = torch.tensor([row["label"] for row in made.rows])
        change = least_change(made.images, labels, data)
        generated = torch.tensor([row["source"] == "generated" for row in made.rows])
        probabilities = self.classify(made.images)
        bad = {"near-duplicates": change < NEAR}
        bad["too easy"] = generated & too_easy(probabilities, labels, self.probabilities, data.labels)
        measured: dict[str, Sequence[float]] = {
            "least_change": change.tolist(), "p_given": probabilities.gather(1, labels[:, None])[:, 0].tolist()
        }  # fmt: skip
        if self.likeness is not None:
            scores = self.likeness.scores(made.images, [data.label_names[label] for label in labels.tolist()])
            bad[f"unlike their label ({self.likeness.name})"] = scores < 0.5
            measured["label_likeness"] = scores.tolist()
        return kept(made, bad, measured)


def kept(made: Synthetic, bad: Mapping[str, Bool[Tensor, " n"]], measured: Mapping[str, Sequence[float]]) -> Synthetic:
    """What no filter takes; each image counts for the first that does."""
    good, left_out = torch.ones(len(made), dtype=torch.bool), {}
    for name, taken in bad.items():
        left_out[name] = int((good & taken).sum())
        good &= ~taken
    rows: list[dict[str, Any]] = [
        {**made.rows[k], **{name: values[k] for name, values in measured.items()}}
        for k in good.nonzero()[:, 0].tolist()
    ]
    return Synthetic(made.images[good], rows, left_out)


def least_change(
    images: UInt8[Tensor, "n 3 h w"], labels: Int64[Tensor, " n"], data: DebiasData
) -> Float[Tensor, " n"]:
    """From the nearest real image of the class, or the nearest of the images before it: the change of the cell of an
    8 x 8 grid that changed most. A small object that is gone changes a cell, however little it changes the whole."""
    found = torch.full((len(images),), float("inf"))
    new, real = in_cells(images), in_cells(data.images)
    for label in labels.unique().tolist():
        own = (labels == label).nonzero()[:, 0]
        among, others = new[own], real[data.labels == label]
        for start in range(0, len(own), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            earlier = torch.cdist(among[part], among, p=float("inf"))
            earlier[torch.arange(len(own)) >= torch.arange(len(own))[part, None]] = float("inf")
            nearest = torch.cat([earlier, torch.cdist(among[part], others, p=float("inf"))], 1)
            found[own[part]] = nearest.amin(1)
    return found


def in_cells(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n cells"]:
    """Mean colours of the cells of a grid."""
    return torch.cat([F.adaptive_avg_pool2d(part.float() / 255, CELLS).flatten(1) for part in images.split(AT_ONCE)])


def too_easy(
    probabilities: Float[Tensor, "n classes"],
    labels: Int64[Tensor, " n"],
    of_training: Float[Tensor, "m classes"],
    training_labels: Int64[Tensor, " m"],
) -> Bool[Tensor, " n"]:
    """Predicted right, and more surely than training images of the class are on average."""
    own = of_training.gather(1, training_labels[:, None])[:, 0]
    usual = torch.stack([own[training_labels == label].mean() for label in labels.tolist()])
    right = probabilities.argmax(1) == labels
    return right & (probabilities.gather(1, labels[:, None])[:, 0] > usual)
