"""Class activation maps: the channels of one layer, weighted by what they mean for the target, and summed.

All take the deepest layer that `explain.layers` finds unless told another; on a transformer that is what the attention
of the last block sees. `values` are what speaks for the target, enlarged to the image; `raw` is signed, on the layer's
grid. Letters: b images, t targets, k channels, (h, w) the layer's grid.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from explain.anatomy import choose_layers, dissect
from explain.layers import Layer
from explain.maps import Maps, stretched
from explain.passes import counted
from explain.probability import logits_in_parts
from workbench.pixel_classifier import PixelClassifier
from workbench.progress import progress

Images = Float[Tensor, "b _ height width"]
Targets = Int64[Tensor, "b t"]
Grid = Float[Tensor, "b k h w"]
Combine = Callable[[Grid, Grid], Float[Tensor, "b h w"]]


# ---- by gradients ----------------------------------------------------------------------------------------------------


def gradcam(
    classifier: PixelClassifier, images: Images, targets: Targets, *, layer: str | None = None, batch_size: int = 32
) -> Maps:
    """Channels weighted by the mean of their gradient. Selvaraju et al., 2017, arXiv 1610.02391."""
    return _by_gradients(
        lambda a, g: (g.mean((2, 3), keepdim=True) * a).sum(1), classifier, images, targets, layer, batch_size
    )


def gradcam_plus_plus(
    classifier: PixelClassifier, images: Images, targets: Targets, *, layer: str | None = None, batch_size: int = 32
) -> Maps:
    """Channels weighted by their positive gradients, each by equation 19 of Chattopadhay et al., arXiv 1710.11063."""

    def combine(a: Grid, g: Grid) -> Float[Tensor, "b h w"]:
        alpha = g**2 / (2 * g**2 + a.sum((2, 3), keepdim=True) * g**3 + 1e-6)
        weights = (alpha * g.clamp(min=0)).sum((2, 3), keepdim=True)
        return (weights * a).sum(1)

    return _by_gradients(combine, classifier, images, targets, layer, batch_size)


def hirescam(
    classifier: PixelClassifier, images: Images, targets: Targets, *, layer: str | None = None, batch_size: int = 32
) -> Maps:
    """Gradient times activation, place by place. Draelos and Carin, 2020, arXiv 2011.08891."""
    return _by_gradients(lambda a, g: (g * a).sum(1), classifier, images, targets, layer, batch_size)


def layercam(
    classifier: PixelClassifier, images: Images, targets: Targets, *, layer: str | None = None, batch_size: int = 32
) -> Maps:
    """Positive gradient times activation, place by place. Jiang et al., 2021, doi 10.1109/TIP.2021.3089943."""
    return _by_gradients(lambda a, g: (g.clamp(min=0) * a).sum(1), classifier, images, targets, layer, batch_size)


def _by_gradients(
    combine: Combine, classifier: PixelClassifier, images: Images, targets: Targets, layer: str | None, batch_size: int
) -> Maps:
    tap = _Tap(classifier, images, layer)
    with counted(classifier) as cost:
        parts = zip(images.split(batch_size), targets.split(batch_size), strict=True)
        raw = torch.cat([_combined(combine, tap, part, chosen) for part, chosen in parts])
    return cost.maps(_enlarged(raw, images), targets, raw)


def _combined(combine: Combine, tap: "_Tap", images: Images, targets: Targets) -> Float[Tensor, "n h w"]:
    """One forward pass, and one backward pass from each target to the layer."""
    with torch.enable_grad(), tap.read() as outputs:
        scores = tap.classifier(images).gather(1, targets)  # (b, t)
    activations = tap.grid(outputs[0].detach())
    maps = []
    for number in range(targets.shape[1]):
        last = number == targets.shape[1] - 1
        (gradient,) = torch.autograd.grad(scores[:, number].sum(), outputs[0], retain_graph=not last)
        maps.append(combine(activations, tap.grid(gradient)))
    return torch.stack(maps, 1).flatten(0, 1)


# ---- by seeing what happens without a channel, or with it alone ------------------------------------------------------


@torch.no_grad()
def scorecam(
    classifier: PixelClassifier, images: Images, targets: Targets, *, layer: str | None = None, batch_size: int = 64
) -> Maps:
    """Channels weighted by the softmax of the logits of the image seen through each of them.

    As many forward passes as channels. Wang et al., 2020, arXiv 1910.01279.
    """
    tap, raw = _Tap(classifier, images, layer), []
    with counted(classifier) as cost, progress(len(images), "Score-CAM", unit="image") as bar:
        for image, chosen in zip(images.split(1), targets, strict=True):
            with tap.read() as outputs:
                classifier(image)
            activations = tap.grid(outputs[0])[0]  # (k, h, w)
            seen = (image * _as_masks(part, image) for part in activations.split(batch_size))
            scores = [logits_in_parts(classifier, part)[:, chosen] for part in seen]
            raw.append(torch.einsum("kt,khw->thw", torch.cat(scores).softmax(0), activations))
            bar.update()
    return cost.maps(_enlarged(torch.cat(raw), images), targets, torch.cat(raw))


def _as_masks(
    activations: Float[Tensor, "k h w"], image: Float[Tensor, "1 _ height width"]
) -> Float[Tensor, "k 1 _ _"]:
    return stretched(_resized(activations, image))[:, None]


@torch.no_grad()
def ablationcam(
    classifier: PixelClassifier, images: Images, targets: Targets, *, layer: str | None = None, batch_size: int = 64
) -> Maps:
    """Channels weighted by the share of the logit that is lost when the channel is 0.

    As many forward passes as channels, and one more. Ramaswamy and Desai, 2020, doi 10.1109/WACV45572.2020.9093360.
    """
    tap, raw = _Tap(classifier, images, layer), []
    with counted(classifier) as cost, progress(len(images), "Ablation-CAM", unit="image") as bar:
        for image, chosen in zip(images.split(1), targets, strict=True):
            with tap.read() as outputs:
                whole = classifier(image)[:, chosen]  # (1, t)
            activations = tap.grid(outputs[0])[0]
            scores = [
                _without(tap, image, part)[:, chosen] for part in torch.arange(len(activations)).split(batch_size)
            ]
            weights = (whole - torch.cat(scores)) / whole
            raw.append(torch.einsum("kt,khw->thw", weights, activations))
            bar.update()
    return cost.maps(_enlarged(torch.cat(raw), images), targets, torch.cat(raw))


def _without(tap: "_Tap", image: Float[Tensor, "1 _ height width"], channels: Int64[Tensor, " m"]) -> Tensor:
    """Logits of the image without each of the channels."""

    def ablate(output: Tensor) -> Tensor:
        kept = output.movedim(tap.channel_axis, 1).clone()  # (m, k, ...)
        kept[torch.arange(len(channels)), channels] = 0
        return kept.movedim(1, tap.channel_axis)

    with tap.read(ablate):
        return tap.classifier(image.expand(len(channels), -1, -1, -1))


@torch.no_grad()
def eigencam(
    classifier: PixelClassifier, images: Images, targets: Targets, *, layer: str | None = None, batch_size: int = 32
) -> Maps:
    """The first principal component of the layer, whatever the target. Muhammad and Yeasin, 2020, arXiv 2008.00299.

    Its sign is that with which it goes up where the mean channel does.
    """
    tap, components = _Tap(classifier, images, layer), []
    with counted(classifier) as cost:
        for part in images.split(batch_size):
            with tap.read() as outputs:
                classifier(part)
            components.append(_first_component(tap.grid(outputs[0]).float()))
    raw = torch.cat(components).repeat_interleave(targets.shape[1], 0)
    return cost.maps(_enlarged(raw, images), targets, raw)


def _first_component(activations: Grid) -> Float[Tensor, "b h w"]:
    places = activations.flatten(2).mT  # (b, places, k)
    centred = places - places.mean(1, keepdim=True)
    direction = torch.linalg.svd(centred, full_matrices=False).Vh[:, 0, :, None]  # (b, k, 1)
    component = (centred @ direction)[..., 0]
    sign = (component * centred.mean(2)).sum(1, keepdim=True).sign()
    return (component * sign).unflatten(1, activations.shape[2:])


# ---- the layer -------------------------------------------------------------------------------------------------------


class _Tap:
    """One layer of a classifier: what it puts out, and what the rest of the network is given instead."""

    def __init__(self, classifier: PixelClassifier, images: Images, name: str | None) -> None:
        self.classifier = classifier
        self.size = classifier.preprocessing.size or (images.shape[-2], images.shape[-1])
        self.layer: Layer = choose_layers(dissect(classifier, self.size), name or "auto")[-1]
        self.module = classifier.network.get_submodule(self.layer.name)
        self.channel_axis = 1 if self.layer.layout == "channels-first" else -1

    def grid(self, output: Tensor) -> Grid:
        """The layer's output, or its gradient, channels first."""
        return self.layer.to_map(output, self.size)

    @contextmanager
    def read(self, change: Callable[[Tensor], Tensor] = torch.clone) -> Iterator[list[Tensor]]:
        """Hear the layer's output, of which gradients can be asked; the network goes on with `change` of it."""
        outputs: list[Tensor] = []

        def heard(module: Any, inputs: Any, output: Any) -> Any:
            several = isinstance(output, tuple)
            outputs.append((output[0] if several else output).detach().requires_grad_(torch.is_grad_enabled()))
            changed = change(outputs[-1])
            return (changed, *output[1:]) if several else changed

        hook = self.module.register_forward_hook(heard)
        try:
            yield outputs
        finally:
            hook.remove()


def _enlarged(raw: Float[Tensor, "n h w"], images: Images) -> Float[Tensor, "n height width"]:
    return _resized(raw.clamp(min=0), images)


def _resized(maps: Float[Tensor, "n h w"], images: Images) -> Float[Tensor, "n height width"]:
    return F.interpolate(maps[:, None], images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
