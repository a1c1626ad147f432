"""Shapley values of an image's pixels: how much each adds to what a classifier says of a class.

found = attribute(classifier, image, target, budget=500)
found.values.sum() + found.base      # what it says of the whole image

A partition tree of blocks (see `owen`), whose coalitions are shown to the classifier in batches.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from explain.folding import folded
from explain.hiding import hiding
from explain.maps import Maps
from explain.owen import Coalition, OwenTree, grow, shown_pixels
from explain.passes import counted
from explain.probability import logits_in_parts
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier
from workbench.progress import progress as progress_bar

Scale = Literal["probability", "log-odds"]
METHOD = "partition-shap"
KEPT_NUMBERS = 2**26  # of all classes' values, at most: 256 MB
STAGE = 100  # evaluations between two looks at the top region
TOP_SHARE, SAME_REGION, STAGES_ALIKE = 0.5, 0.8, 2


@dataclass(frozen=True)
class Attribution:
    """Signed values of an image's pixels, at its size: they add up, with `base`, to `fx`, the classifier's word on it.

    `base` is its word on the image with all pixels hidden. `all_values` are those of all k classes from the same
    evaluations, chosen for the target; None where they would be very large.
    """

    values: Float[Tensor, "h w"]
    base: float
    target: int
    fx: float
    evaluations: int
    seconds: float
    additivity_error: float
    fill: str
    scale: Scale
    seed: int
    method: str
    all_values: Float[Tensor, "k h w"] | None

    @property
    def base_probability(self) -> float:
        """The probability with all pixels hidden, whatever the scale."""
        return self.base if self.scale == "probability" else float(torch.tensor(self.base).double().sigmoid())


@torch.no_grad()
def attribute(
    classifier: PixelClassifier,
    image: Float[Tensor, "c h w"],
    target: int,
    *,
    budget: int = 500,
    fill: str = "blur",
    scale: Scale = "probability",
    seed: int = 0,
    batch_size: int = 50,
    grid: int = 32,
    early_stop: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Attribution:
    """Shapley values of the target's probability, or of its log-odds, for an image in [0, 1], by `budget` evaluations.

    Blocks are split down to 1 / `grid` of each side; so far, the values are those of shap's PartitionExplainer at the
    same budget, batch size and fill (and, where effects are equal, after np.random.seed(seed)). They depend on
    `batch_size`: the blocks of a round are split together. An image of more pixels than the classifier looks at is
    evaluated smaller. With `early_stop` no more is evaluated once the top region stays as it is. `progress` is told,
    after each round, the evaluations done and the budget. Raises `UserError` for input or outputs that cannot work.
    """
    _check(image, budget, batch_size, grid)
    began = time.perf_counter()
    [seen] = classifier.shrink(image[None].to(classifier.mean))
    size = (seen.shape[1], seen.shape[2])
    hide, stop = hiding(seen, fill), _Steady() if early_stop else _never
    done = 0
    with folded(classifier, seen[None]), progress_bar(budget, "SHAP", unit="pass") as bar:

        def evaluate(chosen: Sequence[Coalition]) -> Float[np.ndarray, "n k"]:
            nonlocal done
            outputs = scores(classifier, hide(shown_pixels(chosen, size)), scale)
            done += len(chosen)
            bar.update(len(chosen))
            if progress is not None:
                progress(done, budget)
            return outputs.numpy()

        cell = (-(-size[0] // grid), -(-size[1] // grid))
        tree = grow(evaluate, size, target=target, budget=budget, at_once=batch_size, cell=cell, seed=seed, enough=stop)
    return _attribution(tree, image, began, fill, scale, seed)


def scores(
    classifier: PixelClassifier, images: Float[Tensor, "n c h w"], scale: Scale = "probability"
) -> Float[Tensor, "n k"]:
    """What is explained: probabilities, or their log-odds, in double precision. `UserError` where not finite."""
    logits = logits_in_parts(classifier, images).cpu().double()
    if scale == "probability":
        found = classifier.probabilities(logits)
    elif classifier.multi_label:
        found = logits
    else:
        log_p = logits.log_softmax(1)
        found = log_p - torch.log(-torch.expm1(log_p.clamp(max=-torch.finfo(log_p.dtype).eps)))
    if not found.isfinite().all():
        raise UserError("the classifier's outputs are not finite numbers; run it in float32, and check its weights")
    return found


def shap(
    classifier: PixelClassifier,
    images: Float[Tensor, "b c h w"],
    targets: Int64[Tensor, "b t"],
    *,
    budget: int = 500,
    seed: int = 0,
) -> Maps:
    """Shapley values of every image and target, each with evaluations of its own; `raw` is signed, `values` what speaks
    for the target."""
    with counted(classifier) as cost:
        found = [
            attribute(classifier, image, target, budget=budget, seed=seed).values
            for image, chosen in zip(images, targets.tolist(), strict=True)
            for target in chosen
        ]
    signed = torch.stack(found).to(images.device)
    return cost.maps(signed.clamp(min=0), targets, signed)


def _check(image: Float[Tensor, "c h w"], budget: int, batch_size: int, grid: int) -> None:
    if not (image.min() >= 0 and image.max() <= 1):
        raise UserError("Shapley values are taken of float pixels in [0, 1]: write image.float() / 255")
    if budget < 2:
        raise UserError(f"a budget of {budget} evaluations was given; give at least 2, some hundred for a useful map")
    if batch_size < 1 or grid < 1:
        raise UserError(f"the batch size is {batch_size} and the grid {grid}; give 1 or more of each")


def _attribution(
    tree: OwenTree, image: Float[Tensor, "c h w"], began: float, fill: str, scale: Scale, seed: int
) -> Attribution:
    size, target = (image.shape[1], image.shape[2]), tree.target
    credits, num_classes = tree.credits(), len(tree.outputs[0])
    keep_all = num_classes * size[0] * size[1] <= KEPT_NUMBERS
    every = credits.spread(size) if keep_all else None
    values = credits.spread(size, slice(target, target + 1))[0]
    base, fx = (float(tree.outputs[row][target]) for row in (0, 1))
    return Attribution(
        values=values, base=base, target=target, fx=fx, evaluations=len(tree.outputs),
        seconds=time.perf_counter() - began, additivity_error=abs(base + float(values.double().sum()) - fx), fill=fill,
        scale=scale, seed=seed, method=METHOD, all_values=every,
    )  # fmt: skip


# ---- when to stop ----------------------------------------------------------------------------------------------------


def _never(tree: OwenTree) -> bool:
    return False


class _Steady:
    """Whether the region of the largest values has stayed as it is over the last stages of evaluations."""

    def __init__(self) -> None:
        self.next_stage, self.alike = STAGE, 0
        self.region: Tensor | None = None

    def __call__(self, tree: OwenTree) -> bool:
        if len(tree.outputs) < self.next_stage:
            return False
        self.next_stage += STAGE
        values = tree.credits().spread(tree.size, slice(tree.target, tree.target + 1))[0]
        region, before = (values > 0) & (values >= TOP_SHARE * values.max()), self.region
        self.region = region
        same = before is not None and bool(region.any()) and _iou(region, before) >= SAME_REGION
        self.alike = self.alike + 1 if same else 0
        return self.alike >= STAGES_ALIKE


def _iou(first: Tensor, second: Tensor) -> float:
    return float((first & second).sum() / (first | second).sum())
