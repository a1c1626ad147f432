"""What is measured of a region and of the classifier's answer, and the sentences that say it.

    facts = Facts(...)
    print(" ".join(sentences(facts)))

Every figure and every word here comes from pixels or from forward passes; no language model has a part in it. It names
no parts and no textures, because nothing measured them.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from explain.verification import Verification

ROWS, COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")
MOST = 0.6  # share of the picture from which a region is not at a place any more
ELONGATED, EDGY = 1.8, 1.25  # ratios from which they are worth a word
GRAY_CHROMA = 10.0  # of CIELAB, below which a colour has no hue that anyone would name
GRAYS = {"black": 20.0, "dark gray": 42.0, "gray": 68.0, "light gray": 90.0, "white": math.inf}  # up to this lightness
HIDDEN = {"blur": "blurred", "mean": "in the mean colour", "inpaint": "painted over"}
COLOURS = {
    "red": (200, 40, 40), "orange": (240, 140, 30), "yellow": (240, 220, 50), "green": (60, 150, 60),
    "olive": (120, 120, 40), "turquoise": (60, 190, 180), "blue": (50, 90, 200), "light blue": (140, 180, 230),
    "purple": (130, 60, 160), "pink": (240, 150, 180), "brown": (120, 75, 40), "beige": (215, 190, 150),
    "dark red": (100, 25, 30), "dark green": (30, 70, 35), "dark blue": (25, 35, 95),
}  # fmt: skip


@dataclass(frozen=True)
class Region:
    """Where a region is and how it looks, in numbers and in words that follow from them alone."""

    area: float  # share of the picture
    evidence: float  # share of all positive attribution
    place: str
    elongation: float  # length over width; 1 for a disc or a square
    colour: str  # of the mean pixel
    edges_inside: float  # mean gradient of the brightness, of [0, 1], per pixel
    edges_outside: float


@dataclass(frozen=True)
class Facts:
    """What an explanation may state. `region` is None where none was found; `why_not` is the class compared with."""

    label: str
    probability: float
    predictions: tuple[tuple[str, float], ...]  # most likely first
    base: float  # probability of the class when the whole picture is hidden
    scale: str  # of the attribution
    fill: str
    evaluations: int
    additivity_error: float
    region: Region | None = None
    verifications: tuple[Verification, ...] = ()  # of the class explained
    why_not: str | None = None
    why_not_verifications: tuple[Verification, ...] = ()
    stability: float | None = None  # IoU of the region with those of prompts of one point less; None of a single point
    half_area: float | None = None  # smallest share of the picture with half of what speaks for the class
    warnings: tuple[str, ...] = ()


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure_region(image: Float[Tensor, "c h w"], values: Float[Tensor, "h w"], mask: Bool[Tensor, "h w"]) -> Region:
    """Facts of a region that is not empty, of an image in [0, 1] and the attribution of a class."""
    positive = values.clamp(min=0)
    inside, outside = edge_density(image, mask)
    return Region(
        area=float(mask.float().mean()),
        evidence=float(positive[mask].sum() / positive.sum().clamp(min=1e-12)),
        place=place(mask),
        elongation=elongation(mask),
        colour=colour_name(image.expand(3, -1, -1)[:, mask].mean(1)),
        edges_inside=inside,
        edges_outside=outside,
    )


def half_area(values: Float[Tensor, "h w"]) -> float | None:
    """The smallest share of the pixels that holds half of what speaks for the class; None where nothing does."""
    shares = values.clamp(min=0).flatten().double().sort(descending=True).values.cumsum(0)
    if shares[-1] <= 0:
        return None
    return (1 + int((shares < shares[-1] / 2).sum())) / len(shares)


def place(mask: Bool[Tensor, "h w"]) -> str:
    """Where the region's centre of mass is, of nine fields of the picture: "upper left", ..., "centre"."""
    if mask.float().mean() > MOST:
        return "most of the picture"
    row, column = ((axis.float().mean() + 0.5) / side for axis, side in zip(mask.nonzero().T, mask.shape, strict=True))
    down, right = (min(2, int(3 * share)) for share in (row, column))
    return "centre" if down == right == 1 else f"{ROWS[down]} {COLUMNS[right]}"


def elongation(mask: Bool[Tensor, "h w"]) -> float:
    """Length over width of the ellipse of the same second moments; a line of one pixel has a width too."""
    points = mask.nonzero().double()
    centred = points - points.mean(0)
    spread = centred.T @ centred / len(points) + torch.eye(2, dtype=torch.float64) / 12  # of a square pixel
    shortest, longest = torch.linalg.eigvalsh(spread).tolist()
    return math.sqrt(longest / shortest)


