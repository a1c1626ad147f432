"""What the app's tabs do, without a browser or a server: the shelf, uploads, jobs, processes, and each tab's view."""

import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from app_places import CLASSES, write_data_set, write_distilled, write_run
from gradio.context import LocalContext
from PIL import Image

from ui import processes
from ui.app import build_app
from ui.app_config import AppConfig
from ui.distill_config import DistillConfig
from ui.jobs import MODELS, Stopped, follow
from ui.results import handed_out, told_record
from ui.serve import main as serve
from ui.shelf import DEMO_DATA, ZOO, PipelineFacts, Shelf, about_inpainter, pick, pipeline_facts
from ui.tabs import browse, distill, explain, generate, runs, side_by_side
from ui.uploads import grown, hole_of, limit_decoders, painted, read_upload
from workbench.command import parse
from workbench.errors import UserError

LIMIT = 10_000  # pixels
HERE = Shelf(Path())


# ---- the shelf -------------------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    for name, kind in (("a/pipeline", "RPE2DPipeline"), ("b", "DiverseInpaintPipeline"), (".c", "RPE2DPipeline")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model_index.json").write_text(json.dumps({"_class_name": ["pipeline", kind]}))
    (tmp_path / "a" / "config.yaml").write_text("recipe: rpe2d")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_index.json").write_text("{")
    return Shelf(tmp_path)


def test_it_lists_what_can_be_opened(shelf: Shelf) -> None:
    assert shelf.generators() == {"zoo:fashion-rpe2d": "zoo:fashion-rpe2d", "a": str(shelf.root / "a" / "pipeline")}
    assert shelf.inpainters()["b"] == str(shelf.root / "b")
    write_data_set(shelf.root / "data" / "noise")
    assert next(iter(shelf.data_sets())) == "data/noise"
    write_run(shelf.root / "runs" / "r")
    assert next(iter(shelf.runs())) == "runs/r"
    write_distilled(shelf.root / "d")
    assert "d" in shelf.distilled_sets()


def test_a_persons_own_images_are_offered(tmp_path: Path) -> None:
    pictures = ("photos/cat/1.png", "photos/dog/1.PNG", "split/train/cat/1.png", "split/train/dog/1.png",
                "described/1.png", "run/samples/1.png", "run/other/1.png", "alone/cat/1.png")  # fmt: skip
    for name in pictures:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(tmp_path / name)
    (tmp_path / "described" / "metadata.jsonl").write_text('{"file_name": "1.png", "label": "cat"}\n')
    (tmp_path / "run" / "config.yaml").write_text("recipe: rpe2d\n")
    (tmp_path / "x.parquet").write_bytes(b"")
    assert list(Shelf(tmp_path).data_sets()) == ["described", "photos", "split", "x.parquet", *DEMO_DATA]
    for served in ("photos", "split", "split/train"):
        assert next(iter(Shelf(tmp_path / served).data_sets())) == "."
    found = browse.look(str(tmp_path / "photos"), "train", "dog", 1, LIMIT)
    assert [label for _, label in found.pictures] == ["dog"]
    assert found.rows == [{"file_name": "dog/1.PNG", "label_name": "dog"}]
    assert browse.about(str(tmp_path / "photos")) == {"name": str(tmp_path / "photos")}


def test_what_is_written_or_removed_in_this_moment_is_no_mistake(tmp_path: Path) -> None:
    write_data_set(tmp_path / "made")
    write_data_set(tmp_path / "half.partial")
    (tmp_path / "gone").mkdir()
    for name in ("dataset.json", "metrics.jsonl", "config.yaml"):  # as if they had just been removed
        (tmp_path / "gone" / name).symlink_to(tmp_path / "nowhere")
    assert list(Shelf(tmp_path).data_sets()) == ["made", "gone", *DEMO_DATA]
    assert [name for name in Shelf(tmp_path).runs() if not name.startswith("zoo:")] == []


@pytest.mark.parametrize("name", ["../a", "/etc", "a/pipeline", "", None, "zoo:../a"])
def test_only_listed_names_are_opened(shelf: Shelf, name: str | None) -> None:
    with pytest.raises(UserError, match="is no generator here; choose from zoo:fashion-rpe2d, a"):
        pick(shelf.generators, name, "generator")


def test_links_out_of_the_folder_are_not_followed(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    write_run(outside / "secret")
    (shelf.root / "link").symlink_to(outside, target_is_directory=True)
    assert [name for name in shelf.runs() if not name.startswith("zoo:")] == []


def test_facts_of_a_generator_come_without_opening_it() -> None:
    known = pipeline_facts("zoo:fashion-rpe2d")
    assert len(known.labels) == 10
    assert known.sizes == ["24x24", "36x36", "48x48", "24x36", "36x24"]
    assert generate.size_choices(known)[:2] == [("24x24 (trained)", "24x24"), ("36x36", "36x36")]
    assert known.about == "rope positions"


def test_a_model_of_one_size_offers_that_alone(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    config = {"sample_size": [8, 12], "patch_size": 4, "prediction_type": "consistency", "id2label": {"0": "bag"}}
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    assert pipeline_facts(str(tmp_path)) == PipelineFacts(["bag"], "8x12", ["8x12"], "one step")


def test_texts_name_no_place_of_the_machine(shelf: Shelf) -> None:
    root = shelf.root
    for text, told in {
        f"{root}/a/pipeline is damaged": "a/pipeline is damaged",
        f"{ZOO}/distilled/fashion-1 is damaged": "zoo:distilled/fashion-1 is damaged",
        f"'{root}/x y/z' and (/etc/ssl/cert.pem): no": "'x y/z' and (cert.pem): no",
        f"workbench debias {root}/data --output=/srv/out": "workbench debias data --output=out",
        f"{root} is no data set": f"{root.name} is no data set",
        "T-shirt/top at 32x48, 1/2 of it, <b>x</b>; see https://a.org/b/c or a/b.png": "",
    }.items():
        assert shelf.told(text) == (told or text)
    record = {"command": f"x {root}/data", "seeds": [1, f"{root}/b"], "none": None}
    assert told_record(shelf, record) == {"command": "x data", "seeds": [1, "b"], "none": None}


def test_an_inpainter_says_what_it_learned_from(tmp_path: Path) -> None:
    told = about_inpainter("zoo:fashion-inpaint")
    assert told.startswith("Trained on 60,000 images of fashion-mnist at 32 pixels. It has seen gray clothes")
    assert "channel by channel" in told
    assert about_inpainter("telea") == about_inpainter(str(tmp_path)) == ""
    (tmp_path / "vqvae").mkdir()
    (tmp_path / "README.md").write_text("# Inpainting\n\nTrained on 9 images of bags at 8 pixels, vqvae for 5 steps.\n")
    for channels, gray in ((1, True), (3, False)):
        (tmp_path / "vqvae" / "config.json").write_text(json.dumps({"channels": channels}))
        told = about_inpainter(str(tmp_path))
        assert told.startswith("Trained on 9 images of bags at 8 pixels.")
        assert ("It knows gray pictures alone" in told) is gray


def test_results_never_share_a_folder(shelf: Shelf) -> None:
    assert len({shelf.new_result("x") for _ in range(50)}) == 50


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        AppConfig(folder=tmp_path / "none").check()
    with pytest.raises(UserError, match="--max-images is 0"):
        AppConfig(folder=tmp_path, max_images=0).check()
    names = tmp_path / "names"
    names.write_text("anna:secret\nbob:with:colon\n")
    assert AppConfig(auth_file=names).accounts() == [("anna", "secret"), ("bob", "with:colon")]
    names.write_text("anna\n")
    with pytest.raises(UserError, match="NAME:PASSWORD"):
        AppConfig(auth_file=names).accounts()


def test_mcp_without_its_package_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)  # as if it were not installed
    with pytest.raises(SystemExit) as left:
        serve([str(tmp_path), "--mcp"])
    assert left.value.code == 2
    assert (
        "error: --mcp needs a package that is not installed; run: pip install 'gradio[mcp]'" in capsys.readouterr().err
    )


# ---- uploads ---------------------------------------------------------------------------------------------------------


def saved(folder: Path, name: str, image: Image.Image, **options: Any) -> str:
    path = folder / name
    image.save(path, **options)
    return str(path)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "P", "I;16", "1"])
