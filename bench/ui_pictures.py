"""Pictures of the browser app's tabs, for the documentation: docs/images/ui-*.png.

python bench/ui_pictures.py --output docs/images            (needs a Chromium and the package playwright)
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from ui.app import TABS, build_app, launch
from ui.app_config import AppConfig
from workbench.command import polite
from workbench.errors import UserError

PATIENCE = 600_000  # milliseconds
SIZES = {"": (1280, 900), "-phone": (390, 844)}
PHOTOGRAPH = "chelsea.png"


@dataclass
class PicturesConfig:
    """Where to, and of which folder's models."""

    output: Path = Path("docs/images")
    folder: Path | None = None
    """The served folder; an empty one unless given, so that all is the zoo's."""
    tabs: list[str] = field(default_factory=lambda: list(TABS))


def main() -> None:
    """Take the pictures."""
    with polite():
        take(tyro.cli(PicturesConfig))


def take(config: PicturesConfig) -> None:
    """A picture of each tab after its main job, and of the first tab on a phone. Raises UserError without Chromium."""
    config.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as empty, _page(config.folder or Path(empty)) as page:
        for title in config.tabs:
            page.get_by_role("tab", name=title).click()
            page.wait_for_timeout(1000)
            if title in ACTIONS:
                ACTIONS[title](page)
            page.wait_for_timeout(1500)
            page.screenshot(path=config.output / f"ui-{TABS[title]}.png", full_page=True)
            print(f"{config.output}/ui-{TABS[title]}.png")
        page.set_viewport_size({"width": SIZES["-phone"][0], "height": SIZES["-phone"][1]})
        page.get_by_role("tab", name=config.tabs[0]).click()
        page.wait_for_timeout(1500)
        page.screenshot(path=config.output / "ui-phone.png")


@contextmanager
def _page(folder: Path) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise UserError("no Chromium is installed; install it: apt install chromium")
    config = AppConfig(folder=folder, port=0)
    app = build_app(config)
    address = launch(app, config, wait=False)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": SIZES[""][0], "height": SIZES[""][1]})
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        yield page
        browser.close()
    app.close(verbose=False)


def _press(page: Any, name: str, index: int = 0) -> None:
    page.get_by_role("button", name=name, exact=True).locator("visible=true").nth(index).click()


def _generate(page: Any) -> None:
    _press(page, "Generate")
    page.get_by_text("a data set with the provenance of each").wait_for()


def _browse(page: Any) -> None:
    box = page.get_by_label("Split", exact=True).locator("visible=true").first
    box.fill("test")
    box.press("Enter")
    _press(page, "Show")
    page.locator("#browsed img").first.wait_for()


def _explain(page: Any) -> None:
    page.locator("#explain-picture input[type=file]").set_input_files(_photograph())
    page.locator("#explain-picture img").wait_for()
    _press(page, "Explain")
    page.get_by_text("All maps as numbers and pictures").wait_for()


def _inpaint(page: Any) -> None:
    page.locator("#inpaint-picture input[type=file]").set_input_files(_photograph())
    page.locator("#inpaint-editor canvas").first.wait_for()
    page.wait_for_timeout(3000)
    box = page.locator("#inpaint-editor canvas").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 60, box["y"] + box["height"] / 2 + 20, steps=8)
    page.mouse.up()


def _photograph() -> str:
    from importlib.resources import files

    return str(files("skimage").joinpath("data", PHOTOGRAPH))


ACTIONS = {"Generate": _generate, "Data sets": _browse, "Explain": _explain, "Inpaint": _inpaint}


if __name__ == "__main__":
    main()
