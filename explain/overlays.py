"""Maps as pictures: in colours that are even to the eye, over the image, with a bar that says what they mean.

Letters: (h, w) the image, (height, width) the picture, which is larger for small images and smaller for large ones.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from workbench.pictures import as_colour

SHORTEST, LONGEST = 224, 640  # pixels, of a picture's longer side
OPACITY = 0.55
BAR_WIDTH, BAR_GAP = 12, 6
CHROMA, LIGHTNESS, HUES = 0.1, (0.25, 0.95), (300, 100)  # from dark purple by teal to light yellow


def colour_map(levels: int = 256) -> UInt8[Tensor, "levels 3"]:
    """Colours from dark to light in equal steps of lightness, of one chroma, in sRGB.

    A straight line in lightness and hue of Oklab (Ottosson, "A perceptual color space for image processing", 2020), so
    that equal steps look equal, also without colour.
    """
    t = torch.linspace(0, 1, levels, dtype=torch.float64)
    lightness = LIGHTNESS[0] + (LIGHTNESS[1] - LIGHTNESS[0]) * t
    hue = torch.deg2rad(HUES[0] + (HUES[1] - HUES[0]) * t)
    oklab = torch.stack([lightness, CHROMA * hue.cos(), CHROMA * hue.sin()], 1)
    to_lms = oklab.new_tensor(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
    )
    to_rgb = oklab.new_tensor(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = ((oklab @ to_lms.T) ** 3 @ to_rgb.T).clamp(0, 1)
    encoded = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (encoded * 255).round().to(torch.uint8)


def coloured(saliency: Float[Tensor, "h w"]) -> UInt8[Tensor, "3 h w"]:
    """A map in [0, 1] in colours."""
    return colour_map()[(saliency.clamp(0, 1) * 255).round().long().cpu()].permute(2, 0, 1)


def overlay(image: UInt8[Tensor, "c h w"], saliency: Float[Tensor, "h w"]) -> UInt8[Tensor, "3 height _"]:
    """A map in [0, 1] over its image in gray, with a colour bar on the right, 1 above and 0 below."""
    size = picture_size(image.shape[1], image.shape[2])
    below = as_picture(image).float().mean(0, keepdim=True)
    large = F.interpolate(saliency[None, None].cpu(), size, mode="bilinear", align_corners=False)[0, 0]
    mixed = torch.lerp(below.expand(3, -1, -1), coloured(large).float(), OPACITY).round().to(torch.uint8)
    return torch.cat([mixed, _bar(size[0])], 2)


def as_picture(image: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "3 height width"]:
    """An image at the size of a picture: small ones as enlarged squares of one colour each."""
    size = picture_size(image.shape[1], image.shape[2])
    colour = as_colour(image.cpu())[None].float()
    smaller = size[0] < image.shape[1]
    resized = F.interpolate(colour, size, mode="bilinear" if smaller else "nearest-exact", antialias=smaller)
    return resized[0].round().clamp(0, 255).to(torch.uint8)


def picture_size(height: int, width: int) -> tuple[int, int]:
    """A whole multiple of a small image's size, or a large one's size brought down."""
    longer = max(height, width)
    scale = min(1.0, LONGEST / longer) if longer > SHORTEST else math.ceil(SHORTEST / longer)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _bar(height: int) -> UInt8[Tensor, "3 height _"]:
    """Colours from 1 to 0, and these numbers beside them, on white."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default()
    canvas = Image.new("RGB", (BAR_GAP + BAR_WIDTH + 14, height), "white")
    bar = coloured(torch.linspace(1, 0, height)[:, None].expand(-1, BAR_WIDTH)).permute(1, 2, 0)
    canvas.paste(Image.fromarray(bar.contiguous().numpy()), (BAR_GAP, 0))
    draw = ImageDraw.Draw(canvas)
    for number, anchor, top in (("1", "lt", 1), ("0", "lb", height - 2)):
        draw.text((BAR_GAP + BAR_WIDTH + 4, top), number, fill="black", font=font, anchor=anchor)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)