def test_pictures_of_all_kinds_are_read(tmp_path: Path, mode: str) -> None:
    ending = "tiff" if mode == "CMYK" else "png"
    assert read_upload(saved(tmp_path, f"x.{ending}", Image.new(mode, (9, 6))), LIMIT).size == (6, 9)


def test_of_an_animation_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 6), color) for color in ("red", "blue")]
    path = saved(tmp_path, "x.gif", frames[0], save_all=True, append_images=frames[1:])
    assert read_upload(path, LIMIT).pixels[:, 0, 0].tolist() == [255, 0, 0]
    assert any("first frame" in note for note in read_upload(path, LIMIT).notes)


@pytest.mark.parametrize(
    "content", [b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n\x1a\n" + b"x" * 40]
)
def test_what_is_no_picture_is_refused_without_its_path(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "evil.png").write_bytes(content)
    with pytest.raises(UserError, match="the picture cannot be read") as caught:
        read_upload(str(tmp_path / "evil.png"), LIMIT)
    assert str(tmp_path) not in str(caught.value)


def test_truncated_and_huge_pictures_are_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    path = Path(saved(tmp_path, "x.png", Image.fromarray(random)))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="cannot be read"):
        read_upload(str(path), LIMIT)
    with pytest.raises(UserError, match="more than the 10,000 allowed"):
        read_upload(saved(tmp_path, "bomb.png", Image.new("1", (400, 400))), LIMIT)
    with pytest.raises(UserError, match="no picture yet"):
        read_upload(None, LIMIT)


