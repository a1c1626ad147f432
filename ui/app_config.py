"""Settings of `workbench ui`. Light (no torch, no gradio), because `--help` reads it."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import tyro

from workbench.config import Device, require
from workbench.errors import UserError


@dataclass(kw_only=True)
class AppConfig:
    """Open the workbench in a browser: generate, browse, explain, inpaint, distil, and watch runs.

    workbench ui
    workbench ui runs --port 8000 --browser

    Models, data sets and runs are those of the zoo and of FOLDER; what is made is written to FOLDER/app. The page is
    for this machine alone unless --host says otherwise.
    """

    folder: tyro.conf.Positional[Path] = Path()
    """The folder that is served: nothing outside it can be named, but for the zoo."""
    port: int = 7860
    """0 takes a free one."""
    host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 is every one of this machine: set --auth-file with it."""
    auth_file: Path | None = None
    """A file with NAME:PASSWORD in each line: who may come in."""
    share: bool = False
    """Also a public address, through Gradio's servers: set --auth-file with it."""
    mcp: bool = False
    """Also offer each action to programs by the Model Context Protocol; needs the package gradio[mcp]."""
    browser: bool = False
    """Open the page in this machine's browser."""
    max_upload_megabytes: int = 32
    """Refuse larger files."""
    max_image_pixels: int = 16_000_000
    """Refuse pictures with more pixels than this."""
    max_images: int = 64
    """The most images or variants that one click may ask for."""
    max_waiting: int = 32
    """The most clicks that wait for their turn."""
    device: Device = "auto"

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        require(self, "max_upload_megabytes max_image_pixels max_images max_waiting", lambda n: n >= 1, "1 or more")
        require(self, "port", lambda port: 0 <= port < 65536, "0 to 65535")
        if not self.folder.is_dir():
            raise UserError(f"{self.folder} is no folder; give the one that holds your runs and data sets")
        if self.mcp and find_spec("mcp") is None:
            raise UserError("--mcp needs a package that is not installed; run: pip install 'gradio[mcp]'")

    def accounts(self) -> list[tuple[str, str]] | None:
        """Names and passwords. Raises UserError where the file has none."""
        if self.auth_file is None:
            return None
        try:
            lines = self.auth_file.read_text().split()
        except OSError as error:
            raise UserError(f"{self.auth_file} cannot be read ({error.strerror}); write NAME:PASSWORD to it") from error
        pairs = [(name, password) for name, _, password in (line.partition(":") for line in lines)]
        if not pairs or not all(name and password for name, password in pairs):
            raise UserError(f"{self.auth_file} is not a list of NAME:PASSWORD, one in a line; mend it")
        return pairs
