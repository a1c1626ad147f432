"""T-TAME's attention module: from feature maps of a frozen classifier to a map of evidence for each class.

Ntrougkas, Gkalelis, Mezaris, IEEE Access 2024, arXiv 2403.04523. Letters: b images, k classes asked for, c channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

Features = Sequence[Float[Tensor, "b _ _ _"]]


class Branch(nn.Module):
    """What one layer says: G = ReLU(BN(Conv1x1(F)) + F)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return F.relu(self.norm(self.convolution(features)) + features)


class AttentionModule(nn.Module):
    """A branch for each layer, enlarged to the first one's grid, concatenated, and fused by a 1x1 convolution.

    Written out, that blows every channel up to the large grid, and computes maps of all classes. Two identities spare
    both, exactly: enlarging is linear in space and fusing in channels, so each branch is fused on its own grid with its
    part of the weights; and a class has a row of the weights, so only the rows asked for are read.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, max_map_size: int = 56) -> None:
        super().__init__()
        self.channels, self.num_classes, self.max_map_size = list(channels), num_classes, max_map_size
        self.branches = nn.ModuleList([Branch(count) for count in channels])
        self.fuser = nn.Linear(sum(channels), num_classes)  # on every place of the grid

    @property
    def trained_batches(self) -> int:
        """How many batches its norms have learned from; none at all: its maps would mean nothing."""
        counts = [norm.num_batches_tracked for norm in self.modules() if isinstance(norm, nn.BatchNorm2d)]
        return min(int(count) for count in counts if count is not None)

    def forward(
        self, features: Features, classes: Int64[Tensor, " k"] | Int64[Tensor, "b k"]
    ) -> Float[Tensor, "b k h w"]:
        """Maps before the sigmoid, of these classes: the same for all images, or each image's own.

        `features` go from shallow to deep; the maps have the first one's grid, or `max_map_size` where that is less.
        """
        weight, bias = self.fuser.weight[classes], self.fuser.bias[classes]
        parts = weight.split(self.channels, -1)
        size = tuple(min(side, self.max_map_size) for side in features[0].shape[-2:])
        maps = bias[..., None, None].float()
        for branch, part, feature in zip(self.branches, parts, features, strict=True):
            maps = maps + _enlarged(_fused(part, branch(feature)), size)
        return maps


def _fused(weight: Float[Tensor, "*b k c"], features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
    return (weight @ features.flatten(2)).unflatten(2, features.shape[-2:])


def _enlarged(maps: Float[Tensor, "b k _ _"], size: Sequence[int]) -> Float[Tensor, "b k h w"]:
    if tuple(maps.shape[-2:]) == size:
        return maps.float()
    return F.interpolate(maps.float(), tuple(size), mode="bilinear", align_corners=False)


def build_module(channels: Sequence[int], num_classes: int, max_map_size: int, seed: int) -> AttentionModule:
    """A fresh module, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AttentionModule(channels, num_classes, max_map_size)
