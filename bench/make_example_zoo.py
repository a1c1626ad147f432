"""Put finished results into the zoo, which the browser app shows in a folder that has none yet.

    python bench/make_example_zoo.py debias runs/planted zoo/debiased/scenes
    python bench/make_example_zoo.py keep runs/inpaint-fashion/structure zoo/runs/fashion-inpaint-structure

`debias` makes planted scenes, a classifier that relies on their backgrounds, and its debiasing first, unless they are
there; `keep` takes a training run as it is. What the page does not show is left behind.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from workbench.files import publish_folder
from workbench.planted import planted
from workbench.records import DatasetWriter

SCENES = {"train": 240, "test": 300}
SIZE = 32
COMMANDS = (
    "classify train --data scenes --output classifier --width 16 --max-train-steps 150",
    "debias scenes --classifier classifier --output debiased --group-column background --max-images-per-class 100 "
    "--width 16 --max-train-steps 150",
)
SHOWN = {
    "debias": ("features.json", "edits.parquet", "manifest.json", "report.html", "augmented"),
    "keep": ("config.yaml", "metrics.jsonl", "finished.json", "samples"),
}


def main() -> None:
    """Write the folder; an older one of the same name is replaced."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=SHOWN)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    result = debiased(options.run) if options.kind == "debias" else options.run
    partial = options.folder.with_name(options.folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in SHOWN[options.kind]:
        source = result / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, partial / name)
    publish_folder(partial, options.folder)


def debiased(folder: Path) -> Path:
    """A finished debiasing of planted scenes below a folder."""
    if not (folder / "scenes").exists():
        write_scenes(folder / "scenes")
    for words in COMMANDS:
        subprocess.run([sys.executable, "-m", "ui.cli", *words.split()], cwd=folder, check=True)
    return folder / "debiased"


def write_scenes(folder: Path) -> None:
    """Items on photographs of grass and gravel, which follow the class in nearly all training images."""
    splits = {split: planted(range(count), size=SIZE, split=split) for split, count in SCENES.items()}
    writer = DatasetWriter(folder, splits["train"].label_names, {"scenes": "planted"})
    for split, scenes in splits.items():
        writer.write_shard(0, scenes.images, scenes.rows(), split)
    writer.finish(seed=0)


if __name__ == "__main__":
    main()
