"""A tab's Stop button: it ends whatever was clicked before it, even what the server has not heard of yet.

Gradio's own cancel needs the number that the server gives an event, and does nothing while the page waits for that. So
the page counts the clicks that start work, and tells the count with each of them and with each stop, in whatever order
these arrive.
"""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.context import LocalContext

COUNT = "() => [window.startedWork = (window.startedWork ?? 0) + 1]"
COUNTED = "() => [window.startedWork ?? 0]"
PAGES = 1000  # remembered at most
STOPPED = "Stopped: nothing is kept."


class StopButton:
    """A button of a tab, laid out where it is made."""

    def __init__(self, **options: Any) -> None:
        self.button = gr.Button("Stop", **options)
        self._count = gr.Number(0, visible=False, precision=0, label="Clicks")
        self._started: dict[str, int] = {}  # of each page, the count at its newest start
        self._stopped: dict[str, int] = {}  # and at its newest stop

    def counts(self, starts: Sequence[Any]) -> None:
        """Count these events. To be called before work is attached to them: the page runs what it has in that order."""
        gr.on(
            starts, self._start, self._count, None, js=COUNT, queue=False, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip

    def ends(self, events: Sequence[Any], told: Any) -> None:
        """Let a click end the work of these events, and say so in `told`."""
        self.button.click(
            self._stop, self._count, told, js=COUNTED, cancels=list(events), queue=False, api_visibility="private"
        )

    def watch(self) -> Callable[[], bool]:
        """Tells whether the event that this is called in has not been stopped; always so outside of a page."""
        page = _page(LocalContext.request.get(None))
        number = self._started.get(page, 0)
        return lambda: number > self._stopped.get(page, -1)

    def _start(self, count: int, request: gr.Request) -> None:
        _remember(self._started, _page(request), count)

    def _stop(self, count: int, request: gr.Request) -> str:
        _remember(self._stopped, _page(request), count)
        return STOPPED


def _page(request: gr.Request | None) -> str:
    return (request.session_hash if request is not None else None) or ""


def _remember(counts: dict[str, int], page: str, count: int) -> None:
    """Keep the largest count of a page, and forget pages that were not heard of for long where there are too many."""
    counts[page] = max(count, counts.pop(page, 0))
    while len(counts) > PAGES:
        del counts[next(iter(counts))]
