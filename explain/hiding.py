"""Images of which only a part is shown: what a coalition of pixels looks like, and the cut-out of a mask."""

import importlib.util
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.errors import UserError

Image = Float[Tensor, "c h w"]
Hide = Callable[[Bool[Tensor, "n h w"]], Float[Tensor, "n c h w"]]  # True: shown

HIDINGS = ("blur", "mean", "inpaint")
INPAINT_RADIUS = 3


def hiding(image: Image, fill: str) -> Hide:
    """How an image in [0, 1] looks where pixels are hidden by `fill`; what can be computed before is.

    blur: the mean of the square of a third of the shorter side around a pixel (the image goes on as its mirror image);
    mean: the image's mean colour; inpaint: Telea's, from the pixels that are shown, which needs opencv. The same as
    shap's maskers blur(k,k), the mean colour, and inpaint_telea on images in [0, 255].
    """
    if fill == "inpaint":
        return _inpainting(image)
    if fill not in HIDINGS:
        raise UserError(f"hidden pixels cannot be filled by {fill!r}; choose {', '.join(HIDINGS)}")
    filled = blurred(image) if fill == "blur" else image.mean((1, 2), keepdim=True).expand_as(image)
    return lambda shown: torch.where(shown.to(image.device)[:, None], image, filled)


def blur_kernel(image: Image) -> int:
    """Pixels along a side of the blur's square."""
    return max(1, round(min(image.shape[1:]) / 3))


def blurred(image: Image) -> Image:
    """The mean over a square, first along the columns, then along the rows."""
    side = blur_kernel(image)
    before, after = side // 2, (side - 1) // 2
    columns = F.avg_pool2d(F.pad(image[None], (0, 0, before, after), mode="reflect"), (side, 1), 1)
    return F.avg_pool2d(F.pad(columns, (before, after, 0, 0), mode="reflect"), (1, side), 1)[0]


def _inpainting(image: Image) -> Hide:
    if importlib.util.find_spec("cv2") is None:
        raise UserError("the fill inpaint needs opencv: pip install 'workbench[cv]', or choose blur or mean")
    import cv2

    pixels = (image * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
    mean = image.mean((1, 2), keepdim=True).expand_as(image)

    def inpainted(shown: np.ndarray) -> Tensor:
        if not shown.any():
            return mean
        filled = cv2.inpaint(pixels, (~shown).astype(np.uint8), INPAINT_RADIUS, cv2.INPAINT_TELEA)
        return torch.from_numpy(filled.reshape(pixels.shape)).permute(2, 0, 1).to(image) / 255

    return lambda shown: torch.stack([inpainted(mask) for mask in shown.cpu().numpy()])
