"""The app as a program sees it: each tab's main job through its named endpoint, and what it refuses."""

import threading
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from app_places import furnish, served, write_classifier, write_explainer
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from ui.jobs import MODELS

pytestmark = pytest.mark.filterwarnings("ignore")  # gradio's and its servers' own, in other threads
OWN = "the model's own"
SIZE = (20, 30)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A served folder."""
    root = tmp_path_factory.mktemp("place")
    furnish(root)
    return root


@pytest.fixture(scope="module")
def address(place: Path) -> Iterator[str]:
    """Of the app."""
    with served(place, max_images=8, max_image_pixels=4000) as url:
        yield url


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A photograph's file, of noise, whose name is a path and HTML."""
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    path = tmp_path / "<img onerror=x>.png"
    Image.fromarray(pixels).save(path)
    return path


def refusal(client: Client, *words: Any, api_name: str) -> str:
    with pytest.raises(AppError) as caught:
        client.predict(*words, api_name=api_name)
    return str(caught.value)


def test_generate_keeps_a_data_set(client: Client, place: Path) -> None:
    words = ("tiny", ["bag"], ["8x12", "4x6"], 3, 2, 1.0, OWN, 5)
    pictures, summary, _, origins = client.predict(*words, api_name="/generate")
    assert [one["caption"] for one in pictures] == ["bag"] * 3
    folder = place / summary.split("`")[1]
    assert (folder / "dataset.json").is_file()
    with Image.open(pictures[1]["image"]) as image:
        assert image.size == (6, 4)
    name = folder.relative_to(place).as_posix()
    found = client.predict(name, "train", "all classes", 1, api_name="/browse")
    assert "3 images on 1 page." in found[1]
    assert [row["seed"] for row in browse_rows(place / name)] == [row["seed"] for row in origins] == [5, 6, 7]
    assert [row["seed"] for row in found[3]] == [5, 6, 7]
    assert "all good" in client.predict(name, api_name="/verify")


def browse_rows(folder: Path) -> list[dict[str, Any]]:
    from workbench.records import read_rows

    return list(read_rows(folder))


def test_models_and_steps_stand_side_by_side(client: Client, place: Path) -> None:
    from tiny_pixel_models import pixel_pipeline

    pixel_pipeline(prediction_type="consistency").save_pretrained(place / "quick")
    before = set((place / "app").iterdir())
    words = ("tiny", ["bag", "hat"], ["8x12"], 1.0, 3, ["other"], "2", 4)
    *rows, text = client.predict(*words, api_name="/side_by_side")
    assert [one.get("visible") for one in rows] == [True, True, False, False]
    assert [one["label"] for one in rows[:2]] == [
        "tiny: rope positions, trained at 8x12, 2 steps", "other: sincos positions, trained at 8x12, 2 steps",
    ]  # fmt: skip
    made = [browse_rows(place / part.split("`")[0]) for part in text.split("Kept in `")[1:]]
    assert [[row["seed"] for row in one] for one in made] == [[3, 4, 5, 6]] * 2
    assert made[0][0]["generator"] != made[1][0]["generator"]
    *rows, _ = client.predict("quick", ["bag"], [], None, 0, [], "1, 3", 2, api_name="/side_by_side")
    assert [one["label"].rpartition(", ")[2] for one in rows[:2]] == ["1 step", "3 steps"]
    assert rows[0]["label"].startswith("quick: one step")
    kept = set((place / "app").iterdir())
    assert len(kept - before) == 4
    assert "images are too many" in refusal(client, *words[:7], 8, api_name="/side_by_side")
    failing = ("tiny", ["bag"], ["8x12"], 1.0, 0, ["quick"], "", 2)  # the second row cannot be guided, nor be so large
    assert "makes images of 8x12" in refusal(client, *failing[:2], ["4x6"], *failing[3:], api_name="/side_by_side")
    assert set((place / "app").iterdir()) == kept


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("../tiny", [], [], 1, 2, None, OWN, 0), "'../tiny' is no generator here"),
        (("tiny", ["<b>"], [], 1, 2, None, OWN, 0), "unknown label '&lt;b&gt;'"),
        (("tiny", [], ["7x7"], 1, 2, None, OWN, 0), "is not made of whole 2-pixel patches"),
        (("tiny", [], ["big"], 1, 2, None, OWN, 0), "'big' is not a size"),
        (("tiny", [], [], 9, 2, None, OWN, 0), "maximum value 8"),
        (("filler", [], [], 1, 2, None, OWN, 0), "'filler' is no generator here"),
    ],
)
def test_mistakes_are_sentences(client: Client, words: tuple[Any, ...], sentence: str) -> None:
    assert sentence in refusal(client, *words, api_name="/generate")


