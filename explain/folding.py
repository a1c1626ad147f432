"""Batch norms as part of the convolutions before them, for methods of many forward passes.

    with folded(classifier, images[:1]):
        ...  # the same logits up to rounding, in less time

In evaluation a batch norm scales and shifts each channel, which the weights of the convolution before it can do as
well. Which norm follows which convolution is seen in a forward pass.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from workbench.pixel_classifier import PixelClassifier

TOLERANCE = 1e-4  # of the largest logit


@contextmanager
def folded(classifier: PixelClassifier, example: Float[Tensor, "b c h w"]) -> Iterator[None]:
    """Fold the norms inside the block, for passes without gradients; at its end the classifier is what it was.

    Nothing is folded where that changes the logits of `example` by more than rounding does, as where something else
    reads what a convolution wrote. Other threads must not use the classifier meanwhile.
    """
    with ExitStack() as undo:
        if any(map(_is_norm, classifier.network.modules())):
            _fold_all(classifier, example, undo)
        yield


@torch.no_grad()
def _fold_all(classifier: PixelClassifier, example: Float[Tensor, "b c h w"], undo: ExitStack) -> None:
    before, pairs = _watch(classifier, example)
    for convolution, norm in pairs:
        _fold(convolution, norm, undo)
    if pairs and (classifier(example) - before).abs().max() > TOLERANCE * before.abs().max():
        undo.close()


Pairs = list[tuple[nn.Conv2d, nn.BatchNorm2d]]


def _watch(classifier: PixelClassifier, example: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b k"], Pairs]:
    """The logits, and each norm that reads what a convolution has just written; both are called once."""
    wrote: list[tuple[nn.Conv2d, Tensor, int]] = []
    read: list[tuple[nn.BatchNorm2d, Tensor, int]] = []
    with ExitStack() as hooks:
        for module in classifier.network.modules():
            if _is_convolution(module):
                hook = module.register_forward_hook(lambda m, _, out: wrote.append((m, out, out._version)))
                hooks.callback(hook.remove)
            elif _is_norm(module):
                hook = module.register_forward_pre_hook(lambda m, given: read.append((m, *_version_of(given[0]))))
                hooks.callback(hook.remove)
        logits = classifier(example)
    writers = {(id(tensor), version): module for module, tensor, version in wrote}
    calls = Counter(module for module, *_ in (*wrote, *read))
    pairs = [(writers.get((id(tensor), version)), norm) for norm, tensor, version in read]
    return logits, [(conv, norm) for conv, norm in pairs if conv and calls[conv] == calls[norm] == 1]


def _version_of(tensor: Tensor) -> tuple[Tensor, int]:
    """A tensor, and how often it was written in place: an activation may lie between."""
    return tensor, tensor._version


def _is_convolution(module: nn.Module) -> bool:
    """Whether its weights are plain parameters in single precision that nothing else looks after."""
    own = isinstance(module, nn.Conv2d) and module._parameters.get("weight") is not None and not _hooked(module)
    return own and module.weight.dtype == torch.float32


def _is_norm(module: nn.Module) -> bool:
    own = isinstance(module, nn.BatchNorm2d) and module.running_mean is not None
    return own and not module.training and not _hooked(module)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d, undo: ExitStack) -> None:
    """Let the convolution do what the norm does, and the norm nothing of it."""
    weight, bias, mean, variance = convolution.weight, convolution.bias, norm.running_mean, norm.running_var
    assert mean is not None  # see _is_norm
    assert variance is not None
    undo.callback(_set_weights, convolution, weight, bias)
    fused = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, norm.weight, norm.bias)
    _set_weights(convolution, *fused)
    undo.callback(norm.__dict__.pop, "forward")
    norm.forward = _rest(norm)  # type: ignore[assignment,method-assign]


def _rest(norm: nn.BatchNorm2d) -> Callable[[Tensor], Tensor]:
    """What a norm does besides: timm's activates, too."""
    if isinstance(act := getattr(norm, "act", None), nn.Module):
        return lambda input: act(norm.drop(input))  # type: ignore[operator]
    return lambda input: input


def _set_weights(convolution: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
    convolution.weight, convolution.bias = weight, bias
