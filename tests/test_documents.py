"""Every command in the README and the guides runs, in the order of its page, on small images and for a few steps."""

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from ui.app_config import AppConfig
from ui.cli import main
from workbench import feature_network
from workbench.command import parse
from workbench.feature_training import FeatureSettings
from workbench.records import DatasetWriter
from workbench.scenes import shapes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BRIEF = {  # options that make a documented command short; where one is given twice, the last counts
    "quickstart": "--max-train-steps 1 --train-batch-size 2 --num-images 8 --num-inference-steps 1 --size 32 "
    "--classifier-steps 1 --classifier-width 4 --classifier-seeds 1 --device cpu",
    "train": "--max-train-steps 1 --train-batch-size 2 --num-layers 1 --num-attention-heads 1 --validation-images 1 "
    "--device cpu",
    **dict.fromkeys(
        ("train inpaint", "train inpaint-vqvae", "train inpaint-structure", "train inpaint-texture"),
        "--max-train-steps 1 --train-batch-size 2 --held-out-images 2 --data path/to/images --device cpu",
    ),
    "inpaint": "--num-variants 1 --device cpu",
    "train pixel-pretrain": "--max-train-steps 1 --train-batch-size 2 --num-layers 1 --num-attention-heads 1 "
    "--device cpu",
    "sample": "--num-images 40 --num-inference-steps 1 --device cpu",
    "classify train": "--max-train-steps 1 --train-batch-size 2 --width 4 --device cpu",
    "classify eval": "--device cpu",
    "explain": "--num-masks 2 --budget 20 --num-images 1 --target top1 --device cpu",
    "caption train": "--max-train-steps 1 --train-batch-size 2 --max-images 8 --validation-images 2 --device cpu",
    "segment train": "--max-train-steps 1 --train-batch-size 2 --max-images 8 --validation-images 2 --device cpu",
    "train ttame": "--max-train-steps 1 --train-batch-size 2 --max-images 8 --device cpu",
    "datasheet": "--device cpu",
    "debias": "--max-train-steps 1 --train-batch-size 2 --width 4 --pointer-steps 2 --device cpu",
    "distill": "--resolution 16 --images-per-class 1 --width 4 --num-experts 1 --max-train-steps 1 --num-networks 1 "
    "--evaluation-epochs 1 --device cpu",
}
SCRIPTS = {"gen/train.py": "train", "gen/sample.py": "sample"}


def commands_of(page: Path) -> list[str]:
    """The lines of a page's shell blocks, continued lines joined."""
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def words_for_workbench(line: str) -> list[str] | None:
    """A documented line as words after `workbench`; None for other programs."""
    words = shlex.split(line, comments=True)
    if words[0] == "workbench":
        return words[1:]
    scripts = [k for k, word in enumerate(words) if word in SCRIPTS]
    return [SCRIPTS[words[scripts[0]]], *words[scripts[0] + 1 :]] if scripts else None


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages take for granted: a person's images."""
    pixels = np.random.default_rng(0)
    for label in ("bag", "coat"):
        folder = tmp_path / "path" / "to" / "images" / label
        folder.mkdir(parents=True)
        for number in range(12):
            Image.fromarray(pixels.integers(0, 255, (32, 24, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    write_described(tmp_path / "path" / "to" / "described")
    hole = np.zeros((40, 60), np.uint8)
    hole[10:18, 20:30] = 255
    for name, image in (("photo", pixels.integers(0, 255, (40, 60, 3), dtype=np.uint8)), ("mask", hole)):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}s").mkdir()
        Image.fromarray(image).save(tmp_path / f"{name}s" / "lake.png")
    (tmp_path / "photos").rename(tmp_path / "photographs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(feature_network, "FeatureSettings", functools.partial(FeatureSettings, max_train_steps=1))
    return tmp_path


def write_described(folder: Path) -> None:
    """A person's images with captions and masks."""
    scenes = shapes(range(24), 32)
    writer = DatasetWriter(folder, scenes.label_names, {"seed": 0})
    writer.write_shard(0, scenes.images, scenes.rows())
    writer.finish(seed=0)


def write_sonar(folder: Path) -> None:
    """Something like the sonar images of VALE's paper, and what the guide's script makes of them."""
    names = ["plane", "seafloor", "ship"]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=names)})
    pixels = np.random.default_rng(2)
    for split in ("train", "test"):
        labels = [number % 3 for number in range(18)]
        images = pixels.integers(0, 60, (18, 40, 48), dtype=np.uint8)
        images[[label != names.index("seafloor") for label in labels], 12:26, 10:36] += 180
        table = {"image": [Image.fromarray(image) for image in images], "label": labels}
        Dataset.from_dict(table, features).to_parquet(folder / f"sonar-{split}.parquet")
    script = [sys.executable, ROOT / "bench" / "sonar_described.py", "sonar-train.parquet", "sonar-test.parquet"]
    subprocess.run([*script, "--output", "runs/sonar-described"], cwd=folder, check=True)


def write_generated(folder: Path) -> None:
    """The data set that pages after the README go on from."""
    pixels = np.random.default_rng(1).integers(0, 255, (40, 32, 32), dtype=np.uint8)
    writer = DatasetWriter(folder, ("Bag", "Coat"), {"seed": 0})
    writer.write_shard(0, list(pixels), [{"label": k % 2, "source": "generated", "seed": k} for k in range(40)])
    writer.finish(seed=0)


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=lambda page: page.name)
def test_documented_commands_run(page: Path, place: Path) -> None:
    if page.name != "README.md":
        write_generated(place / "data" / "generated")
    if page.name == "explaining.md":
        write_sonar(place)
    for line in commands_of(page):
        words = words_for_workbench(line)
        if words is None:
            check_other_program(line)
        elif words[0] == "ui":
            parse(AppConfig, words[1:], "workbench ui")  # it would serve until it is stopped
        elif words[0] not in ("doctor", "env"):  # slow, and run by their own tests
            run(words)


def run(words: list[str]) -> None:
    """Run one command in this process; it must succeed."""
    extra = BRIEF.get(" ".join(words[:2])) or BRIEF.get(words[0], "")
    code = 0
    try:
        main([*words, *shlex.split(extra)])
    except SystemExit as left:
        code = int(left.code or 0)
    assert code == 0, words


def check_other_program(line: str) -> None:
    """make targets and scripts exist; the rest is the reader's own shell."""
    words = shlex.split(line, comments=True)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    if words[0] == "make":
        assert words[1] in targets, line
    elif words[0] == "python":
        assert (ROOT / words[1]).exists(), line
    else:
        assert words[0] in ("git", "cd", "source", "pip"), line
