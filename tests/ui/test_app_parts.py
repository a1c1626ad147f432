"""What the app's tabs do, without a browser or a server: the shelf, uploads, jobs, processes, and each tab's view."""

import json
import subprocess
import sys
import threading
import time
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
from ui.app_config import AppConfig
from ui.jobs import MODELS, Stopped, follow
from ui.shelf import Shelf, pick, pipeline_facts
from ui.tabs import browse, distill, runs
from ui.uploads import hole_of, limit_decoders, painted, read_upload
from workbench.errors import UserError

LIMIT = 10_000  # pixels


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
    assert list(shelf.runs()) == ["runs/r"]
    write_distilled(shelf.root / "d")
    assert "d" in shelf.distilled_sets()


@pytest.mark.parametrize("name", ["../a", "/etc", "a/pipeline", "", None, "zoo:../a"])
def test_only_listed_names_are_opened(shelf: Shelf, name: str | None) -> None:
    with pytest.raises(UserError, match="is no generator here; choose from zoo:fashion-rpe2d, a"):
        pick(shelf.generators, name, "generator")


def test_links_out_of_the_folder_are_not_followed(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    write_run(outside / "secret")
    (shelf.root / "link").symlink_to(outside, target_is_directory=True)
    assert shelf.runs() == {}


def test_facts_of_a_generator_come_without_opening_it() -> None:
    labels, size = pipeline_facts("zoo:fashion-rpe2d")
    assert len(labels) == 10
    assert size == "24x24"


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
    assert outcome(follow(lambda report: 7, quiet)) == 7  # type: ignore[arg-type]

    def mistaken(report: Any) -> None:
        raise UserError("<b>no</b>")

    with pytest.raises(gr.Error, match="&lt;b&gt;no&lt;/b&gt;"):
        outcome(follow(mistaken, quiet))  # type: ignore[arg-type]


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

    job = follow(endless, quiet)  # type: ignore[arg-type]
    next(job)
    assert not reached.wait(0.1)  # Gradio could not close it yet
    next(job)
    assert reached.wait(5)
    waiting = follow(lambda report: "second", quiet)  # type: ignore[arg-type]
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

    job = follow(endless, quiet)  # type: ignore[arg-type]
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
    assert [row["seed"] for row in page.rows] == list(range(6))
    one_class = browse.look(str(tmp_path / "noise"), "train", CLASSES[1], 1, LIMIT)
    assert [row["seed"] for row in one_class.rows] == [1, 3, 5]
    with pytest.raises(UserError, match="give one from 1 to 1"):
        browse.look(str(tmp_path / "noise"), "train", browse.ALL, 2, LIMIT)
    assert browse.about(str(tmp_path / "noise"))["command"] == "test"
    assert browse.choices_of(str(tmp_path / "noise")) == (["train"], [browse.ALL, *CLASSES])


# ---- distilled sets and runs -----------------------------------------------------------------------------------------


def test_a_distilled_set_shows_its_card_without_header_and_pictures(tmp_path: Path) -> None:
    write_distilled(tmp_path / "d")
    found = distill.read_set(tmp_path / "d")
    assert found.card.split() == ["#", "A", "set", "Accuracy", "0.5"]
    assert found.facts == {"classes": list(CLASSES), "method": "ftd"}
    assert found.picture is not None
    assert found.picture.size == (6, 4)


def test_the_command_that_distils_is_the_workbenchs_own(tmp_path: Path) -> None:
    from ui.distill_config import DistillConfig
    from workbench.command import parse

    words = distill.words_of("fashion-mnist:extract", 2, "datm", "quick", tmp_path / "out", "cpu")
    config = parse(DistillConfig, words[1:], "workbench distill")
    assert (config.data, config.images_per_class, config.method) == ("fashion-mnist:extract", 2, "datm")
    with pytest.raises(UserError, match="choose one of"):
        distill.words_of("x", 1, "--overwrite", "quick", tmp_path, "cpu")


def test_a_run_shows_its_curves_even_while_a_line_is_written(tmp_path: Path) -> None:
    write_run(tmp_path / "r")
    seen = runs.look(tmp_path / "r", "r")
    assert seen.text == "**r**: not finished, step 5."
    assert seen.charts.index("loss") < seen.charts.index("&lt;i&gt;norm")
    assert "<i>" not in seen.charts
    assert [caption for _, caption in seen.samples] == ["step-5"]


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_methods_offered_exist() -> None:
    from explain.saliency import METHODS
    from ui.tabs.explain import METHODS as OFFERED
    from ui.tabs.explain import VALE

    assert set(OFFERED) - {VALE} <= set(METHODS)


def test_the_page_is_built_without_torch() -> None:
    """It would take seconds before the first paint."""
    code = (
        "import sys; from ui.app import AppConfig, build_app; build_app(AppConfig()); assert 'torch' not in sys.modules"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
