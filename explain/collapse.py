"""Do a transformer's patches become alike with depth? Where they do, no map of its last layers can tell them apart.

Letters: b images, n patches, c channels. Measures of Gong et al. 2021 (arXiv 2104.12753), without prefix tokens.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from explain.anatomy import dissect
from explain.layers import Size, read
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier

COLLAPSED = 0.9  # mean cosine of the last block's patches from which they are said to be alike


@dataclass(frozen=True)
class Collapse:
    """Mean similarity of the patches of an image after each block, and the contrast of the last with the first.

    Low similarity is not accuracy, and patches of a background are rightly alike. `contrastive` is ln 2 (0.693) where
    all patches are one, less where each is still most like itself; None where first and last block differ in grid or
    channels.
    """

    blocks: tuple[str, ...]
    similarity: tuple[float, ...]
    contrastive: float | None

    @property
    def collapsed(self) -> bool:
        """Whether the last block's patches are nearly one."""
        return self.similarity[-1] > COLLAPSED


@torch.no_grad()
def token_collapse(
    classifier: PixelClassifier, images: Float[Tensor, "b c h w"], image_size: Size | None = None
) -> Collapse:
    """Measure the blocks of a transformer, or the stages of any network that has them, on images in [0, 1].

    Raises UserError for a classifier without repeated blocks.
    """
    blocks = dissect(classifier, image_size or (images.shape[-2], images.shape[-1])).blocks()
    if not blocks:
        raise UserError("this classifier has no repeated blocks, so there is no depth to compare; give a transformer")
    patches = [f.flatten(2).mT.float() for f in read(classifier, blocks, images.to(classifier.mean.device)).features]
    first, last = patches[0], patches[-1]
    return Collapse(
        tuple(block.name for block in blocks),
        tuple(patch_similarity(tokens).mean().item() for tokens in patches),
        patch_contrast(first, last).mean().item() if first.shape == last.shape else None,
    )


def patch_similarity(tokens: Float[Tensor, "b n c"]) -> Float[Tensor, " b"]:
    """Mean cosine over all pairs of different patches, in time linear in n: (|sum u|^2 - n) / (n (n - 1))."""
    units, n = F.normalize(tokens, dim=-1), tokens.shape[1]
    return (units.sum(1).square().sum(-1) - n) / (n * (n - 1))


def patch_contrast(first: Float[Tensor, "b n c"], last: Float[Tensor, "b n c"]) -> Float[Tensor, " b"]:
    """Mean of -log(e^own / (e^own + e^others)): cosines of a first patch with its own last one, and with the others."""
    start, end = F.normalize(first, dim=-1), F.normalize(last, dim=-1)
    own = (start * end).sum(-1)
    others = ((start * end.sum(1, keepdim=True)).sum(-1) - own) / (first.shape[1] - 1)
    return F.softplus(others - own).mean(-1)
