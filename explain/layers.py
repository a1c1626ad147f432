"""Layers of a classifier whose output is a map over the image, and reading them in a forward pass.

Letters: b images, c channels, (h, w) a layer's grid of places, n tokens. Sizes are (height, width).
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier

Size = tuple[int, int]
Layout = Literal["channels-first", "channels-last", "tokens"]


@dataclass(frozen=True)
class Layer:
    """A layer of a classifier's network, and how its output lies: (b, c, h, w), (b, h, w, c) or (b, n, c)."""

    name: str
    layout: Layout
    channels: int
    grid: Size  # at the size that it was found with
    prefix_tokens: int = 0  # class token, registers, ...: before the tokens of the image
    overwritten: bool = False  # in place, by what comes next

    def to_map(self, output: Float[Tensor, "..."], size: Size) -> Float[Tensor, "b c h w"]:
        """The layer's output, channels first, for an input of `size` pixels."""
        if self.layout == "channels-first":
            return output
        if self.layout == "channels-last":
            return output.permute(0, 3, 1, 2)
        patches = output[:, self.prefix_tokens :]
        return patches.mT.unflatten(2, self._grid_of(patches.shape[1], size))

    def _grid_of(self, count: int, size: Size) -> Size:
        if math.prod(self.grid) == count and fits(self.grid, size):
            return self.grid
        grids = [(h, count // h) for h in range(2, count) if count % h == 0]
        nearest = min(grids, key=lambda grid: abs(grid[0] * size[1] - grid[1] * size[0]), default=(1, count))
        if not fits(nearest, size):
            raise UserError(
                f"the {count} tokens of layer {self.name} are no grid over an image of {size[0]}x{size[1]} pixels; "
                "show the classifier images of its own size"
            )
        return nearest

    def __str__(self) -> str:
        return f"{self.name} ({self.channels}x{self.grid[0]}x{self.grid[1]})"


def fits(grid: Size, size: Size) -> bool:
    """Whether a grid can lie over an image with cells of one shape: height : width agree, to one cell."""
    (h, w), (height, width) = grid, size
    return 2 <= h <= height and 2 <= w <= width and abs(h * width - w * height) < height + width


class Reading(NamedTuple):
    """What one forward pass of a classifier gave."""

    features: list[Float[Tensor, "b _ _ _"]]  # of each layer, channels first
    logits: Float[Tensor, "b k"]


def read(classifier: PixelClassifier, layers: Sequence[Layer], pixels: Shaped[Tensor, "..."]) -> Reading:
    """Logits of images in [0, 1], and what the layers put out on the way. Raises UserError for a wrong size."""
    size = classifier.preprocessing.size or (pixels.shape[-2], pixels.shape[-1])
    copied = {layer.name for layer in layers if layer.overwritten}
    outputs: dict[str, Tensor] = {}

    def hear(name: str, output: Tensor) -> None:
        outputs[name] = output.clone() if name in copied else output

    modules = {layer.name: classifier.network.get_submodule(layer.name) for layer in layers}
    with listening(modules, hear):
        logits = show(classifier, pixels)
    return Reading([layer.to_map(outputs[layer.name], size) for layer in layers], logits)


def show(classifier: PixelClassifier, pixels: Tensor) -> Float[Tensor, "b k"]:
    """The classifier's logits. Raises UserError where it cannot see images of that size."""
    try:
        return classifier(pixels)
    except (UserError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        height, width = classifier.preprocessing.size or tuple(pixels.shape[-2:])
        raise UserError(
            f"the classifier cannot see images of {height}x{width} pixels ({str(error).splitlines()[0][:120]}); "
            "give images of its own size, or pass that size to PixelClassifier.wrap"
        ) from error


@contextmanager
def listening(modules: Mapping[str, nn.Module], hear: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `hear` with a module's name and output, or the first tensor of it, whenever this thread runs the module.

    Other threads that run the same network meanwhile are not heard.
    """
    thread = threading.get_ident()

    def hook(name: str) -> Callable[..., None]:
        def heard(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = _first_tensor(output)
            if tensor is not None and threading.get_ident() == thread:
                hear(name, tensor)

        return heard

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first_tensor(output: Any) -> Tensor | None:
    """None of what names its parts, as whole models of transformers do: their last layers are heard themselves."""
    if isinstance(output, tuple | list):
        output = output[0] if output else None
    return output if isinstance(output, Tensor) else None
