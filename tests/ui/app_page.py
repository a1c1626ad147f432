"""The app's page in a real browser, and what a person does with it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt install chromium")
PATIENCE = 120_000  # milliseconds, of a busy machine
NAMED = "button|checkbox|combobox|link|radio|searchbox|slider|spinbutton|tab|textbox"
WITHOUT_NAME = re.compile(rf"^\s*- (?:{NAMED})\b(?! \").*$", re.MULTILINE)
FAINT = (Path(__file__).parent / "faint.js").read_text()
FADED = """() => Promise.allSettled(document.getAnimations()
    .filter(one => one instanceof CSSTransition).map(one => one.finished)).then(() => null)"""
WITHOUT_TEXT = """() => [...document.querySelectorAll("img")].filter(one => one.checkVisibility() && !one.alt.trim())
    .map(one => `img ${one.className} in ${one.closest("[id]")?.id}`)"""


@contextmanager
def browser_page(address: str) -> Iterator[Any]:
    """The page at an address, opened."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        yield page
        browser.close()


def choose(page: Any, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()


def fill(page: Any, label: str, value: str) -> None:
    box = page.get_by_label(re.compile(rf"^\s*{label}\b")).locator("visible=true").first  # what explains it follows
    box.fill(value)
    box.press("Enter")


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).locator("visible=true").first.click()


def unfold(page: Any) -> None:
    """Open all that is folded away."""
    closed = page.locator("button.label-wrap:not(.open)").locator("visible=true")
    while closed.count():
        closed.first.click()


def tab_to(page: Any, area: str, name: str) -> None:
    """Press the Tab key until the element of this name in this area (a selector) has the focus."""
    for _ in range(100):
        page.keyboard.press("Tab")
        if page.evaluate(
            """([area, name]) => document.activeElement.closest(area) !== null
            && (document.activeElement.ariaLabel || document.activeElement.innerText).startsWith(name)""",
            [area, name],
        ):
            return
    raise AssertionError(f"the Tab key never came to {name}")


def nameless(page: Any) -> list[str]:
    """What can be used or seen, and has no name for those who hear the page."""
    return [*WITHOUT_NAME.findall(page.locator("body").aria_snapshot()), *page.evaluate(WITHOUT_TEXT)]


def faint(page: Any, dark: bool) -> list[str]:
    """Texts whose contrast is below 4.5 (large ones: 3), and lines of plots below 3, in the light or the dark."""
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
    page.evaluate(FADED)  # colours fade into each other
    found: list[str] = page.evaluate(FAINT)
    page.evaluate("document.body.classList.remove('dark')")
    return found
