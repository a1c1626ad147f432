"""Distribution matching (DM): images whose features have the means of the real ones', in many random networks.

Zhao and Bilen, "Dataset Condensation with Distribution Matching", arXiv 2110.04181, algorithm 1.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from distill import augment
from distill.baselines.pixels import Pools, Step
from distill.flat import FlatNetwork


def distribution_step(
    pools: Pools, labels: Int64[Tensor, " n"], network: FlatNetwork, augmentation: str, batch_real: int = 256
) -> Step:
    """One iteration: fresh weights, one augmentation for all images, and the distance between mean features."""
    classes = range(pools.num_classes)
    members = [(labels == label).nonzero()[:, 0] for label in classes]

    def step(images: nn.Parameter, optimizer: torch.optim.SGD, generator: torch.Generator) -> float:
        theta = network.initial(generator).to(images.device)
        real = [pools.draw(label, batch_real, generator) for label in classes]
        drawn = augment.draw(augmentation, 1, pools.size, generator)
        with torch.no_grad():
            wanted = _means(network, theta, augment.apply(torch.cat(real), drawn), list(map(len, real)))
        made = _means(network, theta, augment.apply(images[torch.cat(members)], drawn), list(map(len, members)))
        loss = (made - wanted).square().sum()
        (images.grad,) = torch.autograd.grad(loss, [images])
        optimizer.step()
        return loss.item()

    return step


def _means(
    network: FlatNetwork, theta: Float[Tensor, " p"], images: Float[Tensor, "b c h w"], sizes: Sequence[int]
) -> Float[Tensor, "k d"]:
    """The mean feature of each run of images."""
    return torch.stack([part.mean(0) for part in network.features(theta, images).split(list(sizes))])
