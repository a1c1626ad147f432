"""The time that the stages of a job take."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Clock:
    """Seconds spent in each stage, over all calls: an interrupted job goes on counting."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def stage(self, number: str, name: str) -> Iterator[None]:
        """Announce a stage and add the time it takes."""
        print(f"{number}: {name}", flush=True)
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0) + time.perf_counter() - began, 1)
            self.path.write_text(json.dumps(self.seconds))
