"""`workbench inpaint`: what it writes, how it goes on, and what it refuses."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "gen"))

from tiny_inpaint_pipelines import tiny_pipeline, tiny_texture

from ui.cli import main
from workbench.files import sha256_file

SIZE = (20, 30)
MASK = np.zeros(SIZE, np.uint8)
MASK[5:10, 8:16] = 255


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A trained pipeline, three pictures, and a mask for each."""
    tiny_pipeline().save_pretrained(tmp_path / "pipeline")
    random = np.random.default_rng(0)
    for folder in ("pictures", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(tmp_path / "pictures" / f"{name}.png")
        Image.fromarray(MASK).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def code_of(*words: object) -> int:
    try:
        main(["inpaint", *map(str, words), "--device", "cpu"])
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_one_picture(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, mask, output = place / "pictures" / "a.png", place / "masks" / "a.png", place / "filled"
    words = (picture, "--mask", mask, "--pipeline", place / "pipeline", "--output", output, "--num-variants", 3)
    assert code_of(*words, "--seed", 4) == 0
    names = {f"{kind}-{number:02d}.png" for kind in ("variant", "structure") for number in range(3)}
    assert {path.name for path in output.iterdir()} == names | {"variants.json"}
    record = json.loads((output / "variants.json").read_text())
    assert (record["height"], record["width"]) == SIZE
    assert [variant["seed"] for variant in record["variants"]] == [4, 5, 6]
    assert record["settings"]["num_variants"] == 3
    assert len(record["generator"]) == 64
    variants = [pixels(output / variant["file"]) for variant in record["variants"]]
    for variant in variants:
        np.testing.assert_array_equal(variant[MASK == 0], pixels(picture)[MASK == 0])
    assert not np.array_equal(variants[0], variants[1])
    assert code_of(*words, "--seed", 4) == 2
    assert "has all completions already; give --overwrite" in capsys.readouterr().err
    assert code_of(*words, "--seed", 5) == 2
    assert "completions of other settings (seed)" in capsys.readouterr().err
    assert code_of(*words, "--seed", 5, "--overwrite") == 0
    np.testing.assert_array_equal(pixels(output / "variant-00.png"), variants[1])


def test_a_gray_model_says_what_it_does_to_colours(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.open(place / "pictures" / "a.png").convert("L").save(place / "gray.png")
    words = ("--mask", place / "masks" / "a.png", "--pipeline", place / "pipeline", "--num-variants", 1)
    assert code_of(place / "pictures", *words, "--output", place / "colours") == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1  # of three pictures
    assert "seen gray pictures alone, so each colour channel is filled by itself" in notes[0]
    assert json.loads((place / "colours" / "a" / "variants.json").read_text())["notes"][0] in notes[0]
    assert code_of(place / "gray.png", *words, "--output", place / "gray") == 0
    assert "note:" not in capsys.readouterr().err


def test_more_like_an_earlier_one(place: Path) -> None:
    words = (place / "pictures" / "a.png", "--mask", place / "masks" / "a.png", "--pipeline", place / "pipeline")
    assert code_of(*words, "--num-variants", 3, "--output", place / "filled") == 0
    like = ("--like", place / "filled" / "variants.json", "--like-variant", 2, "--keep", 1)
    assert code_of(*words, *like, "--num-variants", 1, "--seed", 9, "--output", place / "more") == 0
    np.testing.assert_array_equal(
        pixels(place / "more" / "variant-00.png"), pixels(place / "filled" / "variant-02.png")
    )


def test_a_folder_of_pictures_goes_on_where_it_was(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--pipeline", place / "pipeline", "--output", place / "filled", "--num-variants", 1)
    (place / "masks" / "b.png").write_text("no mask")
    assert code_of(place / "pictures", "--mask", place / "masks", *words) == 2
    assert "b.png cannot be read" in capsys.readouterr().err
    first = place / "filled" / "a" / "variant-00.png"
    before = sha256_file(first), first.stat().st_mtime_ns
    Image.fromarray(MASK).save(place / "masks" / "b.png")
    assert code_of(place / "pictures", "--mask", place / "masks", *words) == 0
    assert sorted(path.name for path in (place / "filled").iterdir()) == ["a", "b", "c"]
    assert (sha256_file(first), first.stat().st_mtime_ns) == before


def test_one_mask_for_all_pictures(place: Path) -> None:
    words = (place / "pictures", "--mask", place / "masks" / "a.png", "--pipeline", place / "pipeline")
    assert code_of(*words, "--output", place / "filled", "--num-variants", 1) == 0
    assert len(list((place / "filled").rglob("variant-*.png"))) == 3


def test_other_methods_behind_the_same_command(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_texture(structure_dim=0).save_pretrained(place / "single" / "texture")
    words = (place / "pictures" / "a.png", "--mask", place / "masks" / "a.png", "--pipeline", place / "single")
    assert code_of(*words, "--output", place / "filled") == 0
    record = json.loads((place / "filled" / "variants.json").read_text())
    assert record["variants"] == [{"file": "variant-00.png", "seed": 0}]
    assert record["generator"] is None
    assert code_of(*words, "--output", place / "hot", "--temperature", 0.5) == 2
    assert "--temperature is for pipelines of diverse inpainting" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["pictures/a.png", "--mask", "masks/nothing.png"], "nothing.png cannot be read"),
        (["pictures/nothing.png", "--mask", "masks/a.png"], "nothing.png cannot be read"),
        (["pictures", "--mask", "empty"], "empty holds no mask named a"),
        (["empty", "--mask", "masks/a.png"], "empty holds no pictures"),
        (["pictures/a.png", "--mask", "masks/a.png", "--mode", "fast"], "this model has no fast mode"),
        (["pictures/a.png", "--mask", "masks/a.png", "--invert-mask"], "the hole covers"),
        (["pictures/a.png", "--mask", "masks/a.png", "--pipeline", "nowhere"], "nowhere is not a trained pipeline"),
        (["pictures", "--mask", "masks", "--like", "variants.json"], "--like is for one picture"),
        (["pictures/a.png", "--mask", "masks/a.png", "--like", "variants.json"], "variants.json has no variant 0"),
        (["pictures/a.png", "--mask", "masks/a.png", "--output", "masks"], "masks holds files that are no completions"),
    ],
)
def test_mistakes_are_one_sentence(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(place)
    (place / "empty").mkdir()
    assert code_of("--pipeline", "pipeline", "--output", "filled", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sentence in error
    assert not list((place / "filled").rglob("*.png"))
