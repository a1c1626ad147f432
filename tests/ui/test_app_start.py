"""How the app is started: quickly, from a file alone on a server, and with something to look at in an empty folder."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ui.app import TABS, build_app
from ui.app_config import AppConfig
from ui.shelf import ZOO, Shelf, require_own
from workbench.errors import UserError

PAGE = Path(__file__).parents[2] / "docs" / "app.md"
PATIENCE = 120
HERE = Shelf(Path())
QUICKLY = """
import gc, inspect, sys
from ui.gradio_start import COMPONENTS, WRITER, no_server_yet, quick_start
finders = list(sys.meta_path)
with quick_start():
    assert not gc.isenabled()
    import gradio
assert gc.isenabled() and gc.get_freeze_count() > 0 and sys.meta_path == finders
component_meta = sys.modules[COMPONENTS]
assert f"def {WRITER}(" in inspect.getsource(component_meta), "Gradio has no such function any more"
assert getattr(component_meta, WRITER).__module__ == "ui.gradio_start"
with no_server_yet(), gradio.Blocks() as page:
    gradio.Button().click(print)
assert page.app is None, "Gradio makes its servers elsewhere now"
page.launch(prevent_thread_lock=True, quiet=True)
assert page.app is not None
page.close()
"""


def test_gradio_is_loaded_without_writing_stubs() -> None:
    answer = subprocess.run([sys.executable, "-c", QUICKLY], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


# ---- app.py ----------------------------------------------------------------------------------------------------------


@contextmanager
def running(folder: Path, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """Python with these words in a folder, as a server starts it; ended in the end."""
    process = subprocess.Popen([sys.executable, *words], cwd=folder, text=True, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answer_of(port: int, process: "subprocess.Popen[str]") -> dict[str, Any]:
    """The page's settings, once it is served."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            return dict(httpx.get(f"http://127.0.0.1:{port}/config", timeout=PATIENCE).json())
        except httpx.ConnectError:
            time.sleep(0.1)
    raise AssertionError(process.communicate()[1])


def test_the_documented_file_serves_the_app(tmp_path: Path) -> None:
    """As it stands in the guide, but for the port, which may be taken."""
    (text,) = re.findall(r"```python\n(from ui\.serve .*?)```", PAGE.read_text(), re.DOTALL)
    assert '"0.0.0.0"' in text
    port = free_port()
    (tmp_path / "app.py").write_text(text.replace('"0.0.0.0"', f'"127.0.0.1", "--port", "{port}"'))
    with running(tmp_path, "app.py") as process:
        assert answer_of(port, process)["title"] == "Workbench"
        assert list((tmp_path / "app").iterdir()) == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 143


# ---- an empty folder -------------------------------------------------------------------------------------------------


def kinds_below(layout: dict[str, Any], kinds: dict[int, str]) -> set[str]:
    """Kinds of all that is laid out in a part of the page."""
    below = (kinds_below(child, kinds) for child in layout.get("children") or [])
    return {kinds[layout["id"]]}.union(*below)


def test_every_tab_has_examples_in_an_empty_folder(tmp_path: Path) -> None:
    config: dict[str, Any] = dict(build_app(AppConfig(folder=tmp_path)).get_config_file())
    kinds = {one["id"]: one["type"] for one in config["components"]}
    (tabs,) = (part for part in config["layout"]["children"] if kinds[part["id"]] == "tabs")
    assert len(tabs["children"]) == len(TABS)
    assert [kinds[tab["id"]] for tab in tabs["children"] if "dataset" not in kinds_below(tab, kinds)] == []


def test_what_comes_with_the_workbench_is_never_gone_on_with(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for offered in (shelf.debiasings(), shelf.runs(), shelf.distilled_sets()):
        assert offered
        for name, folder in offered.items():
            with pytest.raises(UserError, match=f"{name} comes with the workbench"):
                require_own(Path(folder), name)
    require_own(tmp_path / "run", "run")


@pytest.mark.parametrize("name", ["debiased/scenes", "runs/fashion-inpaint-structure"])
def test_examples_are_small_and_name_no_place_of_the_machine_that_made_them(name: str) -> None:
    files = [path for path in (ZOO / name).rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) < 4e6
    for path in files:
        if path.suffix in (".json", ".jsonl", ".yaml", ".md"):
            assert HERE.told(path.read_text()) == path.read_text(), path
