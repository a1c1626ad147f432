"""Occlusion, integrated gradients, GradientShap and LRP: captum's, behind the one signature of all explainers.

Their attributions are signed: a map's `values` are what speaks for the target, its `raw` has both signs.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.fx
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from explain.maps import Maps
from explain.passes import Cost, counted
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier


def occlusion(
    classifier: PixelClassifier,
    images: Float[Tensor, "b c h w"],
    targets: Int64[Tensor, "b t"],
    *,
    window: float = 1 / 6,
    stride: float = 1 / 12,
    batch_size: int = 64,
) -> Maps:
    """How much the logit falls when a square window shows the image's mean colour instead.

    `window` and `stride` are shares of the shorter side. Zeiler and Fergus, 2013, arXiv 1311.2901.
    """
    side, step = (max(1, round(share * min(images.shape[-2:]))) for share in (window, stride))
    from captum.attr import Occlusion

    repeated, chosen = _rows(images, targets)
    with counted(classifier) as cost, torch.no_grad():
        falls = Occlusion(classifier).attribute(
            repeated,
            sliding_window_shapes=(images.shape[1], side, side),
            strides=(images.shape[1], step, step),
            baselines=repeated.mean((2, 3), keepdim=True).expand_as(repeated),
            target=chosen,
            perturbations_per_eval=max(1, batch_size // len(repeated)),
        )
    return _maps(cost, falls[:, 0], chosen)  # captum repeats the value in every channel


def integrated_gradients(
    classifier: PixelClassifier,
    images: Float[Tensor, "b c h w"],
    targets: Int64[Tensor, "b t"],
    *,
    num_steps: int = 32,
    batch_size: int = 64,
) -> Maps:
    """The gradient averaged on the straight way from black to the image, times the image, summed over channels.

    Sundararajan, Taly, Yan, 2017, arXiv 1703.01365.
    """
    from captum.attr import IntegratedGradients

    repeated, chosen = _rows(images, targets)
    with counted(classifier) as cost:
        parts = IntegratedGradients(classifier).attribute(
            repeated, target=chosen, n_steps=num_steps, internal_batch_size=max(batch_size, len(repeated))
        )
    return _maps(cost, parts.sum(1), chosen)


def gradient_shap(
    classifier: PixelClassifier,
    images: Float[Tensor, "b c h w"],
    targets: Int64[Tensor, "b t"],
    *,
    num_samples: int = 32,
    seed: int = 0,
    batch_size: int = 64,
) -> Maps:
    """The gradient at random places between black or gray and the noisy image, times their difference, averaged.

    Lundberg and Lee, 2017, arXiv 1705.07874; noise of standard deviation 0.05.
    """
    from captum.attr import GradientShap

    repeated, chosen = _rows(images, targets)
    gray = images.mean((0, 2, 3), keepdim=True).expand(1, *images.shape[1:])
    method, at_once = GradientShap(classifier), max(1, batch_size // len(repeated))
    total = torch.zeros_like(repeated)
    with counted(classifier) as cost, _seeded(seed):
        for first in range(0, num_samples, at_once):
            count = min(at_once, num_samples - first)
            baselines = torch.cat([torch.zeros_like(gray), gray])
            total += count * method.attribute(repeated, baselines, count, stdevs=0.05, target=chosen)
    return _maps(cost, total.sum(1) / num_samples, chosen)


def lrp(classifier: PixelClassifier, images: Float[Tensor, "b c h w"], targets: Int64[Tensor, "b t"]) -> Maps:
    """Layer-wise relevance propagation from the logit to the network's input: rule gamma in convolutions, else epsilon.

    Bach et al., 2015, doi 10.1371/journal.pone.0130140. For networks of layers one after another, such as VGG: where a
    network adds branches up, captum's relevance grows without bound. Raises `UserError` for such networks.
    """
    from captum.attr import LRP

    repeated, chosen = _rows(images, targets)
    network = copy.deepcopy(classifier.network)  # captum changes weights on its way
    try:
        _prepare_for_lrp(network)
        with counted(network) as cost:
            relevance = LRP(network).attribute(classifier.preprocess(repeated).requires_grad_(), target=chosen)
    except (TypeError, RuntimeError, ValueError, torch.fx.proxy.TraceError) as error:
        kind, reason = type(classifier.network).__name__, str(error).partition(". ")[0]
        raise UserError(f"LRP cannot explain a {kind} ({reason}): choose another method") from error
    return _maps(cost, _resized(relevance.sum(1), images), chosen)


def _prepare_for_lrp(network: nn.Module) -> None:
    """Raises ValueError where the network does more than to call one layer after another."""
    from captum.attr._utils.lrp_rules import GammaRule, IdentityRule

    for node in torch.fx.symbolic_trace(network).graph.nodes:
        if node.op.startswith("call_") and len(node.all_input_nodes) > 1:
            raise ValueError(f"it joins branches by {node.name}")
    for layer in network.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
        elif isinstance(layer, nn.Conv2d):
            layer.rule = GammaRule()
        elif isinstance(layer, nn.Identity):
            layer.rule = IdentityRule()


def _rows(
    images: Float[Tensor, "b c h w"], targets: Int64[Tensor, "b t"]
) -> tuple[Float[Tensor, "n c h w"], Int64[Tensor, " n"]]:
    """Each image once for each of its targets."""
    return images.repeat_interleave(targets.shape[1], 0), targets.flatten()


def _resized(maps: Float[Tensor, "n _ _"], images: Float[Tensor, "b c h w"]) -> Float[Tensor, "n h w"]:
    if maps.shape[-2:] == images.shape[-2:]:
        return maps
    return F.interpolate(maps[:, None], images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def _maps(cost: Cost, signed: Float[Tensor, "n h w"], targets: Int64[Tensor, " n"]) -> Maps:
    signed = signed.detach().float()
    return cost.maps(signed.clamp(min=0), targets, signed)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """captum draws from the global streams of torch and numpy, which are then as they were before."""
    before = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
