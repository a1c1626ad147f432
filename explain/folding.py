"""A classifier made ready for many forward passes: the same logits up to rounding, in less time.

    with folded(classifier, images[:1]):
        ...

In evaluation a batch norm scales and shifts each channel, which the weights of the convolution before it can do as
well. Which norm follows which convolution is seen in a forward pass. On a CPU the weights of convolutions are laid out
once as oneDNN wants them, not in every pass, and norms of each channel by itself are computed by what is fast there.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from workbench.pixel_classifier import PixelClassifier

TOLERANCE = 1e-4  # of the largest logit
Activation = tuple[str, list[float]]  # in oneDNN's words
ACTIVATIONS: dict[type, Activation] = {nn.ReLU: ("relu", []), nn.ReLU6: ("hardtanh", [0.0, 6.0])}  # of timm's norms
MANY_PLACES = 32 * 32  # from which torch's group norm goes another way


@contextmanager
def folded(classifier: PixelClassifier, example: Float[Tensor, "b c h w"]) -> Iterator[None]:
    """Make it ready inside the block, for passes without gradients; at its end the classifier is what it was.

    Nothing is changed where that changes the logits of `example` by more than rounding does, as where something else
    reads what a convolution wrote. That takes two passes, which `counted` leaves out. Other threads must not use the
    classifier meanwhile, but for those of the block.
    """
    with ExitStack() as undo:
        convolutions = sum(map(_is_convolution, classifier.network.modules()))
        if convolutions > 1 and not classifier.network.training:  # a transformer has one, for its patches
            _make_ready(classifier, example, undo)
        yield


@torch.no_grad()
def _make_ready(classifier: PixelClassifier, example: Float[Tensor, "b c h w"], undo: ExitStack) -> None:
    before, pairs = _watch(classifier, example)
    for convolution, norm in pairs:
        _fold(convolution, norm, undo)
    if example.device.type == "cpu":
        _suit_cpu(classifier.network, dict(pairs), undo)
    if (classifier.forward(example) - before).abs().max() > TOLERANCE * before.abs().max():
        undo.close()


def _replace_forward(module: nn.Module, forward: Callable[[Tensor], Tensor], undo: ExitStack) -> None:
    undo.callback(module.__dict__.pop, "forward", None)
    module.forward = forward


# ---- batch norms -----------------------------------------------------------------------------------------------------


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
        logits = classifier.forward(example)
    writers = {(id(tensor), version): module for module, tensor, version in wrote}
    calls = Counter(module for module, *_ in (*wrote, *read))
    pairs = [(writers.get((id(tensor), version)), norm) for norm, tensor, version in read]
    return logits, [(conv, norm) for conv, norm in pairs if conv and calls[conv] == calls[norm] == 1]


def _version_of(tensor: Tensor) -> tuple[Tensor, int]:
    """A tensor, and how often it was written in place: an activation may lie between."""
    return tensor, tensor._version


def _is_convolution(module: nn.Module) -> bool:
    """Whether its weights are plain parameters in single precision that nothing else looks after."""
    own = isinstance(module, nn.Conv2d) and module._parameters.get("weight") is not None and not _taken(module)
    return own and module.weight.dtype == torch.float32


def _is_norm(module: nn.Module) -> bool:
    """Whether it scales and shifts each channel."""
    own = isinstance(module, nn.BatchNorm2d) and module.running_mean is not None
    return own and not module.training and not _taken(module)


def _taken(module: nn.Module) -> bool:
    """Whether somebody listens to it, or has given it another forward, as we do."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d, undo: ExitStack) -> None:
    """Let the convolution do what the norm does, and the norm nothing of it."""
    weight, bias, mean, variance = convolution.weight, convolution.bias, norm.running_mean, norm.running_var
    assert mean is not None  # see _is_norm
    assert variance is not None
    undo.callback(_set_weights, convolution, weight, bias)
    fused = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, norm.weight, norm.bias)
    _set_weights(convolution, *fused)
    _replace_forward(norm, _rest(norm), undo)


def _rest(norm: nn.BatchNorm2d) -> Callable[[Tensor], Tensor]:
    """What a norm does besides: timm's activates, too."""
    if isinstance(act := getattr(norm, "act", None), nn.Module):
        return lambda input: act(norm.drop(input))  # type: ignore[operator]
    return lambda input: input


def _set_weights(convolution: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
    convolution.weight, convolution.bias = weight, bias


# ---- what a CPU does fast --------------------------------------------------------------------------------------------


def _suit_cpu(network: nn.Module, norms: Mapping[nn.Conv2d, nn.BatchNorm2d], undo: ExitStack) -> None:
    """Replace what runs faster in another way; `norms` are those that are folded, by their convolutions."""
    for module in network.modules():
        if _is_instance_norm(module):
            _replace_forward(module, _instance_norm(module), undo)
        elif _is_convolution(module):
            norm = norms.get(module)  # type: ignore[call-overload]
            activation = ACTIVATIONS.get(type(getattr(norm, "act", None)))
            if (packed := _packed(module, activation or ("none", []))) is not None:
                _replace_forward(module, packed, undo)
                if norm is not None and activation is not None:
                    _replace_forward(norm, norm.drop.__call__, undo)


def _packed(convolution: nn.Module, activation: Activation) -> Callable[[Tensor], Tensor] | None:
    """The convolution and its activation with weights laid out already; None where that cannot be done."""
    if (
        type(convolution) is not nn.Conv2d
        or convolution.padding_mode != "zeros"
        or isinstance(convolution.padding, str)
    ):
        return None
    how = (list(convolution.padding), list(convolution.stride), list(convolution.dilation), convolution.groups)
    try:  # as torch.compile does it; torch has no public way
        convolve = torch.ops.mkldnn._convolution_pointwise
        weight = torch._C._nn.mkldnn_reorder_conv2d_weight(convolution.weight.to_mkldnn(), *how)
    except (AttributeError, RuntimeError):
        return None
    bias = convolution.bias
    return lambda input: convolve(input, weight, bias, *how, *activation, "")


def _is_instance_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels and not _taken(module)


def _instance_norm(norm: Any) -> Callable[[Tensor], Tensor]:
    """torch's own takes ten times as long where colours lie beside each other and places are few."""

    def normalise(input: Tensor) -> Tensor:
        if input.ndim != 4 or input[0, 0].numel() >= MANY_PLACES:
            return F.group_norm(input, norm.num_groups, norm.weight, norm.bias, norm.eps)
        centred = input - input.mean((2, 3), keepdim=True)
        scale = (centred.square().mean((2, 3), keepdim=True) + norm.eps).rsqrt()
        if not norm.affine:
            return centred * scale
        return torch.addcmul(norm.bias[:, None, None], centred, scale * norm.weight[:, None, None])

    return normalise