def test_a_cancel_stops_the_work_and_leaves_nothing(client: Client, place: Path) -> None:
    before = set((place / "app").iterdir())
    jobs = [client.submit("tiny", [], [], 8, 5000, None, OWN, 0, api_name="/generate") for _ in range(2)]
    deadline = time.monotonic() + 60
    while not (MODELS.locked() and all(job.communicator.event_id for job in jobs)) and time.monotonic() < deadline:
        time.sleep(0.05)  # a client that has no number of its event yet cancels nothing
    cancels = [threading.Thread(target=job.cancel) for job in jobs]
    for cancel in cancels:
        cancel.start()
    for cancel in cancels:
        cancel.join()
    while MODELS.locked() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not MODELS.locked()
    assert set((place / "app").iterdir()) == before


def test_explain_gives_classes_maps_and_files(client: Client, place: Path, picture: Path) -> None:
    words = (handle_file(str(picture)), "classifier", ["gradcam", "centre"], "top1", 50, 0.2, 50)
    bars, pictures, summary, figures, _, places = client.predict(*words, api_name="/explain")
    assert abs(sum(one["confidence"] for one in bars["confidences"]) - 1) < 1e-4
    assert [one["caption"].split(":")[0].split(",")[0] for one in pictures] == [
        *["gradcam"] * 3, *["centre"] * 3, "the picture",
    ]  # fmt: skip
    assert [row[0] for row in figures["data"]] == ["gradcam", "centre"]
    assert places == {bars["label"]: 0}
    assert figures["data"][0][2] == f"{bars['confidences'][0]['confidence']:.1%}"
    folder = place / summary.split("`")[1]
    assert (folder / "report.html").is_file()
    assert not list(place.rglob("*onerror*"))


def test_ttame_speaks_of_its_own_classifier_alone(client: Client, place: Path, picture: Path) -> None:
    words = (handle_file(str(picture)), "classifier", ["ttame", "centre"], "top2", 50, 0.2, 50)
    assert "ttame needs a trained module of this classifier" in refusal(client, *words, api_name="/explain")
    assert "needs a module trained" in client.predict("classifier", api_name="/ttame_module")
    write_explainer(place / "ttame", place / "classifier")
    assert "a trained module of this classifier: `ttame/explainer`" in client.predict(
        "classifier", api_name="/ttame_module"
    )
    _, pictures, _, figures, *_ = client.predict(*words, api_name="/explain")
    assert [row[0] for row in figures["data"]] == ["ttame", "ttame", "centre", "centre"]
    assert len(pictures) == 1 + 4 * 3
    write_classifier(place / "another", width=3)
    assert "needs a module trained" in client.predict("another", api_name="/ttame_module")
    assert "ttame needs a trained module" in refusal(client, words[0], "another", *words[2:], api_name="/explain")


def test_vale_tells_what_it_measured(client: Client, picture: Path) -> None:
    words = (handle_file(str(picture)), "classifier", ["vale"], "top1", 50, 0.2, 40)
    bars, pictures, story, *_ = client.predict(*words, api_name="/explain")
    assert f"**{escape(bars['label'])}, measured:**" in story
    assert [one["caption"].split(",")[0] for one in pictures] == ["vale"] * (len(pictures) - 1) + ["the picture"]
    assert len(pictures) > 1


