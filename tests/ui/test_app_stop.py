"""Stop buttons: a stop is for what was started before it, in whatever order the two arrive."""

from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio.context import LocalContext

from ui.stop import PAGES, StopButton


@pytest.fixture
def stop() -> StopButton:
    with gr.Blocks():
        return StopButton()


def of_page(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """As if a click of this page were served."""
    request, variable = SimpleNamespace(session_hash=name), ContextVar[Any]("request")
    variable.set(request)
    monkeypatch.setattr(LocalContext, "request", variable)
    return request


def test_a_stop_ends_what_was_started(stop: StopButton, monkeypatch: pytest.MonkeyPatch) -> None:
    page = of_page(monkeypatch, "one")
    stop._start(1, page)
    wanted = stop.watch()
    assert wanted()
    assert stop._stop(1, page) == "Stopped: nothing is kept."
    assert not wanted()


def test_a_stop_may_arrive_first_and_later_starts_go_on(stop: StopButton, monkeypatch: pytest.MonkeyPatch) -> None:
    page = of_page(monkeypatch, "one")
    stop._stop(2, page)
    stop._start(2, page)
    assert not stop.watch()()
    stop._start(3, page)
    third = stop.watch()
    stop._stop(2, page)  # once more
    assert third()
    stop._stop(3, page)
    stop._start(4, page)
    assert not third()
    assert stop.watch()()


def test_pages_are_apart_and_programs_have_no_button(stop: StopButton, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = of_page(monkeypatch, "one"), SimpleNamespace(session_hash="other")
    stop._start(1, one)
    wanted = stop.watch()
    stop._stop(5, other)
    assert wanted()
    of_page(monkeypatch, "a program")
    assert stop.watch()()


def test_pages_that_are_gone_are_forgotten(stop: StopButton) -> None:
    for number in range(PAGES + 5):
        stop._start(1, SimpleNamespace(session_hash=f"page {number}"))  # type: ignore[arg-type]
    assert len(stop._started) == PAGES
    assert "page 0" not in stop._started
