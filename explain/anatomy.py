"""What is inside a classifier: the layers that put out a map over the image, and which of them to explain it from.

Letters: b images, c channels, (h, w) a layer's grid of places, n tokens. Sizes are (height, width).
"""

import difflib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from explain.layers import Layer, Layout, Size, fits, listening, show
from workbench import seeds
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier

NOISE = 40  # stream of randomness
MOST_PREFIX_TOKENS = 16
LEAST_SIDE = 4  # of a grid, unless a classifier has only smaller ones
# What is passed over: grids that say nothing of the image or are only its padding, and what only hands on, which leaves
# attention between channels out too.
PADDING = (nn.ConstantPad2d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d)
POOLING = (nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
PASSED_OVER = (*POOLING, nn.Dropout, nn.Softmax, nn.Identity, *PADDING)


@dataclass(frozen=True)
class Anatomy:
    """What an image of `size` pixels passes through: `layers` in the order in which they finish."""

    classifier: PixelClassifier
    size: Size
    num_classes: int
    layers: tuple[Layer, ...]

    def table(self) -> str:
        """The layers that can be named, but for the parts of parts, as text."""
        depth = min(map(_depth, self.layers)) + 1
        rows = [f"  {layer}, {layer.layout}" for layer in self.layers if _depth(layer) <= depth]
        return "\n".join(rows)

    def blocks(self) -> list[Layer]:
        """The outermost repeated part: a transformer's blocks, or the stages of a network that has them."""
        modules = dict(self.classifier.network.named_modules())
        siblings: dict[Any, list[Layer]] = defaultdict(list)
        for layer in self.layers:
            module = modules[layer.name]
            if any(module.children()):
                siblings[layer.name.rpartition(".")[0], type(module)].append(layer)
        repeated = [group for group in siblings.values() if len(group) > 1]
        return min(repeated, key=lambda group: (_depth(group[0]), -len(group)), default=[])


# ---- finding ---------------------------------------------------------------------------------------------------------


def dissect(classifier: PixelClassifier, image_size: Size | None = None) -> Anatomy:
    """Show a classifier, put in eval mode, two images of noise and see which layers put out a map over the image.

    `image_size` is needed where the classifier has no size of its own. Layers are left out that are called several
    times in a pass, that do not depend on the image, or that put out what is not a number. Raises UserError for a
    classifier that cannot see images of that size, gives no numbers, or has no such layer.
    """
    size = classifier.preprocessing.size or image_size
    if size is None:
        raise UserError(
            "this classifier takes images of any size; say which with image_size=(height, width), or --resolution"
        )
    network, calls = classifier.eval().network, _Calls()
    with listening(dict(network.named_modules()), calls.hear):
        logits = _show_noise(classifier, size)
    if not logits.isfinite().all():
        raise UserError("the classifier's logits of an image of noise are not finite numbers; check its weights")
    outputs = {name: shape for name, shape in calls.shapes.items() if shape is not None}
    layers = _with_layouts(outputs, dict(network.named_modules()), size)
    if not layers:
        raise UserError(
            f"no layer of this {type(network).__name__} puts out a map over an image of {size[0]}x{size[1]} pixels, so "
            "there is nothing to explain it from; use a convolutional network or a transformer of patches"
        )
    return Anatomy(classifier, size, logits.shape[1], tuple(layers))


class _Calls:
    """Shapes of what the modules put out; None for what is of no use."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...] | None] = {}

    def hear(self, name: str, output: Tensor) -> None:
        # of a module that is called twice, say an activation that several layers share, it is not known which is meant
        useful = name and name not in self.shapes and output.ndim in (3, 4) and len(output) == 2
        useful = useful and bool(output.isfinite().all()) and not torch.equal(output[0], output[1])
        self.shapes[name] = tuple(output.shape) if useful else None


def _show_noise(classifier: PixelClassifier, size: Size) -> Tensor:
    noise = torch.rand(2, classifier.channels, *size, generator=seeds.generator(0, NOISE))
    with torch.inference_mode(False), torch.no_grad():
        return show(classifier, noise.to(classifier.mean.device))


def _with_layouts(shapes: Mapping[str, tuple[int, ...]], modules: Mapping[str, nn.Module], size: Size) -> list[Layer]:
    """The outputs that are maps, each with its layout."""
    shapes = {name: shape for name, shape in shapes.items() if not isinstance(modules[name], PASSED_OVER)}
    grids = _token_grids([shapes[name] for name in shapes if isinstance(modules[name], nn.Conv2d)], size)
    tokens = {name: layer for name, shape in shapes.items() if (layer := _token_layer(name, shape, grids))}
    counts = {shapes[name][1] for name in tokens}
    attention = {(count, count) for count in counts}
    planes = {name: shape for name, shape in shapes.items() if len(shape) == 4 and shape[2:] not in attention}
    possible = {name: _plane_layers(name, shape, size) for name, shape in planes.items()}
    sure = [layers[0].layout for layers in possible.values() if len(layers) == 1]
    usual = max(sure, key=sure.count, default="channels-first")
    chosen = {
        name: next((layer for layer in layers if layer.layout == usual), layers[0])
        for name, layers in possible.items()
        if layers
    }
    return [{**tokens, **chosen}[name] for name in shapes if name in tokens or name in chosen]


def _plane_layers(name: str, shape: tuple[int, ...], size: Size) -> list[Layer]:
    """The layouts that a 4-d output may have."""
    _, first, second, third = shape
    ways: list[tuple[Layout, int, Size]] = [
        ("channels-first", first, (second, third)),
        ("channels-last", third, (first, second)),
    ]
    return [Layer(name, layout, channels, grid) for layout, channels, grid in ways if fits(grid, size)]


def _token_layer(name: str, shape: tuple[int, ...], grids: Sequence[Size]) -> Layer | None:
    """The fewest prefix tokens with which the others are a grid of patches."""
    if len(shape) != 3:
        return None
    for prefix in range(MOST_PREFIX_TOKENS + 1):
        for grid in grids:
            if shape[1] - prefix == math.prod(grid):
                return Layer(name, "tokens", shape[2], grid, prefix)
    return None


def _token_grids(convolutions: Sequence[tuple[int, ...]], size: Size) -> list[Size]:
    """The grids that tokens can be: of the convolutions, or else of whole patches; and these halved, as by merging."""
    grids = {(shape[2], shape[3]) for shape in convolutions if len(shape) == 4 and fits((shape[2], shape[3]), size)}
    if not grids:
        height, width = size
        grids = {(height // p, width // p) for p in range(2, min(size) // 2 + 1) if height % p == width % p == 0}
    for height, width in list(grids):
        while min(height, width) > 2:
            height, width = -(-height // 2), -(-width // 2)
            grids.add((height, width))
    return sorted(grids, reverse=True)


# ---- choosing --------------------------------------------------------------------------------------------------------


def choose_layers(anatomy: Anatomy, wanted: str | Sequence[str] = "auto", count: int = 3) -> list[Layer]:
    """The layers named, or with "auto" up to `count` good ones, from shallow to deep.

    auto: of a network whose grid shrinks, the last output at each of the deepest grids with sides of 4 or more
    (ResNet: layer2, layer3, layer4); of one that ends each stage with a max-pool, the last pools (VGG-16: features.16,
    .23 and .30, as T-TAME's authors do); of a transformer of one grid, what the attention of its last blocks sees,
    after the norm. Raises UserError for a name that is not there or puts out no map.
    """
    chosen = _automatic(anatomy, count) if wanted == "auto" else _named(anatomy, wanted)
    return _with_overwritten(anatomy, chosen)


def _named(anatomy: Anatomy, names: str | Sequence[str]) -> list[Layer]:
    known = {layer.name: layer for layer in anatomy.layers}
    for name in [names] if isinstance(names, str) else names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or [str(layer.name) for layer in anatomy.layers[-3:]]
            raise UserError(
                f"{name!r} is no layer that puts out one map over the image in a pass; name others, such as "
                f"{', '.join(near)} (--dry-run lists them)"
            )
    return [layer for layer in anatomy.layers if layer.name in names]


def _automatic(anatomy: Anatomy, count: int) -> list[Layer]:
    layers, blocks = anatomy.layers, anatomy.blocks()
    if blocks and {(block.layout, block.grid) for block in blocks} == {("tokens", blocks[0].grid)}:
        return _before_attention(anatomy, blocks)[-count:]
    grids = sorted({layer.grid for layer in layers}, key=math.prod, reverse=True)
    wanted = ([grid for grid in grids if min(grid) >= LEAST_SIDE] or grids)[-count:]
    return _pools(anatomy, wanted) or [
        _last_of(grid, following, layers)
        for grid, following in zip(grids, [*grids[1:], None], strict=True)
        if grid in wanted
    ]


def _pools(anatomy: Anatomy, grids: Sequence[Size]) -> list[Layer]:
    """The max-pools that begin these grids, where each has one and the deepest grid nothing else; otherwise none."""
    modules = dict(anatomy.classifier.network.named_modules())
    parts = [layer for layer in anatomy.layers if not any(modules[layer.name].children())]
    stages = [[layer for layer in parts if layer.grid == grid] for grid in grids]
    pooled = all(stage and isinstance(modules[stage[0].name], nn.MaxPool2d) for stage in stages)
    return [stage[0] for stage in stages] if pooled and len(stages[-1]) == 1 else []


def _last_of(grid: Size, following: Size | None, layers: Sequence[Layer]) -> Layer:
    """The last output of a grid that is no part of a module which goes on to the next grid."""
    leading_on = {layer.name for layer in layers if layer.grid == following}
    last, *others = [layer for layer in layers if layer.grid == grid]
    for layer in others:
        if not (_owners(layer) - _owners(last)) & leading_on:
            last = layer
    return last


def _owners(layer: Layer) -> set[str]:
    """The modules that a layer is a part of."""
    parts = layer.name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts))}


def _depth(layer: Layer) -> int:
    return layer.name.count(".")


def _before_attention(anatomy: Anatomy, blocks: Sequence[Layer]) -> list[Layer]:
    """What each block's attention sees: the norm that begins the block, else what the block before it puts out."""
    modules = dict(anatomy.classifier.network.named_modules())
    seen = []
    for number, block in enumerate(blocks):
        first = next((layer for layer in anatomy.layers if layer.name.startswith(f"{block.name}.")), block)
        if "norm" in type(modules[first.name]).__name__.lower():
            seen.append(first)
        elif number:
            seen.append(blocks[number - 1])
    return seen


def _with_overwritten(anatomy: Anatomy, layers: Sequence[Layer]) -> list[Layer]:
    """The layers, marked where what comes next changes their output in place."""
    modules, kept = dict(anatomy.classifier.network.named_modules()), {}

    def hear(name: str, output: Tensor) -> None:
        kept[name] = (output, output._version)

    with listening({layer.name: modules[layer.name] for layer in layers}, hear):
        _show_noise(anatomy.classifier, anatomy.size)
    return [replace(layer, overwritten=kept[layer.name][0]._version != kept[layer.name][1]) for layer in layers]
