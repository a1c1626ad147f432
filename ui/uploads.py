"""Pictures that a browser sends: read by the library, with its limits and sentences, and never by their names."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from ui.shelf import ZOO
from workbench.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool

    from gen.inpaint.pictures import Picture

OWN_PICTURES = 1_000_000  # pixels
EXAMPLES = ("chelsea.png", "coffee.png", "rocket.jpg")  # of scikit-image


def picture_input(label: str, **options: Any) -> gr.Image:
    """An upload, or a picture from the clipboard, that is handed on as a file nobody has opened yet.

    Gradio's own reader would fail on a damaged file without saying what to do.
    """
    component = gr.Image(label=label, type="filepath", image_mode=None, sources=["upload", "clipboard"], **options)
    component.preprocess = _unopened  # type: ignore[method-assign]
    return component


def _unopened(payload: Any) -> str | None:
    return None if payload is None else payload.path


def limit_decoders(max_pixels: int) -> None:
    """Let whatever opens a picture in this process, Gradio too, refuse one of more pixels before it is decoded.

    Not fewer than reports' own pictures have.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = max(max_pixels, OWN_PICTURES) // 2  # Pillow refuses twice its limit, and warns from there


def read_upload(path: str | None, max_pixels: int) -> "Picture":
    """The picture of an upload. Raises UserError where there is none, or it cannot be read."""
    from gen.inpaint.pictures import read_picture

    if not path:
        raise UserError("there is no picture yet; upload one, or click an example")
    try:
        return read_picture(path, max_pixels)
    except UserError as error:
        raise UserError(str(error).replace(str(Path(path)), "the picture")) from error


def hole_of(
    editor: "dict[str, Any] | None", mask: str | None, size: tuple[int, int], max_pixels: int
) -> "Bool[np.ndarray, 'h w']":
    """True in the hole of a picture of `size` (height, width): from an uploaded mask, else from what was painted.

    The editor shows a picture at a size of its own, so what is painted is brought to the picture's. Raises UserError
    for no mask, or one that does not fit.
    """
    from gen.inpaint.pictures import read_mask

    if mask:
        try:
            return read_mask(mask, size, max_pixels=max_pixels)
        except UserError as error:
            raise UserError(str(error).replace(str(Path(mask)), "the mask")) from error
    return read_mask(painted(editor, size), size)


def painted(editor: "dict[str, Any] | None", size: tuple[int, int]) -> "Bool[np.ndarray, 'h w']":
    """Where any layer of an editor is painted, more than half, at `size` (height, width). UserError for nothing."""
    import numpy as np
    from PIL import Image

    union = np.zeros(size, bool)
    for layer in (editor or {}).get("layers") or []:
        alpha = layer.convert("RGBA").getchannel("A")
        union |= np.asarray(alpha.resize((size[1], size[0]), Image.Resampling.BOX)) > 127
    if not union.any():
        raise UserError("nothing is painted; paint over what is to be filled, or upload a mask that is white there")
    return union


def grown(hole: "Bool[np.ndarray, 'h w']", pixels: int) -> "Bool[np.ndarray, 'h w']":
    """The hole larger by so many pixels on all sides, or smaller by as many less than 0.

    Raises UserError where nothing is left of it.
    """
    from scipy.ndimage import distance_transform_edt

    if pixels >= 0:
        larger: Bool[np.ndarray, "h w"] = distance_transform_edt(~hole) <= pixels  # from the hole
        return larger
    smaller: Bool[np.ndarray, "h w"] = distance_transform_edt(hole) > -pixels  # from what is known
    if not smaller.any():
        raise UserError(f"nothing is left of the mask when it shrinks by {-pixels} pixels; shrink it by fewer")
    return smaller


def example_pictures() -> list[str]:
    """Photographs that scikit-image brings."""
    package = find_spec("skimage")
    folder = Path((package.submodule_search_locations or [""])[0] if package else "") / "data"
    return [str(folder / name) for name in EXAMPLES if (folder / name).is_file()]


def example_holes() -> list[list[str | None]]:
    """Pictures with masks, which the zoo's inpainters bring; then photographs without."""
    masks = sorted(str(path) for path in ZOO.glob("*/examples/*-mask.png"))
    holes: list[list[str | None]] = [[mask.replace("-mask.png", ".png"), mask] for mask in masks]
    return holes + [[path, None] for path in example_pictures()]
