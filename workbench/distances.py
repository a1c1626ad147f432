"""Distances between two sets of features, in float64 and for any number of them: Frechet, kernel, neighbours.

Rows are images. Letters: n real and m generated images, d features, k neighbours.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from workbench.errors import UserError
from workbench.progress import progress

NEIGHBOURS = 5
SUBSETS, SUBSET_SIZE = 50, 1000
HALVES = 20
CHUNK = 512


@dataclass(frozen=True)
class Manifold:
    """How two sets of features overlap; `density` has no upper limit, the others are shares in [0, 1]."""

    precision: float
    recall: float
    density: float
    coverage: float


def frechet_distance(real: Float[Tensor, "n d"], generated: Float[Tensor, "m d"]) -> float:
    """Frechet distance of the Gaussians fitted to two sets of features, never below 0 (FID: arXiv 1706.08500, eq. 6).

    tr sqrt(S_1 S_2) is the sum of the singular values of A_1 A_2^T, where A^T A = S: exact also for fewer images than
    features, where the eigenvalues of S_1 S_2 lose half of the digits. Too few images make it too large.
    """
    mean_1, root_1 = _mean_and_root(real)
    mean_2, root_2 = _mean_and_root(generated)
    overlap = torch.linalg.svdvals(root_1 @ root_2.T).sum()
    distance = (mean_1 - mean_2).square().sum() + root_1.square().sum() + root_2.square().sum() - 2 * overlap
    return _finite(distance.clamp_min(0))


def _mean_and_root(features: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "r d"]]:
    """The mean, and a matrix A with A^T A = the covariance (unbiased; zero for a single image)."""
    features = _checked(features)
    mean = features.mean(0)
    root = torch.linalg.qr(features - mean, mode="r").R
    return mean, root / math.sqrt(max(1, len(features) - 1))


def frechet_error(real: Float[Tensor, "n d"], generated: Float[Tensor, "m d"], draws: torch.Generator) -> float | None:
    """Standard error of the Frechet distance, from 20 random halves of both sets; None below 4 images.

    This is the jackknife that leaves out half (Shao and Wu 1989, Annals of Statistics 17): unlike a bootstrap it has
    no image twice, which would shrink the covariances and raise the distance.
    """
    if min(len(real), len(generated)) < 4:
        return None
    distances = [
        frechet_distance(_subset(real, len(real) // 2, draws), _subset(generated, len(generated) // 2, draws))
        for _ in range(HALVES)
    ]
    return float(torch.tensor(distances, dtype=torch.float64).std())


def kernel_distance(
    real: Float[Tensor, "n d"], generated: Float[Tensor, "m d"], draws: torch.Generator
) -> tuple[float, float]:
    """Mean and standard deviation over 50 subsets of the unbiased squared MMD with the kernel (x.y / d + 1)^3.

    KID (Binkowski et al. 2018, arXiv 1801.01401), by torchmetrics' `poly_mmd`; its metric class draws the subsets from
    the global stream, here they come from `draws`. The subsets are halves, of at most 1,000 images, so that for up to
    2,000 images the standard deviation is the standard error (nearly twice that where the distributions are equal). The
    distance may be below 0. Raises `UserError` below 2 images.
    """
    from torchmetrics.image.kid import poly_mmd

    real, generated = _checked(real), _checked(generated)
    smaller = min(len(real), len(generated))
    if smaller < 2:
        raise UserError(f"The kernel distance of a set of {smaller} images is not defined; give at least 2.")
    size = min(SUBSET_SIZE, max(2, smaller // 2))
    distances = torch.stack(
        [poly_mmd(_subset(real, size, draws), _subset(generated, size, draws)) for _ in range(SUBSETS)]
    )
    return _finite(distances.mean()), _finite(distances.std())


def _subset(features: Float[Tensor, "n d"], size: int, draws: torch.Generator) -> Float[Tensor, "size d"]:
    return features[torch.randperm(len(features), generator=draws)[:size]]


def manifold(real: Float[Tensor, "n d"], generated: Float[Tensor, "m d"], neighbours: int = NEIGHBOURS) -> Manifold:
    """Precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991), density and coverage (Naeem et al. 2020,
    arXiv 2002.09797).

    A set's manifold is the union of balls around its images that reach to the k-th neighbour, the boundary included;
    k is at most the number of images - 1.
    """
    real, generated = _checked(real), _checked(generated)
    real_radii, generated_radii = (_radii(features, neighbours) for features in (real, generated))
    holding_real = torch.zeros(len(real), dtype=torch.bool)
    held: list[Bool[Tensor, " c"]] = []
    balls, covered = 0, torch.zeros(len(real), dtype=torch.bool)
    for part, radii in zip(generated.split(CHUNK), generated_radii.split(CHUNK), strict=True):
        distances = _distances(part, real)  # (c, n)
        in_real_balls = distances <= real_radii
        held.append(in_real_balls.any(1))
        balls += int(in_real_balls.sum())
        covered |= in_real_balls.any(0)
        holding_real |= (distances <= radii[:, None]).any(0)
    density = balls / (max(1, min(neighbours, len(real) - 1)) * len(generated))
    return Manifold(_share(torch.cat(held)), _share(holding_real), density, _share(covered))


def _radii(features: Float[Tensor, "n d"], neighbours: int) -> Float[Tensor, " n"]:
    rank = min(neighbours, len(features) - 1) + 1  # the nearest of all is the image itself
    return torch.cat([_distances(part, features).kthvalue(rank).values for part in features.split(CHUNK)])


def _distances(left: Float[Tensor, "a d"], right: Float[Tensor, "b d"]) -> Float[Tensor, "a b"]:
    """Without the shortcut by a matrix product, so that copies are exactly 0 apart."""
    return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")


def nearest(
    queries: Float[Tensor, "m d"] | UInt8[Tensor, "m d"], targets: Float[Tensor, "n d"] | UInt8[Tensor, "n d"]
) -> tuple[Float[Tensor, " m"], Int[Tensor, " m"]]:
    """Euclidean distance from each query to the nearest target, and which it is.

    The search uses a matrix product; the distance is then taken exactly, so that a copy is 0 away.
    """
    best = torch.full((len(queries),), torch.inf)
    which = torch.zeros(len(queries), dtype=torch.int64)
    centre = targets[:CHUNK].float().mean(0)  # small numbers keep the search precise
    points = queries.float() - centre
    short = len(queries) * targets.numel() < 1e11
    with progress(len(targets), "nearest neighbours", disable=short, unit="image") as bar:
        for start in range(0, len(targets), CHUNK):
            target = targets[start : start + CHUNK].float() - centre
            scores, indices = (target.square().sum(1) - 2 * points @ target.T).min(1)
            closer = scores < best
            best, which = torch.where(closer, scores, best), torch.where(closer, indices + start, which)
            bar.update(len(target))
    distances = [
        (queries[rows].double() - targets[which[rows]].double()).norm(dim=1).float()
        for rows in torch.arange(len(queries)).split(CHUNK)
    ]
    return torch.cat(distances), which


def _share(flags: Bool[Tensor, " n"]) -> float:
    return float(flags.double().mean())


def _checked(features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    if len(features) == 0:
        raise UserError("There are no images to measure; give at least 2 generated and 2 real ones.")
    if not features.isfinite().all():
        bad = int((~features.isfinite()).any(1).sum())
        raise UserError(
            f"{bad} of {len(features)} images have features that are not finite numbers: the feature network "
            "is broken; remove it from the cache, or choose another."
        )
    return features.double()


def _finite(value: Tensor) -> float:
    if not value.isfinite():
        raise UserError("The features are too large to measure a distance in float64; choose another network.")
    return float(value)
