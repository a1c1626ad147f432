import numpy as np
import pytest
import yaml
from PIL import Image
from small_sets import NAMES, write_small_set

from workbench.datasheet import render_card, update_card
from workbench.errors import UserError
from workbench.records import DatasetWriter, read_dataset_info, verify


def header_of(text):
    return yaml.safe_load(text.split("---\n")[1])


def write_set(output, rows, card=None, size=(8, 5)):
    writer = DatasetWriter(output, ["cat", "dog"], {})
    writer.write_shard(0, [np.full(size, 60 * i, np.uint8) for i in range(len(rows))], rows)
    return writer.finish(card)


def test_card_says_what_is_in_the_set_and_how_it_was_made(tmp_path):
    card = (write_small_set(tmp_path / "DATA") / "README.md").read_text()
    header = header_of(card)
    assert header["task_categories"] == ["image-classification"]
    assert header["tags"] == ["synthetic", "workbench"]
    assert header["size_categories"] == ["n<1K"]
    assert "license" not in header
    assert "# DATA\n\nNoise.\n" in card
    for line in (
        "| class | train | test |",
        "| ankle boot | 4 | 1 |",
        "| b\\|ag with &lt;b> | 3 | 1 |",
        "| all | 10 | 3 |",
        "| 6 x 9 | 6 |",
        "| 10 x 7 | 7 |",
        "- Generator: zoo:small, checksum `f00d`.",
        "- Command: `workbench sample`",
        "- Seed: 3.",
        "Nothing was measured on this set.",
        "- Its quality as training data was not measured.",
        "- 13 of 13 images are not real.",
    ):
        assert line in card, line


def test_hugging_face_hub_reads_the_header(tmp_path):
    from huggingface_hub import DatasetCard

    data = write_set(tmp_path / "DATA", [{"label": 0}], {"license": "apache-2.0", "title": "Cats: a set"})
    card = DatasetCard.load(data / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.tags == ["workbench"]
    assert "# Cats: a set" in card.text


def test_a_set_of_real_images_is_not_called_synthetic(tmp_path):
    data = write_set(tmp_path / "DATA", [{"label": 0, "source": "real"}, {"label": 1, "source": "real"}])
    card = (data / "README.md").read_text()
    assert header_of(card)["tags"] == ["workbench"]
    assert "not real" not in card


def test_limits_follow_from_the_counts(tmp_path):
    rows = [{"label": 0}] * 3 + [{"label": 1}, {"label": -1}]
    card = (write_set(tmp_path / "DATA", rows, {"limits": ["Only studio light."]}) / "README.md").read_text()
    assert "- train: the classes are unbalanced, 1 to 3 images each." in card
    assert "- The source of 5 images is not stated." in card
    assert "- Only studio light." in card
    assert "| (no label) | 1 |" in card
    card = (write_set(tmp_path / "CATS", rows[:3]) / "README.md").read_text()
    assert "- train: no image of dog." in card


def test_measured_figures_are_added_later_and_the_set_stays_good(tmp_path):
    data = write_small_set(tmp_path / "DATA")
    figures = {
        "frechet_distance": {"value": 12.34567, "n": 13, "network": "convnet 0f3a", "note": "small n"},
        "coverage": 0.5,
    }
    update_card(data, measured=figures)
    card = (data / "README.md").read_text()
    assert "| frechet_distance | 12.35 | 13 | convnet 0f3a | small n |" in card
    assert "| coverage | 0.5 | not stated | not stated |  |" in card
    assert "Nothing was measured" not in card
    assert "was not measured" not in card
    assert "Noise." in card
    assert read_dataset_info(data)["card"]["measured"] == figures
    assert card == render_card(read_dataset_info(data))
    assert verify(data).ok


def test_unknown_entries_are_named(tmp_path):
    data = write_small_set(tmp_path / "DATA")
    with pytest.raises(UserError, match="no entry 'licence': choose from title, description, license"):
        update_card(data, licence="mit")
    with pytest.raises(UserError, match="no entry 'licence'"):
        write_set(tmp_path / "OTHER", [{"label": 0}], {"licence": "mit"})


def test_the_loading_example_runs(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = write_small_set(tmp_path / "DATA")
    example = (data / "README.md").read_text().split("```python\n")[1].split("```")[0]
    scope = {}
    exec(example.replace("THIS_FOLDER", str(data)), scope)
    assert scope["dataset"].features["label"].names == list(NAMES)
    assert len(scope["dataset"]) == 10


def test_grid_shows_each_class_in_its_own_pixels(tmp_path):
    red, blue = np.zeros((3, 100, 40), np.uint8), np.zeros((3, 2, 3), np.uint8)
    red[0], blue[2] = 255, 255
    writer = DatasetWriter(tmp_path / "DATA", ["red", "blue"], {})
    writer.write_shard(0, [red, blue, blue], [{"label": 0}, {"label": 1}, {"label": 1}])
    with Image.open(writer.finish() / "grid.png") as grid:
        pixels = np.asarray(grid.convert("RGB")).reshape(2, 100, -1, 3)  # two rows of classes, 96 + 4 high
    is_red, is_blue = (pixels == (255, 0, 0)).all(-1), (pixels == (0, 0, 255)).all(-1)
    assert is_red[0].any(0).sum() == 38  # 100 x 40 is shown as 96 x 38
    assert is_red[0].any(1).sum() == 96
    assert is_blue[1].any(0).sum() == 2 * 63  # 2 x 3, each pixel 21 wide
    assert is_blue[1].any(1).sum() == 42
    assert not is_red[1].any()
    assert not is_blue[0].any()


def test_grid_does_not_become_an_example(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    data = write_set(tmp_path / "DATA", [{"label": 0}, {"label": 1}])
    assert (data / "grid.png").exists()
    loaded = datasets.load_dataset("imagefolder", data_dir=str(data), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 2}
