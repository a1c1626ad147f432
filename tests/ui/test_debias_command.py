"""`workbench debias`: what it leaves, goes on with and refuses, with a classifier that sees backgrounds alone."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from augment_synth.edit_log import read_edits
from gen.rpe2d.pipeline import RPE2DPipeline, make_scheduler
from gen.rpe2d.transformer import RPE2DTransformer2DModel
from ui.cli import main
from workbench.records import DatasetWriter, read_rows, verify

NAMES = ("bag", "boot")
JUDGE = """
import torch
from torch import nn
from workbench.pixel_classifier import PixelClassifier

class Corner(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, pixels):
        green = pixels[:, 1, 0, 0] - pixels[:, 0, 0, 0]
        return self.scale * torch.stack([green - 0.2, 0.2 - green], 1)

def judge():
    return PixelClassifier.wrap(Corner(), mean=(0.0,) * 3, std=(1.0,) * 3, class_names=("bag", "boot"), size=(20, 16))
"""


def write_set(folder: Path, captions: bool = True) -> Path:
    """A red bag mostly on grass, a blue boot mostly on gravel, in many tints."""
    writer = DatasetWriter(folder, NAMES, {"toy": 1, "captions": captions})
    for split, count in (("train", 60), ("test", 20)):
        writer.missing_shards(count, split)
        images, rows = [], []
        for position in range(count):
            label = position % 2
            place = ("grass", "gravel")[label if position % 20 > 1 else 1 - label]
            draws = torch.Generator().manual_seed(position)
            colour = torch.tensor({"grass": (40, 160, 40), "gravel": (120, 120, 120)}[place])[:, None, None]
            tint = torch.randint(-20, 20, (3, 1, 1), generator=draws)
            image = colour + tint + torch.randint(0, 9, (3, 20, 16), generator=draws)
            image[:, 6:13, 5:11] = torch.tensor([(220, 20, 20), (20, 20, 220)][label])[:, None, None]
            mask = torch.zeros(20, 16, dtype=torch.bool)
            mask[6:13, 5:11] = True
            row = {"label": label, "place": place, "mask": mask}
            rows.append(row | ({"caption": f"a {NAMES[label]} on {place}"} if captions else {}))
            images.append(image.byte())
        writer.write_shard(0, images, rows, split)
    return writer.finish()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The data set, and the classifier's SPEC."""
    folder = tmp_path_factory.mktemp("debias")
    (folder / "judge.py").write_text(JUDGE)
    return str(write_set(folder / "data")), f"{folder / 'judge.py'}:judge"


MEASURED = ("least_change", "p_given")
PROVENANCE = {
    "real": ("parent", "parent_sha256", "caption", "extractor_raw", "background"),
    "edited": (
        "parent", "parent_sha256", "parent_caption", "background", "removed_feature", "feature_kind", "replaced_by",
        "seed", "editor", "editor_kind", "editor_version", "p_before", "p_after", "pred_before", "pred_after",
        "flipped", "label_change", *MEASURED,
    ),
    "generated": (
        "generator", "generator_hash", "seed", "guidance_scale", "num_inference_steps", "generated_height",
        "generated_width", "concept_token", "concept_sha256", "concept_edits", "removed_feature", "editor",
        "editor_kind", *MEASURED,
    ),
}  # fmt: skip
BRIEF = (
    "--device", "cpu", "--min-support", "8", "--max-train-steps", "3", "--train-batch-size", "8", "--width", "4",
    "--group-column", "place",
)  # fmt: skip


