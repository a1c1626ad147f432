"""Attention rollout: from which patches the last block's tokens have their content, if attention were all.

Abnar and Zuidema, "Quantifying Attention Flow in Transformers", 2020, arXiv 2005.00928. It knows nothing of the target:
the maps of all targets of an image are one. Letters: b images, n tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from explain.anatomy import choose_layers, dissect
from explain.maps import Maps
from explain.passes import counted
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier

Attention = Float[Tensor, "b heads n n"]


@torch.no_grad()
def rollout(
    classifier: PixelClassifier,
    images: Float[Tensor, "b _ height width"],
    targets: Int64[Tensor, "b t"],
    *,
    batch_size: int = 32,
) -> Maps:
    """One forward pass for each image. Raises `UserError` for a network without global attention over its patches."""
    size = classifier.preprocessing.size or (images.shape[-2], images.shape[-1])
    layer = choose_layers(dissect(classifier, size))[-1]
    if layer.layout != "tokens":
        raise _no_attention(classifier)
    parts = []
    with counted(classifier) as cost:
        for part in images.split(batch_size):
            flow = _flow(_attention_of_blocks(classifier, part))
            seen = flow[:, 0] if layer.prefix_tokens else flow.mean(1)  # by the class token, or where tokens are pooled
            parts.append(layer.to_map(seen[..., None], size)[:, 0])
    raw = torch.cat(parts).float().repeat_interleave(targets.shape[1], 0)
    values = F.interpolate(raw[:, None], images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return cost.maps(values, targets, raw)


def _flow(attention: Sequence[Attention]) -> Float[Tensor, "b n n"]:
    """The product of all blocks, from the last to the first: half attention, averaged over heads, half skip."""
    identity = torch.eye(attention[0].shape[-1], device=attention[0].device)
    blocks = [0.5 * heads.float().mean(1) + 0.5 * identity for heads in attention]
    flow = blocks[0]
    for block in blocks[1:]:
        flow = block @ flow
    return flow


# ---- hearing the attention that three libraries compute --------------------------------------------------------------


def _attention_of_blocks(classifier: PixelClassifier, images: Float[Tensor, "b _ height width"]) -> list[Attention]:
    found: list[Attention] = []
    with ExitStack() as stack:
        stack.enter_context(_eager(classifier.network))
        for module in classifier.network.modules():
            stack.enter_context(_heard(module, found.append))
        classifier(images)
    count = found[0].shape[-1] if found else 0
    if not found or any(heads.shape[0] != len(images) or heads.shape[2:] != (count, count) for heads in found):
        raise _no_attention(classifier)
    return found


@contextmanager
def _eager(network: Any) -> Iterator[None]:
    """A transformers model computes its attention openly, not in one fused step."""
    if not hasattr(network, "set_attn_implementation"):
        yield
        return
    before = network.config._attn_implementation
    network.set_attn_implementation("eager")
    try:
        yield
    finally:
        network.set_attn_implementation(before)


@contextmanager
def _heard(module: Any, hear: Callable[[Attention], None]) -> Iterator[None]:
    if isinstance(module, nn.MultiheadAttention):
        with _heard_torch(module, hear):
            yield
    elif hasattr(module, "fused_attn") and hasattr(module, "attn_drop"):
        with _heard_timm(module, hear):
            yield
    else:
        with _heard_transformers(module, hear):
            yield


@contextmanager
def _heard_torch(module: nn.MultiheadAttention, hear: Callable[[Attention], None]) -> Iterator[None]:
    def ask(module: nn.Module, inputs: Any, options: dict[str, Any]) -> Any:
        return inputs, {**options, "need_weights": True, "average_attn_weights": False}

    asked = module.register_forward_pre_hook(ask, with_kwargs=True)
    heard = module.register_forward_hook(lambda module, inputs, output: hear(output[1]))
    try:
        yield
    finally:
        asked.remove()
        heard.remove()


@contextmanager
def _heard_timm(module: Any, hear: Callable[[Attention], None]) -> Iterator[None]:
    before, module.fused_attn = module.fused_attn, False
    hook = module.attn_drop.register_forward_pre_hook(lambda module, inputs: hear(inputs[0]))
    try:
        yield
    finally:
        module.fused_attn = before
        hook.remove()


@contextmanager
def _heard_transformers(module: nn.Module, hear: Callable[[Attention], None]) -> Iterator[None]:
    def maybe(module: nn.Module, inputs: Any, output: Any) -> None:
        second = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if isinstance(second, Tensor) and second.ndim == 4 and second.shape[-1] == second.shape[-2]:
            hear(second)

    hook = module.register_forward_hook(maybe)
    try:
        yield
    finally:
        hook.remove()


def _no_attention(classifier: PixelClassifier) -> UserError:
    return UserError(
        f"a {type(classifier.network).__name__} has no attention from every patch to every other, so there is nothing "
        "to roll out: choose another method, such as gradcam"
    )
