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
from ui.shelf import DEMO_CLASSIFIER
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
    """A picture of each tab after its main job; of two also in the dark and on a phone. UserError without Chromium."""
    config.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as empty, _page(config.folder or Path(empty)) as page:
        for title in config.tabs:
            page.get_by_role("tab", name=title, exact=True).click()
            page.wait_for_timeout(1000)
            ACTIONS[title](page)
            _picture(page, config, title, f"ui-{TABS[title]}.png")
        page.evaluate("document.body.classList.add('dark')")
        _picture(page, config, config.tabs[0], "ui-dark.png")
        page.evaluate("document.body.classList.remove('dark')")
        page.set_viewport_size({"width": SIZES["-phone"][0], "height": SIZES["-phone"][1]})
        _picture(page, config, config.tabs[0], "ui-phone.png")


def _picture(page: Any, config: PicturesConfig, title: str, name: str) -> None:
    page.get_by_role("tab", name=title, exact=True).click()
    page.wait_for_timeout(1500)
    page.screenshot(path=config.output / name, full_page=True)
    print(config.output / name)


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
    page.get_by_text("Side by side: several").click()
    steps = page.get_by_label("Steps of each row").locator("visible=true").first
    steps.fill("4, 25")
    _press(page, "Generate side by side")
    page.locator("#row-1 img").first.wait_for()


def _browse(page: Any) -> None:
    _press(page, "Show")
    page.locator("#browsed img").first.wait_for()


def _explain(page: Any) -> None:
    page.locator("#explain-picture input[type=file]").set_input_files(_photograph())
    page.locator("#explain-picture img").wait_for()
    for label, value in (("Classifier", DEMO_CLASSIFIER), ("Methods", "centre")):
        box = page.get_by_label(label).locator("visible=true").first
        box.fill(value)
        box.press("Enter")
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
    page.get_by_text("More settings").locator("visible=true").click()
    box = page.get_by_label("Rivals on the same mask").locator("visible=true").first
    box.fill("RePaint with zoo:fashion-rpe2d")
    box.press("Enter")
    _press(page, "Fill")
    page.locator("#rivals img").first.wait_for()
    page.locator("#filled img").first.click()
    page.locator("#before-after img").nth(1).wait_for()


def _show_newest(page: Any) -> None:
    """Where the folder has any."""
    if page.get_by_text("and click Show.").locator("visible=true").count():
        _press(page, "Show")
        page.get_by_text("finished.").locator("visible=true").first.wait_for()


def _show_run(page: Any) -> None:
    if page.get_by_text("Runs of").locator("visible=true").count():
        _press(page, "Show")
        page.locator("#curves svg").first.wait_for()


def _photograph() -> str:
    from importlib.resources import files

    return str(files("skimage").joinpath("data", PHOTOGRAPH))


ACTIONS = {
    "Generate": _generate, "Data sets": _browse, "Explain": _explain, "Inpaint": _inpaint, "Debias": _show_newest,
    "Distil": _show_newest, "Runs": _show_run,
}  # fmt: skip


if __name__ == "__main__":
    main()
