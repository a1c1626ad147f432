"""What `explain_speed.py` compares our own code with: the same results, computed as they are first written down."""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from explain.attention import AttentionModule, build_module
from explain.fills import FILLS
from explain.maps import Maps
from explain.measures.erasing import Erasure, erase
from workbench.networks import build_classifier
from workbench.pixel_classifier import PixelClassifier

IDENTITIES = ("written out", "each branch fused on its own grid", "and only the rows of four classes")
MEASURES = ("one image and step at a time", "both curves in batches")
SHAPES = ((512, 28), (1024, 14), (2048, 7))  # ResNet-50 at 224 px
STEPS, IMAGES = 24, 4
Calls = Mapping[str, Callable[[], object]]


def identity_calls(classes: int, device: str) -> Calls:
    """The attention module in three forms."""
    module = build_module([c for c, _ in SHAPES], classes, 56, seed=0).to(device).eval()
    features = [torch.randn(4, c, side, side, device=device) for c, side in SHAPES]
    every = torch.arange(classes, device=device)
    forms = (
        lambda: written_out(module, features),
        lambda: torch.no_grad()(module)(features, every),
        lambda: torch.no_grad()(module)(features, every[:4]),
    )
    return dict(zip(IDENTITIES, forms, strict=True))


def weights_of(classes: int) -> int:
    """Number of the module's weights."""
    with torch.device("meta"):
        module = AttentionModule([c for c, _ in SHAPES], classes)
    return sum(weight.numel() for weight in module.parameters())


@torch.no_grad()
def written_out(module: AttentionModule, features: list[Tensor]) -> Tensor:
    """Every channel enlarged, concatenated, and fused for every class."""
    size = features[0].shape[-2:]
    parts = [
        F.interpolate(branch(x), size, mode="bilinear", align_corners=False)
        for branch, x in zip(module.branches, features, strict=True)
    ]
    return F.conv2d(torch.cat(parts, 1), module.fuser.weight[:, :, None, None], module.fuser.bias)


def measure_calls(name: str, device: str) -> dict[str, Callable[[], Erasure]]:
    """Deletion and insertion of a few random maps, one image of one step at a time, and as `explain.measures` does."""
    classifier, size = _classifier(name), 32 if name == "convnet" else 224
    classifier = classifier.to(device).eval()
    random = torch.Generator().manual_seed(0)
    images = torch.rand(IMAGES, 3, size, size, generator=random).to(device)
    values = torch.rand(IMAGES, size, size, generator=random).to(device)
    maps = Maps(values, torch.zeros(IMAGES, dtype=torch.int64, device=device), 0, 0, 0.0)

    def looped() -> Erasure:
        curves = torch.tensor([one_at_a_time(classifier, images[k], values[k]) for k in range(IMAGES)])
        return Erasure(curves[..., 0], curves[..., 1])

    return {
        MEASURES[0]: looped,
        MEASURES[1]: lambda: erase(classifier, images, maps, fill="black", steps=STEPS),
    }


def difference(calls: Mapping[str, Callable[[], Erasure]]) -> float:
    """The largest between the probabilities of the two ways."""
    slow, fast = (calls[name]() for name in MEASURES)
    return max(
        (slow.deletion - fast.deletion.cpu()).abs().max().item(),
        (slow.insertion - fast.insertion.cpu()).abs().max().item(),
    )


def _classifier(name: str) -> PixelClassifier:
    if name == "convnet":
        network = build_classifier("convnet", 10, 3, (32, 32))
        return PixelClassifier.wrap(network, mean=(0.5,) * 3, std=(0.25,) * 3, size=(32, 32))
    import timm

    return PixelClassifier.wrap(timm.create_model(name))


@torch.no_grad()
def one_at_a_time(classifier: PixelClassifier, image: Tensor, values: Tensor) -> list[tuple[float, float]]:
    """The loop that one writes first: erase the next part, look, and the same with what is put back."""
    filled, order = FILLS["black"](image[None])[0], values.flatten().argsort(descending=True)
    curves = []
    for step in range(STEPS + 1):
        gone = order[: math.ceil(step * len(order) / STEPS)]
        deleted, inserted = image.flatten(1).clone(), filled.flatten(1).clone()
        deleted[:, gone], inserted[:, gone] = filled.flatten(1)[:, gone], image.flatten(1)[:, gone]
        shown = (classifier(x.view_as(image)[None]).softmax(1)[0, 0].item() for x in (deleted, inserted))
        curves.append((next(shown), next(shown)))
    return curves
