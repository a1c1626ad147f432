"""`workbench ui`: serves the browser app until Ctrl-C."""

from collections.abc import Sequence

from ui.app_config import AppConfig
from ui.gradio_start import no_server_yet, quick_start
from workbench.command import parse, polite


def main(arguments: Sequence[str] | None = None, program: str = "workbench ui") -> None:
    """Read the settings and serve; exits with 2 after a mistake."""
    with polite():
        config: AppConfig = parse(AppConfig, arguments, program)
        config.check()
        with quick_start():
            from ui.app import build_app, launch

            with no_server_yet():
                app = build_app(config)
        launch(app, config, wait=True)
