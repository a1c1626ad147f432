"""ROAD: is the prediction the same when the most, or the least, relevant pixels are replaced by guesses from the rest?

Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", 2022, arXiv 2202.00449. The guess
("noisy linear imputation") leaves no trace of where pixels were removed, which a fill with one colour does.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from explain.maps import Maps
from explain.measures.erasing import removal_order
from explain.probability import logits_in_parts
from workbench import seeds
from workbench.pixel_classifier import PixelClassifier
from workbench.progress import progress

NOISE = 23  # stream of randomness
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
NEIGHBOURS = ((1 / 12, 1 / 6, 1 / 12), (1 / 6, 0.0, 1 / 6), (1 / 12, 1 / 6, 1 / 12))
TOLERANCE, MOST_ITERATIONS, CHECK_EVERY = 1e-4, 4000, 20


@dataclass(frozen=True)
class Road:
    """For each of n maps and each share of removed pixels: 1 where the most likely class stays what it was, else 0."""

    shares: tuple[float, ...]
    most_relevant_first: Float[Tensor, "n shares"]
    least_relevant_first: Float[Tensor, "n shares"]

    @property
    def score(self) -> Float[Tensor, " n"]:
        """Mean over the shares of half the difference, in [-0.5, 0.5]: higher is better."""
        return (self.least_relevant_first - self.most_relevant_first).mean(1) / 2


@torch.no_grad()
def road(
    classifier: PixelClassifier,
    images: Float[Tensor, "b c h w"],
    maps: Maps,
    shares: tuple[float, ...] = SHARES,
    *,
    noise: float = 0.01,
    batch_size: int = 64,
    seed: int = 0,
) -> Road:
    """Two forward passes for each map and share; `noise` is the standard deviation of what is added to each guess."""
    images = maps.repeated(images)
    orders = (removal_order(maps.values, seed), removal_order(-maps.values, seed))
    unchanged = images.new_zeros(2, len(images), len(shares))
    with progress(unchanged.numel(), "ROAD", unit="image") as bar:
        for rows in torch.arange(len(images)).split(batch_size):
            part = images[rows]
            before = logits_in_parts(classifier, part).argmax(1)
            for way, order in enumerate(orders):
                for number, share in enumerate(shares):
                    removed = (order[rows] < round(share * order[0].numel()))[:, None]
                    shown = imputed(part, removed)
                    shown = torch.where(removed, shown + noise * _normal(shown, rows, number, seed), shown)
                    unchanged[way, rows, number] = (logits_in_parts(classifier, shown).argmax(1) == before).float()
                    bar.update(len(rows))
    return Road(shares, unchanged[0], unchanged[1])


def _normal(like: Float[Tensor, "n c h w"], rows: Tensor, number: int, seed: int) -> Float[Tensor, "n c h w"]:
    draws = [torch.randn(like[0].shape, generator=seeds.generator(seed, NOISE, row, number)) for row in rows.tolist()]
    return torch.stack(draws).to(like)


def imputed(
    images: Float[Tensor, "n c h w"], removed: Bool[Tensor, "n 1 h w"], tolerance: float = TOLERANCE
) -> Float[Tensor, "n c h w"]:
    """Images whose removed pixels are each the weighted mean of their eight neighbours, removed or not.

    The linear system of each image and channel is solved by conjugate gradients, all at once, until every residual is
    below `tolerance` times its first; the rows of the system are scaled alike, which makes it symmetric. At the border
    the weights of missing neighbours are missing from the sum. Each image needs a pixel that is not removed.
    """
    unknown = removed.to(images.dtype)
    total = _neighbours(torch.ones_like(images))

    def system(x: Tensor) -> Tensor:
        return unknown * (total * x - _neighbours(x))

    start = (images * (1 - unknown)).sum((2, 3), keepdim=True) / (1 - unknown).sum((2, 3), keepdim=True)
    x = unknown * start
    residual = unknown * _neighbours(images * (1 - unknown)) - system(x)
    direction, squared = residual, _dot(residual, residual)
    enough = tolerance**2 * squared
    for iteration in range(MOST_ITERATIONS):
        if iteration % CHECK_EVERY == 0 and bool((squared <= enough).all()):  # looking makes a GPU wait
            break
        along = system(direction)
        step = squared / _dot(direction, along).clamp(min=1e-30)
        x, residual = x + step * direction, residual - step * along
        before, squared = squared, _dot(residual, residual)
        direction = residual + squared / before.clamp(min=1e-30) * direction
    return images * (1 - unknown) + x


def _neighbours(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    kernel = x.new_tensor(NEIGHBOURS).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1])


def _dot(x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c 1 1"]:
    return (x * y).sum((2, 3), keepdim=True)
