"""What pages leave in the server's memory.

Gradio keeps what it knows of each page, of 10,000 at most. An update makes a new component in place of the page's, with
a number of its own, and what is returned next is kept under that number too: 20 kB more with every click. Here a
component has the number of the place that it takes, and fewer pages are remembered.
"""

from typing import Any

from gradio.blocks import Block
from gradio.state_holder import SessionState

PAGES = 300  # remembered at most, 0.1 MB each

_set_item = SessionState.__setitem__


def keep_places() -> None:
    """Let Gradio keep components by `set_item`, in this process."""
    SessionState.__setitem__ = set_item  # type: ignore[method-assign]


def set_item(self: SessionState, key: int, value: Any) -> None:
    """Keep a component, or the value of a State, at its place; in place of Gradio's method."""
    if isinstance(value, Block):
        value._id = key
    _set_item(self, key, value)
