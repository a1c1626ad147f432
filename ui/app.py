"""The browser app: one tab a file, one model at a time, nothing opened but what the shelf lists.

    app = build_app(config)
    address = launch(app, config, wait=False)

No model is opened, and torch is not imported, before the first click.
"""

import importlib
import os
from typing import Any

import gradio as gr

from ui import processes
from ui.app_config import AppConfig
from ui.page_memory import PAGES, keep_places
from ui.picture_cache import keep_pictures_whole
from ui.shelf import RESULTS, Shelf
from ui.theme import CSS, NAMES, theme
from ui.uploads import limit_decoders
from workbench.errors import UserError

TABS = {
    "Generate": "generate",
    "Data sets": "browse",
    "Explain": "explain",
    "Inpaint": "inpaint",
    "Debias": "debias",
    "Distil": "distill",
    "Runs": "runs",
}
HOUR = 3600


def build_app(config: AppConfig) -> gr.Blocks:
    """The page with all its tabs."""
    shelf = Shelf(config.folder.resolve())
    with gr.Blocks(title="Workbench", analytics_enabled=False, delete_cache=(HOUR, 24 * HOUR)) as app:
        gr.Markdown("# Workbench\nGenerate, browse, explain, fill, debias, distil: images for training classifiers.")
        with gr.Tabs() as tabs:
            for title, module in TABS.items():
                with gr.Tab(title, id=module):
                    importlib.import_module(f"ui.tabs.{module}").build(shelf, config)
        app.load(linked_tab, None, tabs, api_visibility="private")
    for block in app.blocks.values():
        if isinstance(buttons := getattr(block, "buttons", None), list):  # one would put a picture on a public site
            block.buttons = [button for button in buttons if button != "share"]
    app.queue(max_size=config.max_waiting, default_concurrency_limit=4)
    return app


def linked_tab(request: gr.Request) -> Any:
    """The tab that the page's address asks for, as in /?tab=explain."""
    wanted = request.query_params.get("tab")
    return gr.Tabs(selected=wanted) if wanted in TABS.values() else gr.skip()


def launch(app: gr.Blocks, config: AppConfig, wait: bool) -> str:
    """Serve the page, and return its address; without `wait` at once. Raises UserError where that cannot be."""
    results = config.folder.resolve() / RESULTS
    results.mkdir(exist_ok=True)
    limit_decoders(config.max_image_pixels)
    keep_pictures_whole()
    keep_places()
    os.environ.setdefault("GRADIO_RUN_HISTORY", "False")  # the browser would keep what was uploaded and made
    options: dict[str, Any] = {"footer_links": ["api", "settings"], "theme": theme(), "css": CSS, "head": NAMES}
    try:
        _, address, _ = app.launch(
            server_name=config.host, server_port=config.port or None, share=config.share, auth=config.accounts(),
            inbrowser=config.browser, mcp_server=config.mcp, allowed_paths=[str(results)], ssr_mode=False,
            max_file_size=config.max_upload_megabytes * 2**20, prevent_thread_lock=True, strict_cors=True,
            enable_monitoring=False, quiet=True, show_error=False, state_session_capacity=PAGES, **options,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"the port {config.port} cannot be had ({error}); give another --port") from error
    if wait:
        print(f"Open {address} (Ctrl-C ends it). Results go to {results}", flush=True)
        try:
            app.block_thread()
        finally:
            processes.stop_all()
    return str(address)
