"""Long work behind a click: with progress, one model at a time, and stopped for good when its generator is closed."""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from html import escape
from typing import Any, Generic, TypeVar

import gradio as gr
from gradio.context import LocalContext

from ui.shelf import Shelf
from ui.stop import StopButton
from workbench.errors import UserError

Result = TypeVar("Result")
Report = Callable[[float, str], None]  # share that is done, what is being done; raises Stopped

HEARTBEAT = 0.2  # seconds
MODELS = threading.Lock()  # one model works at a time, whatever page asks


class Stopped(Exception):
    """Nobody waits for the result any more."""


class Job(Generic[Result]):
    """Work in a thread of its own; it begins when `turn` can be had."""

    def __init__(self, work: Callable[[Report], Result], turn: AbstractContextManager[Any]) -> None:
        self.work, self.turn = work, turn
        self.latest = (0.0, "waiting for another click's work to end")
        self.stop, self.done = threading.Event(), threading.Event()
        self.value: Result | None = None
        self.error: BaseException | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def report(self, share: float, text: str) -> None:
        """Say how far the work is; raises Stopped when it should end."""
        if self.stop.is_set():
            raise Stopped
        self.latest = (min(share, 1.0), text)

    def result(self) -> Result:
        """What the work returned, or what it raised."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]

    def _run(self) -> None:
        try:
            with self.turn:
                self.report(0.0, "opening")
                self.value = self.work(self.report)
        except BaseException as error:  # handed to whoever waits
            self.error = error
        finally:
            self.done.set()


def follow(
    work: Callable[[Report], Result],
    progress: gr.Progress,
    shelf: Shelf,
    stop: StopButton | None = None,
    turn: AbstractContextManager[Any] = MODELS,
) -> Generator[Any, None, Result]:
    """Let an event wait for `work`, at each heartbeat showing how far it is; `result = yield from follow(...)`.

    Gradio closes the event's generator when it is cancelled or its page is gone: then the work ends at its next report.
    It knows the generator from its first value on, so the work begins after that; a cancel that came before is seen by
    nobody waiting any more, or by the page's `stop`.
    """
    awaited = _whether_awaited(stop)
    yield gr.skip()
    _require(awaited)
    job = Job(work, turn)
    try:
        while not job.done.wait(HEARTBEAT):
            _require(awaited)
            progress(job.latest[0], desc=job.latest[1])
            yield gr.skip()
        return sentence(job.result, shelf)
    finally:
        job.stop.set()


def _whether_awaited(stop: StopButton | None) -> Callable[[], bool]:
    """Tells whether somebody still waits for the event that this is called in; always so outside of one."""
    event, blocks = LocalContext.event_id.get(None), LocalContext.blocks.get(None)
    if event is None or blocks is None:
        return lambda: True
    waiting = blocks._queue.pending_event_ids_session  # event numbers of each session
    wanted = stop.watch() if stop is not None else lambda: True
    return lambda: wanted() and any(event in events for events in list(waiting.values()))


def _require(awaited: Callable[[], bool]) -> None:
    if not awaited():
        raise gr.Error("stopped", visible=False, print_exception=False)


@contextmanager
def reporting_passes(network: Any, report: Report) -> Iterator[None]:
    """Make each forward pass of a network a report, at which its work may end."""
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1
        report(passes / (passes + 50), f"{passes} forward passes")  # how many there will be, no method says before

    handle = network.register_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()


def sentence(work: Callable[[], Result], shelf: Shelf) -> Result:
    """Its result; a person's mistake becomes the page's message, as text without the places of this machine."""
    try:
        return work()
    except UserError as error:
        raise gr.Error(escape(shelf.told(str(error)), quote=False), print_exception=False) from error
