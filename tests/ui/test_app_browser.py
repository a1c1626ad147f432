"""The app in a real browser: each tab does its main job once. Skipped where no Chromium is installed."""

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from app_places import furnish, served
from PIL import Image

from ui.app import TABS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt install chromium"),
    pytest.mark.filterwarnings("ignore"),
]
PATIENCE = 120_000  # milliseconds, of a busy machine


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("place")
    furnish(root)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "photo.png")
    return root


@pytest.fixture(scope="module")
def page(place: Path) -> Iterator[Any]:
    """The app's page, opened."""
    with served(place) as address, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page()
        opened.set_default_timeout(PATIENCE)
        opened.goto(address)
        yield opened
        browser.close()


def choose(page: Any, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()


def fill(page: Any, label: str, value: str) -> None:
    box = page.get_by_label(re.compile(rf"^\s*{label}\b")).locator("visible=true").first  # what explains it follows
    box.fill(value)
    box.press("Enter")


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).locator("visible=true").first.click()


def test_generate(page: Any) -> None:
    choose(page, "Generate")
    fill(page, "Model", "tiny")
    page.get_by_text("8x12 (trained)").first.wait_for()
    fill(page, "Sizes", "4x6")
    press(page, "Generate")
    page.get_by_text("a data set with the provenance of each").wait_for()
    assert page.locator("#generated img").count() >= 12
    page.locator("#generated img").nth(3).click()
    page.get_by_text("num_inference_steps").first.wait_for()  # where it came from


def test_models_side_by_side(page: Any) -> None:
    choose(page, "Generate")
    page.get_by_text("Side by side: several").click()
    fill(page, "Beside the model", "other")
    fill(page, "Steps of each row", "2")
    press(page, "Generate side by side")
    page.get_by_text("other: sincos positions, trained at 8x12, 2 steps").first.wait_for()
    assert page.locator("#row-1 img").count() >= 8


def test_data_sets_escape_labels(page: Any) -> None:
    choose(page, "Data sets")
    fill(page, "Data set", "data/noise")
    press(page, "Show")
    page.get_by_text("6 images on 1 pages").wait_for()
    page.locator("#browsed").get_by_text("<b>coat</b>").first.wait_for()


def test_explain_an_upload(page: Any, place: Path) -> None:
    choose(page, "Explain")
    page.locator("#explain-picture input[type=file]").set_input_files(str(place / "photo.png"))
    page.locator("#explain-picture img").wait_for()
    press(page, "Explain")
    page.get_by_text("All maps as numbers and pictures").wait_for()
    assert page.locator("#explained img").count() >= 4
    place_of = page.locator("#explain-summary code")
    first = place_of.inner_text()
    bars = page.locator("#classes button")
    bars.nth(0).click()  # explained already: its map is shown
    page.locator("#explained .preview").wait_for()
    assert place_of.inner_text() == first
    name = bars.nth(1).inner_text()
    bars.nth(1).click()
    playwright.expect(place_of).not_to_have_text(first, timeout=PATIENCE)
    assert page.get_by_label(re.compile(r"^\s*Class\b")).locator("visible=true").first.input_value() in name


def test_inpaint_with_a_painted_mask(page: Any, place: Path) -> None:
    choose(page, "Inpaint")
    page.locator("#inpaint-picture input[type=file]").set_input_files(str(place / "photo.png"))
    page.locator("#inpaint-picture img").wait_for()
    canvas = page.locator("#inpaint-editor canvas").first
    canvas.wait_for()
    page.wait_for_timeout(3000)  # the picture is put on the canvas after the event
    box = canvas.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 40, middle[1] + 10, steps=5)
    page.mouse.up()
    press(page, "Fill")
    page.get_by_text("6 variants.").wait_for()
    folder = max((place / "app").glob("filled-*/variants.json")).parent
    with Image.open(place / "photo.png") as image:
        original = np.asarray(image)
    variants = [np.asarray(Image.open(path)) for path in sorted(folder.glob("variant-*.png"))]
    changed = np.any([(one != original).any(2) for one in variants], axis=0)
    assert len(variants) == 6
    assert 0 < changed.mean() < 0.5
    page.locator("#filled img").nth(1).click()
    sides = page.locator("#before-after img")
    playwright.expect(sides).to_have_count(2, timeout=PATIENCE)
    shown = [httpx.get(str(sides.nth(number).get_attribute("src"))).content for number in range(2)]
    sizes = [Image.open(io.BytesIO(content)).size for content in shown]
    assert sizes == [(640, 427)] * 2
    assert shown[0] != shown[1]


def test_a_debiasing_shows_pairs_as_text(page: Any) -> None:
    choose(page, "Debias")
    fill(page, "Result", "debias")
    press(page, "Show")
    page.get_by_text("Of 2 features 1 is relied on").wait_for()
    assert page.locator("#pairs figure").count() == 2
    assert "gravel for grass: <b>coat</b> 25%" in page.locator("#pairs").inner_text()
    assert "too few edits" in page.locator("#features").inner_text()


def test_distilled_sets_and_runs(page: Any) -> None:
    choose(page, "Distil")
    fill(page, "Distilled set", "small")
    press(page, "Show")
    playwright.expect(page.locator("#measured")).to_contain_text("51.2%", timeout=PATIENCE)
    page.get_by_text("The card: what it is").click()
    page.get_by_text("Accuracy 0.5").wait_for()
    choose(page, "Runs")
    press(page, "Show")
    page.locator("#curves svg").first.wait_for()


def test_an_address_opens_its_tab(page: Any) -> None:
    for tab, title in (("inpaint", "Inpaint"), ("debias", "Debias"), ("nonsense", "Generate")):
        page.goto(f"{page.url.split('?')[0]}?tab={tab}")
        chosen = page.get_by_role("tab", name=title, exact=True)
        playwright.expect(chosen).to_have_attribute("aria-selected", "true", timeout=PATIENCE)


def test_nothing_is_wider_than_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for tab in TABS.values():
        page.goto(f"{page.url.split('?')[0]}?tab={tab}")
        page.get_by_role("tabpanel").locator("visible=true").first.wait_for()
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
