"""What a benchmark has measured so far: JSON lines beside the table, each with the settings it was measured with."""

import json
from pathlib import Path
from typing import Any

Settings = dict[str, Any]


class Kept:
    """Figures of a long benchmark, kept as they come, so that it can be stopped, shared out and gone on with.

    A line is written in one piece: several processes may add to one file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, settings: Settings) -> dict[str, float] | None:
        """The figures measured with just these settings, if any."""
        return next(iter(self.find_all(settings)), None)

    def find_all(self, settings: Settings) -> list[dict[str, float]]:
        """All figures kept with just these settings, in their order."""
        wanted = json.loads(json.dumps(settings))
        return [line["figures"] for line in self._lines() if line["settings"] == wanted]

    def add(self, settings: Settings, figures: dict[str, float]) -> None:
        """Keep figures."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps({"settings": settings, "figures": figures}) + "\n")

    def _lines(self) -> list[dict[str, Any]]:
        text = self.path.read_text() if self.path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]
