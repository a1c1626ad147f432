"""The app in a real browser: each tab does its main job once. Skipped where no Chromium is installed."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from app_page import NEEDS_CHROMIUM, PATIENCE, browser_page, choose, faint, fill, nameless, press, tab_to, unfold
from app_places import furnish, served
from PIL import Image

from ui.app import TABS
from ui.jobs import MODELS

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytestmark = [NEEDS_CHROMIUM, pytest.mark.filterwarnings("ignore")]


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
    with served(place) as address, browser_page(address) as opened:
        yield opened


@pytest.fixture(autouse=True)
def for_everyone(page: Any) -> Iterator[None]:
    """Whatever a test leaves on the page has names for those who hear it, and is seen well, in the dark too."""
    yield
    unfold(page)
    assert nameless(page) == []
    assert faint(page, dark=False) == []
    assert faint(page, dark=True) == []


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
    unfold(page)
    fill(page, "Beside the model", "other")
    fill(page, "Steps of each row", "2")
    press(page, "Generate side by side")
    page.get_by_text("other: sincos positions, trained at 8x12, 2 steps").first.wait_for()
    assert page.locator("#row-1 img").count() >= 8


def test_a_stop_right_after_a_start_ends_its_work(page: Any, place: Path) -> None:
    """Also one that reaches the server first: here the start is held back until the page says that it is stopped."""
    choose(page, "Generate")
    unfold(page)
    before = set((place / "app").iterdir())
    fill(page, "Steps", "300000")
    held: list[Any] = []
    page.route("**/queue/join*", lambda start: held.append(start))
    press(page, "Generate")
    press(page, "Stop")
    page.get_by_text("Stopped: nothing is kept.").wait_for()
    assert held
    for start in held:
        start.continue_()
    page.unroute("**/queue/join*")
    page.wait_for_timeout(2000)
    assert not MODELS.locked()
    assert set((place / "app").iterdir()) == before
    fill(page, "Steps", "2")
    press(page, "Generate")
    page.get_by_text("a data set with the provenance of each").wait_for()


def test_data_sets_escape_labels(page: Any) -> None:
    choose(page, "Data sets")
    fill(page, "Data set", "data/noise")
    press(page, "Show")
    page.get_by_text("6 images on 1 page.").wait_for()
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
    with page.expect_response(lambda one: one.url.endswith("/image.png")):  # the picture as it is painted on
        page.locator("#inpaint-picture input[type=file]").set_input_files(str(place / "photo.png"))
    page.wait_for_timeout(2000)
    box = page.locator("#inpaint-editor canvas").first.bounding_box()
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


def test_inpaint_without_a_mouse(page: Any, place: Path) -> None:
    mask = Image.new("L", (30, 20))
    mask.paste(255, (8, 5, 16, 10))
    mask.save(place / "mask.png")
    page.goto(page.url.split("?")[0])
    page.get_by_role("tab", name="Inpaint").wait_for()
    tab_to(page, "[role=tablist]", "Inpaint")
    page.keyboard.press("Enter")
    page.locator("#inpaint-picture").wait_for()
    files = iter(("photo.png", "mask.png"))
    page.on("filechooser", lambda chooser: chooser.set_files(str(place / next(files))))
    for area in ("#inpaint-picture", "#inpaint-mask"):
        if area == "#inpaint-mask":
            tab_to(page, "body", "The mask: upload")
            page.keyboard.press("Enter")
        tab_to(page, area, "Drop an image file here to upload")
        page.keyboard.press("Space")
        page.locator(f"{area} img").wait_for(timeout=30_000)
    tab_to(page, "body", "Fill")
    page.keyboard.press("Enter")
    page.get_by_text("6 variants.").wait_for()
    folder = max((place / "app").glob("filled-*/variants.json"), key=lambda path: path.stat().st_mtime).parent
    with Image.open(folder / "mask.png") as used:
        np.testing.assert_array_equal(np.asarray(used), np.asarray(mask))


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
    unfold(page)
    page.get_by_text("Accuracy 0.5").wait_for()
    choose(page, "Runs")
    press(page, "Show")
    page.locator("#curves svg").first.wait_for()


@pytest.mark.parametrize(
    ("tab", "example", "seen"),
    [
        ("Debias", "zoo:debiased/scenes", "#pairs figure img"),
        ("Runs", "zoo:runs/fashion-inpaint-structure", "#curves svg"),
    ],
)
def test_an_example_is_shown_at_a_click(page: Any, tab: str, example: str, seen: str) -> None:
    choose(page, tab)
    page.locator(".gallery-item").locator("visible=true").filter(has_text=example).click()
    page.get_by_text(f"{example}: finished").wait_for()
    page.locator(seen).first.wait_for()


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