def colour_name(colour: Float[Tensor, " 3"]) -> str:
    """The nearest of a few names for a colour in [0, 1]: by lightness without a hue, else by distance in CIELAB."""
    lightness, *hue = _lab(colour.double().cpu().numpy()).tolist()
    if math.hypot(*hue) < GRAY_CHROMA:
        return next(name for name, limit in GRAYS.items() if lightness <= limit)
    named = _lab(np.array(list(COLOURS.values())) / 255)
    return list(COLOURS)[int(((named - [lightness, *hue]) ** 2).sum(1).argmin())]


def _lab(colours: np.ndarray) -> np.ndarray:
    from skimage.color import rgb2lab

    return np.asarray(rgb2lab(colours))


def edge_density(image: Float[Tensor, "c h w"], mask: Bool[Tensor, "h w"]) -> tuple[float, float]:
    """Mean gradient of the brightness inside and outside; 0 outside of a region that is the whole picture."""
    bright = image.mean(0)
    down, right = (bright.diff(dim=axis, append=bright.narrow(axis, -1, 1)) for axis in (0, 1))
    edges = torch.hypot(down, right)
    return float(edges[mask].mean()), float(edges[~mask].mean()) if not mask.all() else 0.0


# ---- in words --------------------------------------------------------------------------------------------------------


def sentences(facts: Facts) -> list[str]:
    """The facts for a reader: the answer, the region, what hiding it does, what nothing at all does, warnings."""
    return [
        _answer(facts),
        *(_region(facts, facts.region) if facts.region else _no_region(facts)),
        *_stability(facts),
        *(_effect(one, facts.label) for one in facts.verifications),
        *_comparison(facts),
        *_of_scale(facts),
        f"With the whole picture {HIDDEN[facts.fill]}, the probability of {facts.label} is {facts.base:.1%}.",
        *(f"Note: {warning}." for warning in facts.warnings),
    ]


def block(facts: Facts) -> str:
    """The facts as lines of `name: value`, for the prompt of a language model."""
    lines = [f"label: {facts.label}", f"probability: {facts.probability:.1%}"]
    lines.append("most likely classes: " + ", ".join(f"{name} {value:.1%}" for name, value in facts.predictions))
    if facts.region:
        lines += [
            f"place: {facts.region.place}", f"share of the picture: {facts.region.area:.0%}",
            f"share of the evidence: {facts.region.evidence:.0%}", f"mean colour: {facts.region.colour}",
        ]  # fmt: skip
    lines += [
        f"probability of {facts.label} with the region alone {one.keep:.1%}, without it {one.remove:.1%} ({one.fill})"
        for one in facts.verifications
    ]
    return "\n".join(lines)


def _answer(facts: Facts) -> str:
    others = [f"{name} ({value:.1%})" for name, value in facts.predictions if name != facts.label][:2]
    if facts.predictions[0][0] == facts.label:
        return f"The classifier sees {facts.label} with a probability of {facts.probability:.1%}" + (
            f", then {' and '.join(others)}." if others else "."
        )
    first, value = facts.predictions[0]
    return f"The classifier sees {first} ({value:.1%}); of {facts.label} its probability is {facts.probability:.1%}."


def _region(facts: Facts, region: Region) -> list[str]:
    where = region.place if region.place.startswith("most") else f"a region at the {region.place}"
    shape = (
        f"{region.elongation:.1f} times as long as wide" if region.elongation >= ELONGATED else "about as long as wide"
    )
    ratio = region.edges_inside / max(region.edges_outside, 1e-6)
    edges = "stronger than" if ratio > EDGY else "weaker than" if ratio < 1 / EDGY else "about as strong as"
    return [
        f"Of what speaks for {facts.label}, {region.evidence:.0%} lies in {where}, "
        f"which is {region.area:.0%} of the picture.",
        f"The region is {shape}, its mean colour is {region.colour}, "
        f"and its edges are {edges} those of the rest of the picture.",
    ]


def _no_region(facts: Facts) -> list[str]:
    if facts.half_area is None:
        return ["No region of the picture is named."]
    half = f"the strongest half of what speaks for {facts.label} covers {facts.half_area:.0%} of it"
    return [f"No region of the picture is named; {half}."]


def _stability(facts: Facts) -> list[str]:
    if facts.stability is None:
        return []
    return [
        f"With one point less in its prompt the segmenter's region and this one overlap by {facts.stability:.0%} (IoU)."
    ]


def _effect(one: Verification, label: str) -> str:
    how = HIDDEN[one.fill]
    return (
        f"With this region {how} the probability of {label} is {one.remove:.1%} instead of {one.probability:.1%}; with "
        f"all but this region {how}, {one.keep:.1%}. The same with regions of its shape elsewhere: "
        f"{one.control_remove:.1%} and {one.control_keep:.1%}."
    )


def _comparison(facts: Facts) -> list[str]:
    return [f"Why not {facts.why_not}? {_effect(one, facts.why_not)}"
            for one in facts.why_not_verifications if facts.why_not]  # fmt: skip


def _of_scale(facts: Facts) -> list[str]:
    if facts.scale == "probability":
        return []
    return [f"What speaks for {facts.label} was measured in log-odds."]