def editor(picture: Path, layer: Path | None) -> dict[str, Any]:
    layers = [handle_file(str(layer))] if layer else []
    return {"background": handle_file(str(picture)), "layers": layers, "composite": None, "id": None}


@pytest.fixture
def painted(picture: Path, tmp_path: Path) -> dict[str, Any]:
    """The editor with a box painted on the picture, at twice its size: rows 5 to 10, columns 8 to 16."""
    layer = Image.new("RGBA", (60, 40))
    layer.paste((255, 0, 0, 255), (16, 10, 32, 20))
    layer.save(tmp_path / "layer.png")
    return editor(picture, tmp_path / "layer.png")


def pixels(path: Any) -> Any:
    with Image.open(path) as image:
        return np.asarray(image)


def box(*sides: int) -> Any:
    """True from row to row and from column to column."""
    hole = np.zeros(SIZE, bool)
    hole[sides[0] : sides[1], sides[2] : sides[3]] = True
    return hole


def test_inpaint_leaves_known_pixels_and_gives_more_like_one(
    client: Client, picture: Path, painted: dict[str, Any]
) -> None:
    inputs: tuple[Any, ...] = (handle_file(str(picture)), painted, None, "filler", 3, 4, 1.0, 0.5, 0, [])
    variants, structures, rivals, _, _, name = client.predict(*inputs, "", 0, api_name="/inpaint")
    assert len(variants) == len(structures) == 3
    assert rivals == []
    known, original = ~box(5, 10, 8, 16), pixels(picture)
    for one in variants:
        np.testing.assert_array_equal(pixels(one["image"])[known], original[known])
    more, *_ = client.predict(*inputs, name, 1, api_name="/more_like_this")
    assert [one["caption"].split(",")[1] for one in more] == [" seed 7", " seed 8", " seed 9"]
    assert "is no earlier result here" in refusal(client, *inputs, "../../etc", 0, api_name="/inpaint")
    assert "nothing is painted" in refusal(
        client, inputs[0], editor(picture, None), *inputs[2:], "", 0, api_name="/inpaint"
    )


def test_rivals_fill_the_same_hole(client: Client, place: Path, picture: Path, painted: dict[str, Any]) -> None:
    from tiny_inpaint_pipelines import tiny_texture

    tiny_texture(structure_dim=0).save_pretrained(place / "alone" / "texture")
    (place / "alone" / "config.yaml").write_text("recipe: inpaint-texture\n")
    rivals = ["telea (smooth, one way)", "alone (no structure)", "RePaint with tiny"]
    inputs = (handle_file(str(picture)), painted, None, "filler", 1, 4, 1.0, 0.5, 2, rivals)
    _, _, beside, text, _, _ = client.predict(*inputs, "", 0, api_name="/inpaint")
    assert [one["caption"] for one in beside] == rivals
    folder, original = place / text.split("`")[1], pixels(picture)
    hole = pixels(folder / "mask.png") > 0
    assert box(5, 10, 8, 16).sum() < hole.sum() <= box(3, 12, 6, 18).sum()
    found = [pixels(one["image"]) for one in beside]
    for one in found:
        np.testing.assert_array_equal(one[~hole], original[~hole])
        assert (one != original).any()
    assert (found[0] != found[2]).any()
    assert "is no rival here" in refusal(client, *inputs[:9], ["diffusers:x"], "", 0, api_name="/inpaint")


