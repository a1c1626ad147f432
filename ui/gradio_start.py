"""Gradio in half the time: without its stubs for editors, looking for garbage while nothing is thrown away, and spare
servers.

Whenever it is imported, Gradio parses the source of each of its components and writes a stub (.pyi) beside it, which
only an editor reads: 1.0 of 2.3 seconds of work. Python's collector takes another 0.4. While a page is described, three
servers are made and thrown away, 0.3 seconds; `launch` makes the one that serves.
"""

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

COMPONENTS, WRITER = "gradio.component_meta", "create_or_modify_pyi"


@contextmanager
def quick_start() -> Iterator[None]:
    """Import Gradio and build a page in this block; what it makes is never looked at again by the collector."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        sys.meta_path.remove(finder)


@contextmanager
def no_server_yet() -> Iterator[None]:
    """Describe a page in this block; it can be served after it."""
    from gradio.routes import App

    create = vars(App)["create_app"]
    App.create_app = staticmethod(lambda *_, **__: None)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        App.create_app = create  # type: ignore[method-assign]


class _Finder(MetaPathFinder):
    """Finds the module that makes components, where it is."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What Python finds; loaded without the writer of stubs."""
        spec = PathFinder.find_spec(fullname, path) if fullname == COMPONENTS else None
        if spec is not None and spec.origin is not None:
            spec.loader = _WithoutStubs(fullname, spec.origin)
        return spec


class _WithoutStubs(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        setattr(module, WRITER, lambda *_: None)
