"""Every explainer by its name, behind one signature: (classifier, images in [0, 1], targets) -> Maps.

maps = explain("gradcam", classifier, images, "top5")
maps = explain("rise", classifier, images, num_masks=8000, seed=1)

A further method is a further line in METHODS; its module is imported when it is first asked for.
"""

import difflib
import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from explain.maps import Maps
from explain.probability import logits_in_parts
from explain.targets import Targets, resolve_targets
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier


@dataclass(frozen=True)
class Method:
    """An explainer: where it is (MODULE:FUNCTION), what it looks at, which options it takes, and what it cannot do
    without: a package of the extra `explain`, or an option."""

    function: str
    text: str
    options: tuple[str, ...] = ()
    knows_target: bool = True
    package: str | None = None
    needs: str | None = None

    def load(self) -> Any:
        """The function itself."""
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)


BATCH = 64
LAYER = ("layer", "batch_size")
CAPTUM = "explain.attributions:"

METHODS = {
    "ttame": Method("explain.saliency:ttame", "what a trained module keeps", ("explainer",), needs="explainer"),
    "gradcam": Method("explain.cams:gradcam", "channels weighted by their mean gradient", LAYER),
    "gradcam++": Method("explain.cams:gradcam_plus_plus", "channels weighted by their positive gradients", LAYER),
    "hirescam": Method("explain.cams:hirescam", "gradient times activation", LAYER),
    "layercam": Method("explain.cams:layercam", "positive gradient times activation", LAYER),
    "scorecam": Method("explain.cams:scorecam", "channels weighted by the image seen through them", LAYER),
    "ablationcam": Method("explain.cams:ablationcam", "channels weighted by what is lost without them", LAYER),
    "eigencam": Method("explain.cams:eigencam", "first principal component of the channels", LAYER, False),
    "rise": Method("explain.rise:rise", "random masks", ("num_masks", "fill", "seed", "batch_size")),
    "shap": Method("explain.shapley:shap", "Shapley values of blocks of pixels", ("budget", "seed")),
    "occlusion": Method(CAPTUM + "occlusion", "a sliding window is hidden", ("batch_size",), package="captum"),
    "ig": Method(
        CAPTUM + "integrated_gradients", "integrated gradients", ("num_steps", "batch_size"), package="captum"
    ),
    "gradientshap": Method(CAPTUM + "gradient_shap", "expected gradients", ("seed", "batch_size"), package="captum"),
    "lrp": Method(CAPTUM + "lrp", "layer-wise relevance propagation", package="captum"),
    "rollout": Method("explain.rollout:rollout", "attention rollout", ("batch_size",), False),
    "random": Method("explain.controls:random", "control: noise", ("seed",), False),
    "centre": Method("explain.controls:centre", "control: the middle of the image", (), False),
    "edges": Method("explain.controls:edges", "control: contours of the image", (), False),
    "uniform": Method("explain.controls:uniform", "control: the whole image", (), False),
}

NEEDS = {
    "explainer": "a trained explainer of this classifier: give --explainer RUN, or train one with "
    "workbench train ttame --classifier SPEC --data DATA --output-dir RUN",
}


def check_methods(names: Iterable[str], options: Mapping[str, Any]) -> None:
    """Raise `UserError` for a name that is no method's, and for a method that lacks a package or an option."""
    for name in names:
        if name not in METHODS:
            near = difflib.get_close_matches(name, METHODS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(METHODS)}"
            raise UserError(f"there is no method {name!r}; {hint}")
        method = METHODS[name]
        if method.package and importlib.util.find_spec(method.package) is None:
            raise UserError(f"{name} needs the package {method.package}: pip install 'workbench[explain]'")
        if method.needs and options.get(method.needs) is None:
            raise UserError(f"{name} needs {NEEDS[method.needs]}")


def explain(
    method: str,
    classifier: PixelClassifier,
    images: Float[Tensor, "b c h w"],
    targets: Targets = None,
    **options: Any,
) -> Maps:
    """Maps of one method for images in [0, 1]; `targets` as in `resolve_targets`.

    Of the options (batch_size, budget, explainer, fill, layer, num_masks, num_steps, seed) a method takes those that it
    knows, so that one set serves several methods. Raises `UserError` for an unknown method, and for maps that are not
    finite.
    """
    check_methods([method], options)
    chosen = METHODS[method]
    function = chosen.load()
    numbers = targets.view(len(images), -1) if isinstance(targets, Tensor) else _targets(targets, classifier, images)
    maps: Maps = function(classifier, images, numbers, **{k: options[k] for k in chosen.options if k in options})
    if not maps.values.isfinite().all():
        raise UserError(
            f"{method} gave a map that is not finite: the classifier's numbers overflow or are not numbers; "
            "run it in float32, and check its weights"
        )
    return maps


@torch.no_grad()
def _targets(targets: Targets, classifier: PixelClassifier, images: Float[Tensor, "b c h w"]) -> Int64[Tensor, "b t"]:
    return resolve_targets(targets, classifier, logits_in_parts(classifier, images, BATCH))


def ttame(
    classifier: PixelClassifier,
    images: Float[Tensor, "b c h w"],
    targets: Int64[Tensor, "b t"],
    *,
    explainer: str | Path,
) -> Maps:
    """Maps of a trained attention module (`explain.ttame`); `UserError` where it belongs to another classifier."""
    from explain.ttame import TTame

    return TTame.load(explainer, classifier).explain(images, targets)
