"""Choosing real images: the simplest small sets, and where distillation starts from.

Each method looks at the features of one class, a row an image, and returns the positions of the rows it chose. Which
features is for the caller to say: those before the head of a trained network are usual. All is computed on the CPU.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from workbench.errors import UserError

Rows = Float[Tensor, "n d"]
Chosen = Int64[Tensor, " _"]

LLOYD_STEPS = 100  # at most; k-means has come to rest long before


def random_rows(rows: Rows, count: int, generator: torch.Generator) -> Chosen:
    """Any rows, none twice."""
    return torch.randperm(len(rows), generator=generator)[:count]


def herding(rows: Rows, count: int, generator: torch.Generator) -> Chosen:
    """Rows whose running mean follows the mean of all: each brings it as near as one can (arXiv 1206.6380)."""
    centred = rows - rows.mean(0)
    total, chosen = torch.zeros_like(centred[0]), _none()
    for _ in range(count):
        nearest = _first(torch.linalg.vector_norm(total + centred, dim=1), chosen)
        chosen, total = _with(chosen, nearest), total + centred[nearest]
    return chosen


def k_center(rows: Rows, count: int, generator: torch.Generator) -> Chosen:
    """The row nearest the mean, then each time the one farthest from those taken (arXiv 1708.00489)."""
    chosen = _first(_distances(rows, rows.mean(0, keepdim=True))[:, 0], _none()).view(1)
    reach = _distances(rows, rows[chosen])[:, 0]
    while len(chosen) < count:
        farthest = _first(-reach, chosen)
        chosen, reach = _with(chosen, farthest), reach.minimum(_distances(rows, rows[farthest][None])[:, 0])
    return chosen


def k_means(rows: Rows, count: int, generator: torch.Generator) -> Chosen:
    """The row nearest to each of `count` centres of k-means, largest cluster first; none twice."""
    centres = _lloyd(rows, rows[_seeding(rows, count, generator)])
    distances, chosen = _distances(rows, centres), _none()
    sizes = torch.bincount(distances.argmin(1), minlength=count)
    for cluster in sizes.argsort(descending=True, stable=True):
        chosen = _with(chosen, _first(distances[:, cluster], chosen))
    return chosen


METHODS: dict[str, Callable[[Rows, int, torch.Generator], Chosen]] = {
    "random": random_rows,
    "herding": herding,
    "k-center": k_center,
    "k-means": k_means,
}


def select(
    method: str,
    rows: Rows,
    labels: Int64[Tensor, " n"],
    label_names: Sequence[str],
    images_per_class: int,
    generator: torch.Generator,
) -> Int64[Tensor, " chosen"]:
    """Positions of `images_per_class` rows of each class, class by class.

    Raises UserError for an unknown method, and for a class that has fewer rows.
    """
    if method not in METHODS:
        raise UserError(f"there is no way {method!r} to choose images; choose one of {', '.join(METHODS)}")
    members = [(labels == label).nonzero()[:, 0] for label in range(len(label_names))]
    for name, own in zip(label_names, members, strict=True):
        if len(own) < images_per_class:
            raise UserError(
                f"the class {name} has {len(own)} images, fewer than --images-per-class {images_per_class}; "
                "ask for fewer, add images, or leave the class out"
            )
    return torch.cat([own[METHODS[method](rows[own], images_per_class, generator)] for own in members])


# ---- pieces --------------------------------------------------------------------------------------------------------


def _none() -> Chosen:
    return torch.empty(0, dtype=torch.int64)


def _with(chosen: Chosen, row: Tensor) -> Chosen:
    return torch.cat([chosen, row.view(1)])


def _first(cost: Float[Tensor, " n"], taken: Chosen) -> Int64[Tensor, ""]:
    """The cheapest row that is not taken yet."""
    return cost.index_fill(0, taken, torch.inf).argmin()


def _distances(rows: Rows, centres: Float[Tensor, "k d"]) -> Float[Tensor, "n k"]:
    return torch.cdist(rows, centres)


def _seeding(rows: Rows, count: int, generator: torch.Generator) -> Chosen:
    """k-means++: each next centre is drawn by its squared distance from those before."""
    chosen = torch.randint(len(rows), (1,), generator=generator)
    reach = _distances(rows, rows[chosen])[:, 0].square()
    while len(chosen) < count:
        weights = reach.double() + 1e-30  # equal rows may be all that is left
        weights[chosen] = 0
        chosen = torch.cat([chosen, torch.multinomial(weights, 1, generator=generator)])
        reach = reach.minimum(_distances(rows, rows[chosen[-1:]])[:, 0].square())
    return chosen


def _lloyd(rows: Rows, centres: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """Centres at rest; an emptied cluster keeps its centre."""
    for _ in range(LLOYD_STEPS):
        nearest = _distances(rows, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        sizes = torch.bincount(nearest, minlength=len(centres))[:, None]
        moved = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres
