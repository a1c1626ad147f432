"""Pictures of the browser app's tabs, for the documentation: docs/images/ui-*.png.

python bench/ui_pictures.py --output docs/images            (needs a Chromium and the package playwright)

All models and results are the zoo's.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro
from PIL import Image

from ui.app import TABS, build_app, launch
from ui.app_config import AppConfig
from ui.shelf import DEMO_CLASSIFIER, ZOO
from workbench.command import polite
from workbench.errors import UserError

PATIENCE = 600_000  # milliseconds
SIZES = {"": (1280, 900), "-phone": (390, 844)}
PHOTOGRAPH = "chelsea.png"
COLOURS = 256  # keeps the files small
DATA = "scenes"


@dataclass
class PicturesConfig:
    """Where to, and which."""

    output: Path = Path("docs/images")
    tabs: list[str] = field(default_factory=lambda: list(TABS))


def main() -> None:
    """Take the pictures."""
    with polite():
        take(tyro.cli(PicturesConfig))


def take(config: PicturesConfig) -> None:
    """A picture of each tab after its main job; of two also in the dark and on a phone. UserError without Chromium."""
    config.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ZOO / "debiased" / "scenes" / "augmented", Path(folder) / DATA)
        _take_tabs(config, Path(folder))


def _take_tabs(config: PicturesConfig, folder: Path) -> None:
    with _page(folder) as page:
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
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    picture.quantize(COLOURS, kmeans=2).save(config.output / name, optimize=True)
    print(config.output / name)


@contextmanager
def _page(folder: Path) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    config = AppConfig(folder=folder, port=0)
    app = build_app(config)
    address = launch(app, config, wait=False)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": SIZES[""][0], "height": SIZES[""][1]})
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        yield page
        browser.close()
    app.close(verbose=False)


def chromium() -> str:
    """The browser's file. Raises UserError where there is none."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        raise UserError("no Chromium is installed; install it: apt install chromium")
    return found


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
    box = page.get_by_label("Data set").locator("visible=true").first
    box.fill(DATA)
    box.press("Enter")
    page.wait_for_timeout(1000)
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
    upload = page.locator("#inpaint-picture input[type=file]")
    with page.expect_response(lambda one: one.url.endswith("/image.png")):  # the picture as it is painted on
        upload.set_input_files(str(ZOO / "fashion-inpaint" / "examples" / "boot.png"))
    page.wait_for_timeout(2000)
    _paint(page, page.locator("#inpaint-editor canvas").first.bounding_box())
    page.get_by_text("More settings").locator("visible=true").click()
    box = page.get_by_label("Rivals on the same mask").locator("visible=true").first
    box.fill("RePaint with zoo:fashion-rpe2d")
    box.press("Enter")
    _press(page, "Fill")
    page.locator("#rivals img").first.wait_for()
    page.locator("#filled img").first.click()
    page.locator("#before-after img").nth(1).wait_for()


def _paint(page: Any, box: dict[str, float]) -> None:
    """The boot's shaft, line by line."""
    left, right = (box["x"] + share * box["width"] for share in (0.5, 0.84))
    top, bottom = (box["y"] + share * box["height"] for share in (0.3, 0.55))
    page.mouse.move(left, top)
    page.mouse.down()
    for line in range(8):
        y = top + line / 7 * (bottom - top)
        page.mouse.move((left, right)[line % 2], y)
        page.mouse.move((right, left)[line % 2], y)
    page.mouse.up()


def _show(page: Any) -> None:
    _press(page, "Show")
    page.get_by_text("finished").locator("visible=true").first.wait_for()


def _photograph() -> str:
    from importlib.resources import files

    return str(files("skimage").joinpath("data", PHOTOGRAPH))


ACTIONS = {
    "Generate": _generate, "Data sets": _browse, "Explain": _explain, "Inpaint": _inpaint, "Debias": _show,
    "Distil": _show, "Runs": _show,
}  # fmt: skip


if __name__ == "__main__":
    main()
