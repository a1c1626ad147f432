"""How close generated images are to real ones, seen through a named feature network.

Features are extracted once for all measures, and every figure stands beside its floor: what real images reach. Figures
depend on the number of images and on the network: compare them with their floor, and with figures of the same n, size
and network only.
"""

import math
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.datasets import LabelledImages
from workbench.distances import NEIGHBOURS, frechet_distance, frechet_error, kernel_distance, manifold
from workbench.errors import UserError
from workbench.feature_network import FeatureNetwork
from workbench.memorisation import Memorisation, SeenImages, memorisation
from workbench.seeds import generator

MOST_IMAGES = 10_000  # of each set, drawn at random from larger ones, as is usual for precision and recall
MOST_HELD_OUT = 2_000  # enough for their nearest 1 %; looking for neighbours takes the longest of all
FREQUENT = 32  # images of one size, to be measured by themselves
GENERATED, REFERENCE, HELD_OUT, FLOOR, FIGURES = range(5)  # what a random stream is for


@dataclass(frozen=True)
class Figures:
    """What `n` images measure against real ones: of distances smaller is closer, of the rest larger.

    The errors are standard errors; the kernel distance's is the standard deviation over subsets of at most 1,000.
    `class_agreement` is the share of images in which the network sees the class that was asked for.
    """

    n: int
    frechet_distance: float
    frechet_error: float | None
    kernel_distance: float
    kernel_error: float
    precision: float
    recall: float
    density: float
    coverage: float
    class_agreement: float | None