def run(*words: str) -> int:
    """Exit code of the command."""
    try:
        main(list(words))
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def test_all_that_it_leaves(made: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    words = ("debias", made[0], "--classifier", made[1], "--output", str(output), *BRIEF)
    assert run(*words) == 0
    features = json.loads((output / "features.json").read_text())
    kept = {(row["class"], row["name"]) for row in features["features"] if row["kept"]}
    assert kept == {("bag", "grass"), ("boot", "gravel")}
    assert {"caption", "extract", "ground", "remove", "swap background"} <= {c["step"] for c in features["components"]}

    assert verify(output / "augmented").ok
    rows = read_rows(output / "augmented")
    edited = [row for row in rows if row["source"] == "edited"]
    assert len(rows) == 60 + len(edited) > 60
    originals = {row["file_name"] for row in read_rows(made[0])}
    for row in rows:
        assert row["parent"].removeprefix("train/") in originals
        assert all(row[name] is not None for name in PROVENANCE[row["source"]])
    assert {row["removed_feature"] for row in edited} == {"grass", "gravel"}
    assert all(row["caption"] is None for row in edited)  # it would speak of what is gone
    assert not (output / "augmented" / "test").exists()

    with (output / "metadata.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows)
    with Image.open(output / table[-1]["img_filename"]) as picture:
        assert picture.size == (16, 20)
    assert {row["split"] for row in table} == {"0"}
    assert len(list((output / "pairs").glob("*.png"))) == 2

    manifest = json.loads((output / "manifest.json").read_text())
    assert set(manifest["accuracy"]) == {"given classifier", "trained", "trained with ASPIRE"}
    assert manifest["accuracy"]["given classifier"]["worst"] == 0
    page = (output / "report.html").read_text()
    assert "backgrounds of others" in page
    assert (output / "classifiers" / "with-aspire" / "classifier" / "model.safetensors").exists()

    capsys.readouterr()
    assert run(*words) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run(*words, "--seed", "5") == 2
    assert "another seed" in capsys.readouterr().err
    # a veto keeps the steps before it
    assert run(*words, "--veto", "grass", "gravel") == 0
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["counts"]["synthetic images trained on"] == 0
    assert set(manifest["accuracy"]) == {"given classifier", "trained"}
    assert "No spurious feature was found" in (output / "report.html").read_text()


def test_what_it_refuses(made: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*words: str) -> str:
        assert run("debias", *words, *BRIEF[:2]) == 2
        return capsys.readouterr().err

    silent = str(write_set(tmp_path / "silent", captions=False))
    assert "no captions" in refused(silent, "--classifier", made[1], "--output", str(tmp_path / "a"))
    other = ("--group-column", "nothing")
    assert "no column 'nothing'" in refused(made[0], "--classifier", made[1], "--output", str(tmp_path / "b"), *other)
    assert "write object:PHRASE" in refused(
        made[0], "--classifier", made[1], "--output", str(tmp_path / "c"), "--edits", "x"
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "not of workbench debias" in refused(made[0], "--classifier", made[1], "--output", str(tmp_path / "full"))


def test_images_of_a_personalised_generator(made: tuple[str, str], tmp_path: Path) -> None:
    """A run of an untrained generator of these classes."""
    generator = save_generator(tmp_path / "generator")
    output = tmp_path / "out"
    few = ("--generator", str(generator), "--personalisation-steps", "2", "--num-inference-steps", "2")
    assert run("debias", made[0], "--classifier", made[1], "--output", str(output), *BRIEF, *few) == 0
    rows = [row for row in read_rows(output / "augmented") if row["source"] != "real"]
    assert {row["label_name"] for row in rows} == set(NAMES)
    for row in rows:
        assert row["source"] == "generated"
        assert all(row[name] is not None for name in PROVENANCE["generated"])
    assert len({(row["label"], row["seed"]) for row in rows}) == len(rows)
    assert len(list((output / "tokens").glob("*.safetensors"))) == 2
    counts = json.loads((output / "manifest.json").read_text())["counts"]
    left_out = sum(count for name, count in counts.items() if name.startswith("left out"))
    assert counts["synthetic images trained on"] + left_out == 200
    assert "left out, too easy" in counts
    assert "nobody confirms" in (output / "report.html").read_text()


def save_generator(run: Path) -> Path:
    """As a finished training run has it."""
    torch.manual_seed(0)
    transformer = RPE2DTransformer2DModel(
        sample_size=(8, 4), patch_size=2, num_layers=1, num_attention_heads=1, attention_head_dim=16, num_classes=2,
        max_positions=(8, 8), id2label=dict(enumerate(NAMES)), token_names=(),
    )  # fmt: skip
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    RPE2DPipeline(transformer, make_scheduler()).save_pretrained(run / "pipeline")
    return run


def test_test_images_change_nothing_but_the_figures(made: tuple[str, str], tmp_path: Path) -> None:
    """What is measured on is never learned from: with other test images, all that is found and trained is the same."""
    other = tmp_path / "other"
    shutil.copytree(made[0], other)
    for path in (other / "test").rglob("*.png"):
        if "mask" not in path.name:
            Image.new("RGB", (16, 20), (250, 0, 250)).save(path)
    runs = [tmp_path / "first", tmp_path / "second"]
    for data, output in zip((made[0], str(other)), runs, strict=True):
        assert run("debias", data, "--classifier", made[1], "--output", str(output), *BRIEF) == 0
    trained = [load_file(output / "classifiers/with-aspire/classifier/model.safetensors") for output in runs]
    assert all(torch.equal(value, trained[1][name]) for name, value in trained[0].items())
    edits = [list(read_edits(output / "edits.parquet")) for output in runs]
    assert edits[0] == edits[1]
    assert all(row.image_id.startswith("train/") for row in edits[0])
    measured = [json.loads((output / "manifest.json").read_text())["accuracy"]["given classifier"] for output in runs]
    assert measured[0]["average"] != measured[1]["average"]  # the other images were seen there
