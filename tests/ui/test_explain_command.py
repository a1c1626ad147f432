"""`workbench explain`: what it leaves, goes on with and refuses."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from explain.saliency import METHODS
from ui.cli import main
from ui.explain import ExplainConfig
from workbench.classifiers import PixelClassifier, build_classifier, save_classifier


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One for 24x16 gray images of three classes, with random weights."""
    network = build_classifier("convnet", 3, 1, (24, 16), width=4, depth=2)
    names = ("T-shirt/top", "bag", "coat, long")
    wrapped = PixelClassifier.wrap(network, mean=0.5, std=0.25, class_names=names, size=(24, 16))
    return str(save_classifier(wrapped, tmp_path_factory.mktemp("classifier"), {}))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A colour picture of 30x40 pixels, and a gray one of the same stem."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = np.random.default_rng(0)
    Image.fromarray(pixels.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(folder / "one.png")
    Image.fromarray(pixels.integers(0, 255, (24, 16), dtype=np.uint8)).save(folder / "one.bmp")
    return folder


BRIEF = ("--method", "gradcam,rise", "--num-masks", "8", "--device", "cpu", "--target", "top2")


def run(*words: str) -> int:
    """Exit code of the command."""
    try:
        main(["explain", *words])
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def test_one_picture(classifier: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    words = (str(pictures / "one.png"), "--classifier", classifier, "--output", str(output), *BRIEF)
    assert run(*words) == 0
    assert str(output / "report.html") in capsys.readouterr().out
    result = json.loads((output / "explanation.json").read_text())
    assert {row["method"] for row in result["findings"]} == {"gradcam", "rise"}
    for row in result["findings"]:
        assert np.load(output / f"{row['file']}.npy").shape == (30, 40)
        assert (output / f"{row['file']}.png").exists()
    assert "<img" in (output / "report.html").read_text()
    assert not list(tmp_path.glob("*.partial"))
    assert run(*words) == 2
    assert "--overwrite" in capsys.readouterr().err
    (output / "report.html").unlink()
    before = (output / "explanation.json").stat().st_mtime_ns
    assert run(*words) == 0  # the page alone was missing
    assert (output / "explanation.json").stat().st_mtime_ns == before
    assert run(*words, "--seed", "5") == 2
    assert "other settings (seed)" in capsys.readouterr().err
    assert run(*words, "--seed", "5", "--overwrite") == 0


def test_a_folder_goes_on_where_it_was(classifier: str, pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = (str(pictures), "--classifier", classifier, "--output", str(output), *BRIEF)
    assert run(*words, "--num-images", "1") == 0
    first = next(output.glob("one*/explanation.json"))
    before = first.stat().st_mtime_ns
    (output / "report.html").unlink()
    assert run(*words) == 0
    assert first.stat().st_mtime_ns == before
    assert sorted(path.parent.name for path in output.glob("*/explanation.json")) == ["one.bmp", "one.png"]
    summary = json.loads((output / "explanation.json").read_text())
    assert [row["method"] for row in summary["methods"]] == ["gradcam", "rise"]
    assert (output / "report.html").read_text().count("<h2") == 3


def test_classes_by_name_with_a_comma_in_it(classifier: str, pictures: Path, tmp_path: Path) -> None:
    words = (str(pictures / "one.bmp"), "--classifier", classifier, "--method", "centre", "--device", "cpu")
    assert run(*words, "--output", str(tmp_path / "a"), "--target", "coat, long") == 0
    assert (tmp_path / "a" / "centre-coat-long.npy").exists()
    assert run(*words, "--output", str(tmp_path / "b"), "--target", "bag,T-shirt/top,2") == 0
    assert len(list((tmp_path / "b").glob("*.npy"))) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "gradcm"), "did you mean 'gradcam'"),
        (("--method", ","), "names nothing"),
        (("--method", "ttame"), "workbench train ttame"),
        (("--target", "sock"), "no class 'sock'"),
        (("--target", "7"), "from 0 to 2"),
        (("--keep", "1.5"), "between 0 and 1"),
        (("--method", "gradcam", "--layer", "nowhere"), "'nowhere' is no layer"),
        (("--classifier", "nothing"), "no folder and no classifier"),
        (("--method", "rollout"), "choose another method"),
    ],
)
def test_mistakes_are_one_sentence(
    words: tuple[str, ...],
    message: str,
    classifier: str,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usual = ("--classifier", classifier, "--method", "centre", "--device", "cpu", "--output", str(tmp_path / "out"))
    assert run(str(pictures / "one.bmp"), *usual, *words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_pictures_that_cannot_be_read(classifier: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    usual = ("--classifier", classifier, "--method", "centre", "--device", "cpu", "--output", str(tmp_path / "out"))
    assert run(str(tmp_path / "broken.png"), *usual) == 2
    assert "broken.png" in capsys.readouterr().err
    assert run(str(tmp_path / "nowhere.png"), *usual) == 2
    assert "nowhere.png" in capsys.readouterr().err


def test_other_peoples_files_are_left_alone(
    classifier: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("...")
    words = ("--classifier", classifier, "--method", "centre", "--device", "cpu", "--output", str(tmp_path / "out"))
    assert run(str(pictures / "one.bmp"), *words) == 2
    assert "no explanations" in capsys.readouterr().err
    assert (tmp_path / "out" / "thesis.tex").exists()


def test_help_names_every_method() -> None:
    named = set(re.findall(r"[\w+]+", ExplainConfig.__doc__ or ""))
    assert set(METHODS) <= named