def test_gradios_own_decoder_has_the_limit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    limit_decoders(2_000_000)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(saved(tmp_path, "bomb.png", Image.new("1", (2001, 1000))))


def layer(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """A painted box (left, top, right, bottom)."""
    image = Image.new("RGBA", (size[1], size[0]))
    image.paste((229, 56, 59, 255), box)
    return image


def test_the_mask_is_the_union_of_layers_at_the_pictures_size() -> None:
    editor = {"layers": [layer((20, 30), (0, 0, 10, 10)), layer((20, 30), (20, 10, 30, 20))]}
    expected = np.zeros((2, 3), bool)
    expected[0, 0] = expected[1, 2] = True
    np.testing.assert_array_equal(painted(editor, (2, 3)), expected)
    with pytest.raises(UserError, match="nothing is painted"):
        painted({"layers": [Image.new("RGBA", (30, 20))]}, (2, 3))


def test_an_uploaded_mask_takes_precedence_and_must_fit(tmp_path: Path) -> None:
    black, image = Image.new("L", (9, 6)), Image.new("L", (9, 6))
    image.paste(255, (2, 1, 4, 3))
    editor = {"layers": [layer((6, 9), (0, 0, 3, 3))]}
    hole = hole_of(editor, saved(tmp_path, "mask.png", image), (6, 9), LIMIT)
    assert hole[1:3, 2:4].all()
    assert hole.sum() == 4
    assert hole_of(editor, None, (6, 9), LIMIT).sum() == 9
    with pytest.raises(UserError, match="has no hole"):
        hole_of(editor, saved(tmp_path, "black.png", black), (6, 9), LIMIT)
    with pytest.raises(UserError, match="give a mask of its size"):
        hole_of(None, saved(tmp_path, "mask.png", image), (9, 6), LIMIT)


def test_a_mask_grows_and_shrinks_on_all_sides() -> None:
    hole = np.zeros((9, 11), bool)
    hole[4, 5] = True
    larger = grown(hole, 2)
    rows, columns = np.ogrid[:9, :11]
    np.testing.assert_array_equal(larger, (rows - 4) ** 2 + (columns - 5) ** 2 <= 4)
    np.testing.assert_array_equal(grown(larger, -2), hole)
    np.testing.assert_array_equal(grown(hole, 0), hole)
    hole[0:2, 0:11] = True  # at the picture's edge it shrinks from within alone
    assert grown(hole, -1)[0].all()
    with pytest.raises(UserError, match="shrink it by fewer"):
        grown(hole, -2)


# ---- jobs ------------------------------------------------------------------------------------------------------------


def quiet(share: float, desc: str) -> None:
    """Progress that nobody watches."""


def outcome(generator: Any) -> Any:
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def test_a_job_returns_its_result_and_its_mistakes_as_text() -> None:
    assert outcome(follow(lambda report: 7, quiet, HERE)) == 7  # type: ignore[arg-type]

    def mistaken(report: Any) -> None:
        raise UserError("<b>no</b>")

    with pytest.raises(gr.Error, match="&lt;b&gt;no&lt;/b&gt;"):
        outcome(follow(mistaken, quiet, HERE))  # type: ignore[arg-type]


def test_closing_a_job_stops_its_work_and_frees_the_model() -> None:
    reached, stopped = threading.Event(), threading.Event()

    def endless(report: Any) -> None:
        try:
            while True:
                report(0.5, "working")
                reached.set()
                time.sleep(0.01)
        except Stopped:
            stopped.set()
            raise

    job = follow(endless, quiet, HERE)  # type: ignore[arg-type]
    next(job)
    assert not reached.wait(0.1)  # Gradio could not close it yet
    next(job)
    assert reached.wait(5)
    waiting = follow(lambda report: "second", quiet, HERE)  # type: ignore[arg-type]
    next(waiting)
    next(waiting)  # the model is taken
    job.close()
    assert stopped.wait(5)
    assert outcome(waiting) == "second"
    assert not MODELS.locked()


def in_event(monkeypatch: pytest.MonkeyPatch, number: str, waiting: dict[str, set[str]]) -> None:
    """As if Gradio had called us for event `number`, with those events awaited."""
    blocks = SimpleNamespace(_queue=SimpleNamespace(pending_event_ids_session=waiting))
    for name, value in (("event_id", number), ("blocks", blocks)):
        variable: ContextVar[Any] = ContextVar(name)
        variable.set(value)
        monkeypatch.setattr(LocalContext, name, variable)


def test_work_that_nobody_waits_for_any_more_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = {"session": {"first", "other"}}
    in_event(monkeypatch, "first", waiting)
    stopped = threading.Event()

    def endless(report: Any) -> None:
        try:
            while True:
                report(0.5, "working")
                time.sleep(0.01)
        except Stopped:
            stopped.set()
            raise

    job = follow(endless, quiet, HERE)  # type: ignore[arg-type]
    for _ in range(3):
        next(job)  # somebody waits
    waiting["session"].remove("first")
    with pytest.raises(gr.Error, match="stopped"):
        outcome(job)
    assert stopped.wait(5)


# ---- processes -------------------------------------------------------------------------------------------------------


def test_a_command_is_started_once_and_its_output_kept(tmp_path: Path) -> None:
    started = processes.start("version", ["--version"], tmp_path / "logs" / "version.log")
    assert started.process.wait(60) == 0
    assert started.tail.startswith("workbench ")
    with pytest.raises(UserError, match="was not started here, or has ended"):
        processes.stop("version")
    with pytest.raises(UserError, match="was not started here"):
        processes.stop("unknown")


# ---- data sets -------------------------------------------------------------------------------------------------------


def test_pages_of_a_data_set_have_captions_and_provenance(tmp_path: Path) -> None:
    write_data_set(tmp_path / "noise")
    page = browse.look(str(tmp_path / "noise"), "train", browse.ALL, 1, LIMIT)
    assert page.total == len(page.pictures) == len(page.rows) == 6
    assert page.pictures[0][0].shape == (6, 9, 3)
    assert [label for _, label in page.pictures] == [*CLASSES] * 3
    assert [row["seed"] for row in page.rows] == list(range(6))
    one_class = browse.look(str(tmp_path / "noise"), "train", CLASSES[1], 1, LIMIT)
    assert [row["seed"] for row in one_class.rows] == [1, 3, 5]
    with pytest.raises(UserError, match="give one from 1 to 1"):
        browse.look(str(tmp_path / "noise"), "train", browse.ALL, 2, LIMIT)
    assert browse.about(str(tmp_path / "noise"))["command"] == "test"
    assert browse.choices_of(str(tmp_path / "noise")) == (["train"], [browse.ALL, *CLASSES])


# ---- distilled sets and runs -----------------------------------------------------------------------------------------


def test_a_distilled_set_shows_its_figures_and_its_card_without_header_and_pictures(tmp_path: Path) -> None:
    write_distilled(tmp_path / "d")
    found = distill.read_set(tmp_path / "d", "d")
    assert found.text == "**d**: finished."
    assert found.card.split() == ["#", "A", "set", "Accuracy", "0.5"]
    assert found.facts == {"label_names": list(CLASSES), "images_per_class": 1}
    assert found.accuracies == [["convnet", "51.2%", "1.0%", "3"]]
    assert found.picture is not None
    assert found.picture.size == (6, 4)


def test_a_set_that_is_being_made_shows_its_curves_and_newest_picture(tmp_path: Path) -> None:
    (tmp_path / "d" / "matching" / "samples").mkdir(parents=True)
    (tmp_path / "d" / "distill.yaml").write_text("data: x\n")
    before = distill.read_set(tmp_path / "d", "d")
    assert (before.picture, before.charts, before.accuracies, before.finished) == (None, "", [], False)
    (tmp_path / "d" / "matching" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n')
    for step, width in ((10, 3), (9, 5)):
        Image.new("L", (width, 2)).save(tmp_path / "d" / "matching" / "samples" / f"step-{step:08d}.png")
    figures = {"convnet": {"mean": 0.25, "std": 0.0, "n": 1}}
    (tmp_path / "d" / "matching" / "figures.json.partial").write_text(json.dumps({"asked": {}, "figures": figures}))
    found = distill.read_set(tmp_path / "d", "d")
    assert "loss ends at 1.5 for 2" in found.charts
    assert found.picture is not None
    assert found.picture.size == (3, 2)
    assert found.accuracies == [["convnet", "25.0%", "0.0%", "1"]]
    assert own_sets(tmp_path) == {"d": str(tmp_path / "d")}


def own_sets(place: Path) -> dict[str, str]:
    """Those of the folder, without the zoo's."""
    return {name: path for name, path in Shelf(place).distilled_sets().items() if not name.startswith("zoo:")}


def test_the_product_of_a_stage_is_no_set_of_its_own(tmp_path: Path) -> None:
    write_distilled(tmp_path / "d" / "matching" / "distilled")
    assert list(own_sets(tmp_path)) == ["d/matching/distilled"]
    (tmp_path / "d" / "distill.yaml").write_text("data: x\n")
    assert list(own_sets(tmp_path)) == ["d"]


def test_the_distilled_sets_of_the_zoo_are_offered(tmp_path: Path) -> None:
    offered = Shelf(tmp_path).distilled_sets()
    assert Path(offered["zoo:distilled/fashion-1"]).is_dir()


def test_what_is_handed_out_is_a_copy_without_the_stages(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    write_distilled(tmp_path / "d")
    (tmp_path / "d" / "experts").mkdir()
    (tmp_path / "d" / "experts" / "expert.safetensors").write_bytes(b"large")
    (tmp_path / "d" / "link").symlink_to("/etc/passwd")
    archive = Path(handed_out(shelf, tmp_path / "d", distill.STAGES))
    assert archive.is_relative_to(tmp_path / "app")
    assert sorted(zipfile.ZipFile(archive).namelist()) == [
        "README.md", "distilled.safetensors", "grid.png", "metadata.json",
    ]  # fmt: skip
    assert handed_out(shelf, tmp_path / "d", distill.STAGES) == str(archive)  # once
    os.utime(tmp_path / "d" / "README.md", (2e9, 2e9))
    assert handed_out(shelf, tmp_path / "d", distill.STAGES) != str(archive)
    card = Path(handed_out(shelf, tmp_path / "d" / "README.md"))
    assert card.suffix == ".md"
    assert card.read_text() == (tmp_path / "d" / "README.md").read_text()
    assert len(list((tmp_path / "app" / "copies").iterdir())) == 3
    assert len(list((tmp_path / "app").iterdir())) == 1


def test_the_command_that_distils_is_the_workbenchs_own(tmp_path: Path) -> None:
    asked = distill.request("fashion-mnist:extract", 2, "datm", "quick", tmp_path / "out", "cpu")
    words = processes.words_of("distill", asked)
    assert parse(DistillConfig, words[1:], "workbench distill") == asked
    with pytest.raises(UserError, match="choose one of"):
        distill.request("x", 1, "--overwrite", "quick", tmp_path)


def test_a_run_shows_its_curves_even_while_a_line_is_written(tmp_path: Path) -> None:
    write_run(tmp_path / "r")
    seen = runs.look(tmp_path / "r", "r")
    assert seen.text == "**r**: not finished, step 5."
    assert seen.charts.index("loss") < seen.charts.index("&lt;i&gt;norm")
    assert "<i>" not in seen.charts
    assert [caption for _, caption in seen.samples] == ["step-5"]


# ---- explanations ----------------------------------------------------------------------------------------------------


def test_generated_words_come_with_their_author_as_text() -> None:
    told = explain._words(
        {"facts": {"label": "<b>cat</b>"}, "text": "Seen at *0.5*.",
         "descriptions": [{"author": "a_model", "text": "A <i>cat</i>."}]}
    )  # fmt: skip
    assert told == (
        "**&lt;b&gt;cat&lt;/b&gt;, measured:** Seen at \\*0.5\\*.\n\n"
        "**Generated by a\\_model, may be wrong:** A &lt;i&gt;cat&lt;/i&gt;."
    )


# ---- side by side ----------------------------------------------------------------------------------------------------


def row(*labels: str) -> side_by_side.Row:
    return side_by_side.Row("a", "a", PipelineFacts(list(labels), "8x12", ["8x12"], "rope positions"), None)


def test_rows_are_models_times_numbers_of_steps(shelf: Shelf) -> None:
    found = side_by_side.rows_of(shelf, ["a", "zoo:fashion-rpe2d"], "1, 8")
    assert [(one.name, one.steps) for one in found] == [
        ("a", 1), ("a", 8), ("zoo:fashion-rpe2d", 1), ("zoo:fashion-rpe2d", 8),
    ]  # fmt: skip
    assert found[2].title == "zoo:fashion-rpe2d: rope positions, trained at 24x24, 1 step"
    assert [one.steps for one in side_by_side.rows_of(shelf, ["a", "a"], "")] == [None]
    for models, steps, sentence in (
        (["a", "zoo:fashion-rpe2d"], "1 2 3", "6 rows are too many"),
        (["a"], "few", "'few' are no numbers of steps"),
        (["../a"], "", "is no generator here"),
        (["a"] * 4, "", "choose up to 3"),
    ):
        with pytest.raises(UserError, match=sentence):
            side_by_side.rows_of(shelf, models, steps)


def test_rows_share_the_classes_that_all_know() -> None:
    assert side_by_side.shared_labels([row("bag", "coat", "hat"), row("hat", "bag")]) == ["bag", "hat"]
    assert side_by_side.shared_labels([row(), row()]) == []
    with pytest.raises(UserError, match="no class in common"):
        side_by_side.shared_labels([row("bag"), row("hat")])


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_methods_offered_exist() -> None:
    from explain.saliency import METHODS
    from ui.tabs.explain import METHODS as OFFERED
    from ui.tabs.explain import VALE

    assert set(OFFERED) - {VALE} <= set(METHODS)


def test_every_named_action_says_what_it_does() -> None:
    """To programs that speak the Model Context Protocol each is a tool, with its function's name and docstring."""
    actions = [one for one in build_app(AppConfig()).fns.values() if one.api_visibility == "public" and one.api_name]
    assert len(actions) > 20
    for action in actions:
        assert action.fn is not None
        assert "lambda" not in action.fn.__name__, action.api_name
        assert action.fn.__doc__, action.api_name


def test_the_page_is_built_without_torch() -> None:
    """It would take seconds before the first paint."""
    code = (
        "import sys; from ui.app import AppConfig, build_app; build_app(AppConfig()); assert 'torch' not in sys.modules"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
