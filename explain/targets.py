"""Which classes to explain: the k most likely, by number, or by name."""

import difflib
import re
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier

Targets = str | int | Sequence[int | str] | Int64[Tensor, "..."] | None


def resolve_targets(
    targets: Targets, classifier: PixelClassifier, logits: Float[Tensor, "b k"]
) -> Int64[Tensor, "b t"]:
    """The t classes to explain for each image, given the classifier's logits.

    None is the most likely class and "top5" the five most likely, in that order. A number or a name is one class for
    all images, a list several for all. A tensor of shape (b,) or (b, t) says it image by image. Raises `UserError` for
    a class that does not exist, and where there is no choice between classes.
    """
    check_choice(classifier, logits.shape[1])
    if isinstance(targets, Tensor):
        return _checked(targets.to(logits.device).view(len(logits), -1), logits.shape[1])
    if targets is None:
        targets = "top1"
    if isinstance(targets, str) and (top := re.fullmatch(r"top(\d+)", targets)):
        return logits.topk(min(max(1, int(top[1])), logits.shape[1])).indices
    several = [targets] if isinstance(targets, str | int) else targets
    numbers = torch.tensor([_number(target, classifier) for target in several], device=logits.device)
    return _checked(numbers, logits.shape[1]).expand(len(logits), -1)


def check_choice(classifier: PixelClassifier, num_classes: int) -> None:
    """Raise UserError for a classifier that is always sure."""
    if num_classes == 1 and not classifier.multi_label:
        raise UserError(
            "the classifier has a single class, of which it is always sure, so there is nothing to explain; where its "
            "one number says yes or no, wrap it with PixelClassifier.wrap(model, ..., multi_label=True)"
        )


def _number(target: int | str, classifier: PixelClassifier) -> int:
    if isinstance(target, int) or target.isdecimal():
        return int(target)
    names = classifier.label_names
    if target not in names:
        near = difflib.get_close_matches(target, names, n=3)
        hint = f"the nearest are {', '.join(near)}" if near else "give top1, top5, a class number"
        hint += "" if near or not names else f", or a name such as {names[0]}"
        raise UserError(f"the classifier has no class {target!r}: {hint}")
    return names.index(target)


def _checked(numbers: Int64[Tensor, "*b t"], num_classes: int) -> Int64[Tensor, "*b t"]:
    if wrong := [number for number in numbers.flatten().tolist() if not 0 <= number < num_classes]:
        raise UserError(f"there is no class number {wrong[0]}: the classifier's go from 0 to {num_classes - 1}")
    return numbers