@dataclass(frozen=True)
class Fidelity:
    """All figures of one set of generated images.

    `size` is their (height, width), None where it varies. `floor` holds the same measures for real images in place of
    the generated ones; its `class_agreement` is the network's accuracy on real images that it was not trained on.
    """

    generated: str
    reference: str
    n_reference: int
    size: tuple[int, int] | None
    network: str
    figures: Figures
    floor: Figures | None
    memorisation: Memorisation | None
    warnings: tuple[str, ...]

    @property
    def caption(self) -> str:
        """What was measured: sets, numbers of images, size, network."""
        size = "several sizes" if self.size is None else f"{self.size[0]}x{self.size[1]} px"
        floor = "" if self.floor is None else f" The column of real images was measured with {self.floor.n}."
        return (
            f"{self.figures.n} images of {self.generated} ({size}) against {self.n_reference} of {self.reference}, "
            f"seen by {self.network}.{floor}"
        )

    def rows(self) -> list[dict[str, str]]:
        """A table: each measure, its value for the generated images and for real ones, and what is best."""
        return _figure_rows(self.figures, self.floor) + _memorisation_rows(self.memorisation)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON: no value is infinite or not a number."""
        return asdict(self)


def measure(
    generated: LabelledImages,
    reference: LabelledImages,
    training: LabelledImages | None,
    network: FeatureNetwork,
    seed: int = 0,
) -> Fidelity:
    """All measures of `generated` against the real images of `reference`.

    `training` is what the generator was trained on. Where that is not `reference` itself, the floor is what as many
    training images measure in place of the generated ones, and memorisation is checked; else the floor compares the
    halves of `reference`. Images of any size are resized to what the network sees; more than 10,000 in a set are drawn
    from at random. Raises `UserError` for a set of fewer than 2 images.
    """
    for images in (generated, reference):
        if len(images) < 2:
            raise UserError(f"{images.name} has {len(images)} image(s) to measure; give at least 2.")
    drawn = _draw(len(generated), MOST_IMAGES, generator(seed, GENERATED))
    asked = _see(generated.select(drawn), network)
    real = _see(reference.select(_draw(len(reference), MOST_IMAGES, generator(seed, REFERENCE))), network)
    known = None if not training or _same_images(training, reference) else _see(training, network)
    figures = _figures(asked, real, _class_agreement(asked, network), seed)
    held_out = real.select(_draw(len(real.images), MOST_HELD_OUT, generator(seed, HELD_OUT)))
    check = None if known is None else memorisation(asked, held_out, known).with_generated_indices(drawn)
    return Fidelity(
        generated=generated.name,
        reference=reference.name,
        n_reference=len(real.images),
        size=_size(asked.images),
        network=network.name,
        figures=figures,
        floor=_floor(asked, real, known, network, seed),
        memorisation=check,
        warnings=(
            *_size_warnings(asked, real),
            *_missing_warnings(figures, check),
            *(check.warnings() if check else ()),
        ),
    )


def measure_by_size(
    generated: LabelledImages,
    reference: LabelledImages,
    training: LabelledImages | None,
    network: FeatureNetwork,
    seed: int = 0,
) -> list[Fidelity]:
    """`measure` for the images of each size by themselves, smallest first.

    Sizes of fewer than 32 images are measured together, last. One image alone is left out, with a warning, where there
    is anything else to measure.
    """
    groups = _groups_by_size(generated)
    alone = [indices for indices in groups if len(indices) == 1]
    if len(groups) > len(alone):
        groups = [indices for indices in groups if len(indices) > 1]
    left_out = ("One image was left out: it is the only one of its size.",) if alone else ()
    results = []
    for indices in groups:
        result = measure(generated.select(indices), reference, training, network, seed)
        check = result.memorisation and result.memorisation.with_generated_indices(indices)
        results.append(replace(result, memorisation=check, warnings=(*result.warnings, *left_out)))
    return results


# The parts of a measurement


def _see(images: LabelledImages, network: FeatureNetwork) -> SeenImages:
    return SeenImages(images, network.features(images.images))


def _draw(count: int, most: int, draws: torch.Generator) -> Int[Tensor, " drawn"]:
    """Which of `count` images to take: all in their order, or `most` at random."""
    return torch.arange(count) if count <= most else torch.randperm(count, generator=draws)[:most]


def _figures(asked: SeenImages, real: SeenImages, class_agreement: float | None, seed: int) -> Figures:
    draws = generator(seed, FIGURES)
    kernel, kernel_error = kernel_distance(real.features, asked.features, draws)
    overlap = manifold(real.features, asked.features)
    return Figures(
        n=len(asked.features),
        frechet_distance=frechet_distance(real.features, asked.features),
        frechet_error=frechet_error(real.features, asked.features, draws),
        kernel_distance=kernel,
        kernel_error=kernel_error,
        **asdict(overlap),
        class_agreement=class_agreement,
    )


def _floor(
    asked: SeenImages, real: SeenImages, known: SeenImages | None, network: FeatureNetwork, seed: int
) -> Figures | None:
    """The figures of real images: of training images, as many as were generated, or of one half of the real ones."""
    draws = generator(seed, FLOOR)
    if known is not None:
        stand_in = known.select(_draw(len(known.features), len(asked.features), draws))
        return None if len(stand_in.features) < 2 else _figures(stand_in, real, _class_agreement(real, network), seed)
    if len(real.features) < 4:
        return None
    halves = torch.randperm(len(real.features), generator=draws).tensor_split(2)
    accuracy = network.accuracy if network.label_names else None
    return _figures(real.select(halves[0]), real.select(halves[1]), accuracy, seed)


def _class_agreement(seen: SeenImages, network: FeatureNetwork) -> float | None:
    """None where there is nothing to agree on: no labels, or classes that the network does not know."""
    labelled = seen.images.labels >= 0
    if not labelled.any() or not set(seen.images.label_names) <= set(network.label_names):
        return None
    numbers = torch.tensor([network.label_names.index(name) for name in seen.images.label_names])
    predicted = network.classify(seen.features[labelled]).argmax(1)
    return float((predicted == numbers[seen.images.labels[labelled]]).double().mean())


def _same_images(left: LabelledImages, right: LabelledImages) -> bool:
    if len(left) != len(right):
        return False
    return all(torch.equal(one, other) for one, other in zip(left.images, right.images, strict=True))


def _groups_by_size(images: LabelledImages) -> list[Int[Tensor, " n"]]:
    """The indices of the images of each size that is frequent, by size; then those of all others together."""
    sizes = [tuple(image.shape[1:]) for image in images.images]
    frequent = sorted(
        (size for size, count in Counter(sizes).items() if count >= FREQUENT), key=lambda s: (math.prod(s), s)
    )
    groups = [[i for i, size in enumerate(sizes) if size == chosen] for chosen in frequent]
    rest = [i for i, size in enumerate(sizes) if size not in frequent]
    return [torch.tensor(group) for group in [*groups, rest] if group]


def _size(images: LabelledImages) -> tuple[int, int] | None:
    sizes = {tuple(image.shape[1:]) for image in images.images}
    return sizes.pop() if len(sizes) == 1 else None


# What the reader must know


def _size_warnings(asked: SeenImages, real: SeenImages) -> list[str]:
    count, features = min(len(asked.features), len(real.features)), asked.features.shape[1]
    sentences = []
    if count < 10 * features:
        sentences.append(
            f"The Frechet distance of {count} images with {features} features is too large: compare it with its floor "
            "only, and trust the kernel distance more."
        )
    if count <= NEIGHBOURS:
        sentences.append(f"{count} images are too few for neighbours: no figure here means much.")
    return sentences


def _missing_warnings(figures: Figures, check: Memorisation | None) -> list[str]:
    sentences = []
    if figures.class_agreement is None:
        sentences.append(
            "Class agreement was not measured: the labels are not classes that the network was trained on."
        )
    if check is None:
        sentences.append(
            "Memorisation was not checked: it needs the training images and real images held out from them."
        )
    return sentences


# The table


_MEASURES = (
    ("Frechet distance", "frechet_distance", "frechet_error", "smaller"),
    ("kernel distance (KID)", "kernel_distance", "kernel_error", "smaller"),
    ("precision", "precision", None, "larger, up to 1"),
    ("recall", "recall", None, "larger, up to 1"),
    ("density", "density", None, "near 1"),
    ("coverage", "coverage", None, "larger, up to 1"),
    ("class agreement", "class_agreement", None, "larger, up to 1"),
)


def _figure_rows(figures: Figures, floor: Figures | None) -> list[dict[str, str]]:
    return [
        {
            "measure": label,
            "generated": _cell(figures, field, error),
            "real": "-" if floor is None else _cell(floor, field, error),
            "best": best,
        }
        for label, field, error, best in _MEASURES
    ]


def _cell(figures: Figures, field: str, error_field: str | None) -> str:
    value, error = getattr(figures, field), error_field and getattr(figures, error_field)
    if value is None:
        return "-"
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"


def _memorisation_rows(check: Memorisation | None) -> list[dict[str, str]]:
    if check is None:
        return []
    rows = []
    for space, nearness in (("features", check.features), ("pixels", check.pixels)):
        ratio = "-" if nearness.median_ratio is None else f"{nearness.median_ratio:.2f}"
        share = f"{nearness.share_nearer:.3f}"
        rows.append(
            {"measure": f"distance to training ({space})", "generated": ratio, "real": "1.00", "best": "near 1"}
        )
        rows.append(
            {"measure": f"nearer than 1 % of real ({space})", "generated": share, "real": "0.010", "best": "near 0.01"}
        )
    copies, real_copies = str(check.copies), str(check.held_out_copies)
    return [
        *rows,
        {"measure": "exact copies of training images", "generated": copies, "real": real_copies, "best": "0"},
    ]
