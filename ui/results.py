"""What the page shows of a result on disk: where it is, and a file to take home."""

import shutil
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ui.shelf import Shelf

if TYPE_CHECKING:
    from PIL.Image import Image


def zipped(folder: Path, name: Path | None = None) -> str:
    """A zip file of a folder, beside it or as NAME.zip."""
    return shutil.make_archive(str(name or folder), "zip", folder)


def where(shelf: Shelf, folder: Path, text: str) -> str:
    """A sentence with the result's place below the served folder, as Markdown."""
    return f"{escape(text)} Kept in `{shelf.shown(folder)}`."


def opened(path: Path) -> "Image":
    """A picture of the served folder as pixels: only what was made here is handed out as files."""
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")
