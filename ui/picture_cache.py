"""Pictures that several people look at in the same moment.

Gradio keeps a picture under the checksum of its bytes, and writes one that it has already again, in place: whoever
downloads it in that moment gets an empty file. Here it is written once, beside its place, and then renamed.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gradio import processing_utils

from workbench.files import write_atomic

if TYPE_CHECKING:
    from PIL import Image


def keep_pictures_whole() -> None:
    """Let Gradio keep pictures by `save_picture`, in this process."""
    processing_utils.save_pil_to_cache = save_picture


def save_picture(img: "Image.Image", cache_dir: str, name: str = "image", format: str = "webp") -> str:
    """The path of the picture in the cache; in place of Gradio's function, with its arguments."""
    content = processing_utils.encode_pil_to_bytes(img, format)
    path = Path(cache_dir) / processing_utils.hash_bytes(content) / f"{name}.{format}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.utime(path)  # its age is counted from the last time that it was asked for
    except FileNotFoundError:
        write_atomic(path, content)
    return str(path.resolve())
