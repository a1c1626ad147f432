"""What clicks and pages leave in the server's memory."""

from pathlib import Path

import gradio as gr
import pytest
from app_places import write_data_set
from gradio.state_holder import SessionState
from gradio_client import Client

from ui.app import build_app, launch
from ui.app_config import AppConfig
from ui.page_memory import PAGES, set_item

pytestmark = pytest.mark.filterwarnings("ignore")  # gradio's and its servers' own, in other threads


def test_clicks_leave_no_components_and_pages_are_counted(tmp_path: Path) -> None:
    write_data_set(tmp_path / "data")
    config = AppConfig(folder=tmp_path, port=0, device="cpu")
    app = build_app(config)
    try:
        client = Client(launch(app, config, wait=False), verbose=False)
        for _ in range(3):
            assert "all good" in client.predict("data", api_name="/verify")
        assert app.state_holder.capacity == PAGES
        (page,) = app.state_holder.session_data.values()
        assert page.blocks_config.blocks.keys() == app.default_config.blocks.keys()
        assert page.config_values.keys() == app.default_config.blocks.keys()
    finally:
        app.close(verbose=False)


def test_a_component_has_the_number_of_its_place() -> None:
    with gr.Blocks() as app:
        picture, state = gr.Image(), gr.State(0)
    page, copy = SessionState(app), gr.Image(render=False)
    assert copy._id != picture._id
    set_item(page, picture._id, copy)
    assert page[picture._id] is copy
    assert copy._id == picture._id
    set_item(page, state._id, 5)
    assert page[state._id] == 5
