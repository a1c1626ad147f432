"""What the texture generator is trained by: hinge losses against a discriminator, and a frozen VQ-VAE as a judge."""

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from gen.inpaint.attention import standardised
from gen.inpaint.quantiser import squared_distances

SHARPNESS = 10.0  # of the feature loss's softmax

Scores = Float[Tensor, "b scores"]


def completed(
    painted: Float[Tensor, "*b c h w"], images: Float[Tensor, "*#b c h w"], mask: Float[Tensor, "*#b 1 h w"]
) -> Float[Tensor, "*b c h w"]:
    """The painted pixels in the hole, those of the images elsewhere."""
    return painted * mask + images * (1 - mask)


def feature_loss(
    features: Float[Tensor, "b d h w"], codebook: Float[Tensor, "k d"], ids: Int64[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """How badly the features point to the codes `ids` of the true image: a cross-entropy, whose floor is not 0."""
    distances = squared_distances(features, codebook)  # (B, H, W, K)
    logits = -SHARPNESS * standardised(distances).tanh()
    return F.cross_entropy(logits.flatten(0, 2), ids.flatten())


def adversarial_loss(fake: Scores, weight: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """Of the generator: low where its images get high scores; each image counts by its weight."""
    return -(fake.mean(1) * weight).mean()


def discriminator_loss(real: Scores, fake: Scores) -> Float[Tensor, ""]:
    """Hinge: low where true images get 1 or more, and painted ones -1 or less."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
