"""`workbench explain --method vale`: what it leaves, goes on with and refuses; `workbench caption`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ui.cli import main
from workbench.classifiers import PixelClassifier, build_classifier, save_classifier


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One for 24x16 colour images of three classes, with random weights."""
    network = build_classifier("convnet", 3, 3, (24, 16), width=4, depth=2)
    wrapped = PixelClassifier.wrap(
        network, mean=0.5, std=0.05, class_names=("T-shirt/top", "bag", "coat"), size=(24, 16)
    )
    return str(save_classifier(wrapped, tmp_path_factory.mktemp("classifier"), {}))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures with something in them."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, place in enumerate((4, 14)):
        pixels = np.random.default_rng(number).integers(90, 110, (30, 40, 3), dtype=np.uint8)
        pixels[place : place + 9, 6:20] = (250, 30, 60)
        Image.fromarray(pixels).save(folder / f"picture-{number}.png")
    return folder


BRIEF = ("--device", "cpu", "--budget", "60", "--segmenter", "threshold", "--describer", "template")


def run(*words: str) -> int:
    """Exit code of the command."""
    try:
        main(list(words))
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def test_one_picture(classifier: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    words = ("explain", str(pictures / "picture-0.png"), "--classifier", classifier, "--output", str(output), *BRIEF)
    assert run(*words, "--method", "vale,centre,shap", "--target", "top2", "--why-not", "coat") == 0
    told = capsys.readouterr().out
    assert "Segmenter: " in told
    assert "Describer: template, no language model" in told
    result = json.loads((output / "vale.json").read_text())
    assert len(result["findings"]) == 2
    assert result["settings"]["budget"] == 60
    assert result["versions"]["torch"]
    for finding in result["findings"]:
        assert np.load(output / f"{finding['file']}.npy").shape == (30, 40)
    maps = json.loads((output / "explanation.json").read_text())
    assert len(maps["findings"]) == 4  # of centre and shap
    assert maps["costs"]["shap"]["forward_passes"] <= 2 * 60
    page = (output / "report.html").read_text()
    assert "statement measured" in page
    assert "centre" in page
    assert not list(tmp_path.glob("*.partial"))


def test_a_folder_goes_on_where_it_was(classifier: str, pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = ("explain", str(pictures), "--classifier", classifier, "--output", str(output), "--method", "vale", *BRIEF)
    assert run(*words, "--num-images", "1") == 0
    first = output / "picture-0" / "vale.json"
    before = first.stat().st_mtime_ns
    (output / "report.html").unlink()
    assert run(*words) == 0
    assert first.stat().st_mtime_ns == before
    assert (output / "picture-1" / "vale.json").exists()
    assert (output / "report.html").read_text().count("<h2") == 3
    assert run(*words, "--budget", "80") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--why-not", "cot"), "nearest are coat"),
        (("--budget", "3"), "10 or more"),
        (("--segmenter", "scissors"), "scissors"),
        (("--describer", "zoo:nobody"), "workbench caption train"),
        (("--describer", "."), "cannot be opened"),
        (("--target", "sock"), "no class 'sock'"),
    ],
)
def test_mistakes_are_one_sentence(
    words: tuple[str, ...],
    message: str,
    classifier: str,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(pictures)
    usual = (
        "explain",
        "picture-0.png",
        "--classifier",
        classifier,
        "--method",
        "vale",
        "--output",
        str(tmp_path / "out"),
    )
    assert run(*usual, *BRIEF, *words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_caption_train_is_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "captioned"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(np.full((16, 24, 3), 40 * number, np.uint8)).save(folder / f"{number}.png")
    rows = [{"file_name": f"{number}.png", "caption": "a gray field"} for number in range(6)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--data", str(folder), "--resolution", "16x24", "--output-dir", str(tmp_path / "run"), "--dry-run")
    assert run("caption", "train", *words) == 0
    first = capsys.readouterr().out
    assert run("train", "caption", *words) == 0
    assert capsys.readouterr().out == first
    assert "recipe: caption" in first
    assert run("caption", "train", *words, "--caption-column", "words") == 2
    assert "words" in capsys.readouterr().err
