"""Two views of each image for contrastive learning: crops, colours, blur and solarisation, a whole batch at once.

Those of BYOL (Grill et al. 2020, arXiv 2006.07733, appendix B), where a view's colours change by one linear map: gray
is saturation 0, and hue turns in the YIQ plane. Pixels are in [0, 1].
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gen.crops import resize_and_crop
from workbench.recipe import Draws

Pixels = Float[Tensor, "b c h w"]

LARGEST_SMALL = 96  # pixels a side up to which "auto" makes views as for small images
STRETCH = 4 / 3  # a crop is at most so much wider or taller than the image, in proportion
BLUR = (0.1, 2.0)  # standard deviation in pixels
SOLARISED = 0.5  # what is brighter is inverted

YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


class ViewSettings(NamedTuple):
    """How far a view may be from its image."""

    smallest_crop: float = 0.3  # share of the image's area
    brightness: float = 0.4  # factor from 1 - this to 1 + this; so are contrast and saturation
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0  # in turns
    jitter_probability: float = 1.0
    grayscale_probability: float = 0.0
    blur_probability: float = 0.0
    solarize_probability: float = 0.0


IMAGENET = ViewSettings(0.08, 0.4, 0.4, 0.2, 0.1, jitter_probability=0.8, grayscale_probability=0.2)
SMALL = ViewSettings(contrast=0.2, saturation=0.2, hue=0.05, jitter_probability=0.8)
VIEWS = {
    "gray": (ViewSettings(), ViewSettings()),
    "small": (SMALL, SMALL),
    "imagenet": (IMAGENET._replace(blur_probability=1.0),
                 IMAGENET._replace(blur_probability=0.1, solarize_probability=0.2)),
}  # fmt: skip


def view_settings(name: str, shape: tuple[int, int, int]) -> tuple[ViewSettings, ViewSettings]:
    """Those of the two views, by name, or "auto" by the shape (channels, height, width) of the images."""
    if name == "auto":
        name = "gray" if shape[0] == 1 else "small" if max(shape[1:]) < LARGEST_SMALL else "imagenet"
    return VIEWS[name]


def draw_view(batch_size: int, settings: ViewSettings, flip: bool, generator: torch.Generator) -> Draws:
    """What is random in one view of each image; a factor of 1 and a blur of 0 leave it as it is."""

    def draw() -> Float[Tensor, " b"]:
        return torch.rand(batch_size, generator=generator, device=generator.device)

    def factor(most: float, neutral: float = 1.0) -> Float[Tensor, " b"]:
        return torch.where(jittered, neutral + most * (2 * draw() - 1), neutral)

    jittered = draw() < settings.jitter_probability
    drawn = {
        "box": draw_boxes(settings.smallest_crop, draw(), draw(), draw(), draw()),
        "flip": (draw() < 0.5) & flip,
        "brightness": factor(settings.brightness),
        "contrast": factor(settings.contrast),
        "saturation": factor(settings.saturation),
        "hue": factor(settings.hue, 0.0),
        "blur": (BLUR[0] + (BLUR[1] - BLUR[0]) * draw()) * (draw() < settings.blur_probability),
        "solarize": draw() < settings.solarize_probability,
    }
    return drawn | {"saturation": drawn["saturation"] * (draw() >= settings.grayscale_probability)}


def draw_boxes(smallest: float, area: Tensor, stretch: Tensor, top: Tensor, left: Tensor) -> Float[Tensor, "b 4"]:
    """Boxes of `smallest` to all of the area, stretched by up to 4/3 either way, from numbers in [0, 1).

    A box (top, left, height, width) is in fractions of the image; a side that would not fit is cut.
    """
    area = smallest + (1 - smallest) * area
    ratio = torch.exp(math.log(STRETCH) * (2 * stretch - 1))
    height, width = ((area * r).sqrt().clamp(max=1) for r in (1 / ratio, ratio))
    return torch.stack([top * (1 - height), left * (1 - width), height, width], dim=-1)


def make_view(
    images: UInt8[Tensor, "b c sh sw"], draws: Draws, settings: ViewSettings, size: tuple[int, int]
) -> Pixels:
    """The drawn view of each image, of `size` (height, width)."""
    pixels = resize_and_crop(images, draws["box"], draws["flip"], size) / 2 + 0.5
    pixels = jitter(pixels, draws)
    if settings.blur_probability:
        pixels = blur(pixels, draws["blur"])
    if settings.solarize_probability:
        inverted = draws["solarize"][:, None, None, None] & (pixels >= SOLARISED)
        pixels = torch.where(inverted, 1 - pixels, pixels)
    return pixels


def jitter(pixels: Pixels, draws: Draws) -> Pixels:
    """Brightness, contrast around the mean gray, saturation and hue, in this order; cut to [0, 1] at the end."""
    brightness, contrast = (draws[name][:, None, None, None] for name in ("brightness", "contrast"))
    pixels = pixels * brightness
    if pixels.shape[1] == 3:
        luma = YIQ[0].to(pixels.device)
        mean = (luma @ pixels.flatten(2)).mean(-1)[:, None, None, None]
        colours = colour_map(draws["saturation"], draws["hue"])
        pixels = (colours @ pixels.flatten(2)).view_as(pixels)
    else:
        mean = pixels.mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean, pixels, contrast).clamp(0, 1)


def colour_map(saturation: Float[Tensor, " b"], hue: Float[Tensor, " b"]) -> Float[Tensor, "b 3 3"]:
    """The linear map of RGB that keeps the luma, scales the distance to gray, and turns the hue."""
    angle, zero, one = 2 * math.pi * hue, torch.zeros_like(hue), torch.ones_like(hue)
    cos, sin = saturation * angle.cos(), saturation * angle.sin()
    rows = [[one, zero, zero], [zero, cos, -sin], [zero, sin, cos]]
    turn = torch.stack([torch.stack(row, -1) for row in rows], -2)
    yiq = YIQ.to(hue.device)
    return torch.linalg.inv(yiq) @ turn @ yiq


def blur(pixels: Pixels, sigma: Float[Tensor, " b"]) -> Pixels:
    """Gaussian blur of each image's own width in pixels, 0 for none; at the edge the inner pixels count more."""
    rows, columns = (_gaussian(sigma, side) for side in pixels.shape[-2:])
    return rows[:, None] @ pixels @ columns[:, None].mT


def _gaussian(sigma: Float[Tensor, " b"], side: int) -> Float[Tensor, "b side side"]:
    distance = torch.arange(side, device=sigma.device)
    distance = (distance - distance[:, None]) / sigma.clamp(min=1e-3)[:, None, None]
    weights = torch.exp(-distance.square() / 2)
    return weights / weights.sum(-1, keepdim=True)
