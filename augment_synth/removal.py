"""Take an object away: fill its place from what is around it, or with any inpainter of the workbench or diffusers."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from augment_synth.components import Component, ComponentKind

PULL_PUSH = "pull-push"
GROWTH = 0.02  # of the shorter side: how far beyond its mask an object is taken away


@runtime_checkable
class Remover(Protocol):
    """Fills holes; known pixels stay as they are."""

    component: Component

    def remove(
        self, images: UInt8[Tensor, "n 3 h w"], holes: Bool[Tensor, "n h w"], seeds: Sequence[int]
    ) -> UInt8[Tensor, "n 3 h w"]: ...


class PullPush:
    """Smooth filling without weights, whole batches at a time; texture it has none.

    Gortler et al., "The Lumigraph", 1996: averages of the known pixels at ever coarser scales, from the coarsest back.
    """

    component = Component("remove", PULL_PUSH, "offline_standin", "smooth filling, no weights")

    def remove(
        self, images: UInt8[Tensor, "n 3 h w"], holes: Bool[Tensor, "n h w"], seeds: Sequence[int]
    ) -> UInt8[Tensor, "n 3 h w"]:
        """The same for every seed."""
        known = (~holes[:, None]).float()
        return pull_push(images.float(), known).round().clamp(0, 255).byte()


def pull_push(pixels: Float[Tensor, "n c h w"], known: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n c h w"]:
    """`pixels` where `known` is more than 0, elsewhere values interpolated from the next coarser scale."""
    if min(pixels.shape[-2:]) == 1 or bool((known > 0).all()):
        return pixels
    weights = F.avg_pool2d(known, 2, ceil_mode=True)
    coarse = F.avg_pool2d(pixels * known, 2, ceil_mode=True) / weights.clamp(min=1e-6)
    coarse = pull_push(coarse, (weights > 0).float())
    fine = F.interpolate(coarse, pixels.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(known > 0, pixels, fine)


class InpainterRemover:
    """Any inpainter that `workbench inpaint` opens, one picture at a time."""

    def __init__(self, spec: str, device: str) -> None:
        from gen.inpaint.baselines import open_inpainter

        self.inpaint = open_inpainter(spec, device)
        kind: ComponentKind = "real" if spec.startswith("diffusers:") else "offline_standin"
        self.component = Component("remove", spec, kind, type(self.inpaint).__name__)

    def remove(
        self, images: UInt8[Tensor, "n 3 h w"], holes: Bool[Tensor, "n h w"], seeds: Sequence[int]
    ) -> UInt8[Tensor, "n 3 h w"]:
        """One variant each, from its seed."""
        return torch.stack([self._one(*each) for each in zip(images, holes, seeds, strict=True)])

    def _one(self, image: UInt8[Tensor, "3 h w"], hole: Bool[Tensor, "h w"], seed: int) -> UInt8[Tensor, "3 h w"]:
        mask = (hole.byte() * 255).numpy()
        made = self.inpaint(image.permute(1, 2, 0).numpy(), mask, num_variants=1, seed=seed).images[0]
        return torch.from_numpy(np.array(made.convert("RGB"))).permute(2, 0, 1)


def open_remover(spec: str, device: str = "cpu") -> Remover:
    """pull-push, telea, the run or folder of an inpainter of ours, or diffusers:NAME. Raises UserError for others."""
    return PullPush() if spec == PULL_PUSH else InpainterRemover(spec, device)


def grown(masks: Bool[Tensor, "n h w"], share: float = GROWTH) -> Bool[Tensor, "n h w"]:
    """Masks enlarged by a share of the shorter side, one pixel or more."""
    reach = max(1, round(share * min(masks.shape[-2:])))
    return F.max_pool2d(masks[:, None].float(), 2 * reach + 1, 1, reach)[:, 0] > 0


def shrunk(masks: Bool[Tensor, "n h w"]) -> Bool[Tensor, "n h w"]:
    """Masks without their outermost pixels, which show some of what is around them too, but for the picture's edge."""
    return ~(F.max_pool2d((~masks)[:, None].float(), 3, 1, 1)[:, 0] > 0)


def shifted_elsewhere(
    holes: Bool[Tensor, "n h w"], kept: Bool[Tensor, "n h w"], generators: Sequence[torch.Generator], tries: int = 32
) -> Bool[Tensor, "n h w"]:
    """The placebo's holes: each hole moved (around the edges) to where it overlaps what must stay the least."""
    return torch.stack([_elsewhere(*each, tries) for each in zip(holes, kept, generators, strict=True)])


def _elsewhere(
    hole: Bool[Tensor, "h w"], kept: Bool[Tensor, "h w"], generator: torch.Generator, tries: int
) -> Bool[Tensor, "h w"]:
    sides = torch.tensor(hole.shape)
    moves = (torch.rand(tries, 2, generator=generator) * sides).long().tolist()
    moved = [hole.roll((down, right), (0, 1)) for down, right in moves]
    return min(moved, key=lambda place: int((place & (kept | hole)).sum())) & ~kept