def test_what_a_rival_cannot_do_is_said(client: Client, place: Path, picture: Path, painted: dict[str, Any]) -> None:
    from tiny_inpaint_pipelines import tiny_texture

    tiny_texture(structure_dim=0).save_pretrained(place / "broken")
    (place / "broken" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    inputs = (handle_file(str(picture)), painted, None, "filler", 1, 4, 1.0, 0.5, 0, ["broken (no structure)"])
    variants, _, beside, text, _, _ = client.predict(*inputs, "", 0, api_name="/inpaint")
    assert len(variants) == 1
    assert beside == []
    assert "is damaged" in text


def test_the_mask_can_be_looked_at_and_kept(client: Client, picture: Path, painted: dict[str, Any]) -> None:
    words = (handle_file(str(picture)), painted, None)
    np.testing.assert_array_equal(pixels(client.predict(*words, 0, api_name="/mask")) > 0, box(5, 10, 8, 16))
    np.testing.assert_array_equal(pixels(client.predict(*words, -1, api_name="/mask")) > 0, box(6, 9, 9, 15))
    assert "nothing is left of the mask" in refusal(client, *words, -9, api_name="/mask")


def test_no_path_of_the_server_is_opened(place: Path, address: str) -> None:
    secret = place / "secret.png"
    Image.new("L", (8, 8)).save(secret)
    given = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}  # what a client that uploads nothing can send
    calls = f"{address.rstrip('/')}/gradio_api/call/explain"
    words = [given, "classifier", ["gradcam"], "top1", 50, 0.2, 50]
    before = len(list((place / "app").glob("explained-*")))
    event = httpx.post(calls, json={"data": words}, timeout=60).json()["event_id"]
    assert "event: error" in httpx.get(f"{calls}/{event}", timeout=60).text
    assert len(list((place / "app").glob("explained-*"))) == before
    for path in (secret, "/etc/passwd", place / "app" / ".." / "secret.png"):
        assert httpx.get(f"{address.rstrip('/')}/gradio_api/file={path}").status_code in (403, 404)
    for name in ("../../secret.png", "%2e%2e/%2e%2e/secret.png"):
        assert httpx.get(f"{address.rstrip('/')}/gradio_api/file=app/{name}").status_code in (403, 404)


def test_distilled_sets_and_runs_are_shown(client: Client) -> None:
    _, picture, figures, _, card, facts, archive, _ = client.predict("small", api_name="/show_distilled")
    assert "Accuracy 0.5" in card
    assert facts["images_per_class"] == 1
    assert figures["data"] == [["convnet", "51.2%", "1.0%", "3"]]
    assert archive["value"].endswith(".zip")
    assert picture
    text, charts, samples, _ = client.predict("run", api_name="/show_run")
    assert "step 5" in text
    assert "<svg" in charts
    assert len(samples) == 1
    assert "was not started here" in refusal(client, "run", api_name="/stop_run")
    assert "was not made by workbench distill here" in refusal(client, "small", api_name="/resume_distilling")


def test_programs_find_the_actions_as_tools(place: Path) -> None:
    pytest.importorskip("mcp", reason="the package mcp is not installed")
    with served(place, mcp=True) as url:
        tools = httpx.get(f"{url.rstrip('/')}/gradio_api/mcp/schema", timeout=60).json()
    assert {"generate_images", "browse", "explain", "inpaint", "debias", "distill", "show_run"} <= {
        tool["name"] for tool in tools
    }


def test_no_action_returns_what_programs_cannot_read() -> None:
    """Gradio's answer to the Model Context Protocol fails for an action that returns a State."""
    import gradio as gr

    from ui.app import build_app
    from ui.app_config import AppConfig

    for action in build_app(AppConfig()).fns.values():
        if action.api_visibility == "public" and action.api_name:
            assert not [one for one in action.outputs if isinstance(one, gr.State)], action.api_name


def test_every_action_has_a_name(client: Client) -> None:
    names = set(client.view_api(return_format="dict")["named_endpoints"])
    assert {"/generate", "/browse", "/verify", "/export", "/explain", "/inpaint", "/more_like_this"} <= names
    assert {"/side_by_side", "/ttame_module", "/mask", "/about_model", "/labels", "/classes_of_data_set"} <= names
    assert {"/show_debiased", "/pairs", "/debias", "/debias_without", "/stop_debiasing", "/pack_debiased"} <= names
    assert {"/show_distilled", "/distill", "/resume_distilling", "/stop_distilling"} <= names
    assert {"/show_run", "/stop_run", "/resume_run"} <= names
    assert {"/list_data_sets", "/list_debiased", "/list_distilled", "/list_runs"} <= names
    assert not {name for name in names if "lambda" in name}
