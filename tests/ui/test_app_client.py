"""The app as a program sees it: each tab's main job through its named endpoint, and what it refuses."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from app_places import furnish, served
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
    words = ("tiny", ["bag"], "8x12, 4x6", 3, 2, 1.0, OWN, 5)
    pictures, summary, _ = client.predict(*words, api_name="/generate")
    captions = ["bag, 8x12, seed 5", "bag, 4x6, seed 6", "bag, 8x12, seed 7"]
    assert [one["caption"] for one in pictures] == captions
    folder = place / summary.split("`")[1]
    assert (folder / "dataset.json").is_file()
    with Image.open(pictures[1]["image"]) as image:
        assert image.size == (6, 4)
    name = folder.relative_to(place).as_posix()
    found = client.predict(name, "train", "all classes", 1, api_name="/browse")
    assert "3 images on 1 pages" in found[1]
    assert "all good" in client.predict(name, api_name="/verify")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("../tiny", [], "", 1, 2, None, OWN, 0), "'../tiny' is no generator here"),
        (("tiny", ["<b>"], "", 1, 2, None, OWN, 0), "unknown label '&lt;b&gt;'"),
        (("tiny", [], "7x7", 1, 2, None, OWN, 0), "is not made of whole 2-pixel patches"),
        (("tiny", [], "big", 1, 2, None, OWN, 0), "'big' is not a size"),
        (("tiny", [], "", 9, 2, None, OWN, 0), "maximum value 8"),
        (("filler", [], "", 1, 2, None, OWN, 0), "'filler' is no generator here"),
    ],
)
def test_mistakes_are_sentences(client: Client, words: tuple[Any, ...], sentence: str) -> None:
    assert sentence in refusal(client, *words, api_name="/generate")


def test_a_cancel_stops_the_work_and_leaves_nothing(client: Client, place: Path) -> None:
    before = set((place / "app").iterdir())
    jobs = [client.submit("tiny", [], "", 8, 5000, None, OWN, 0, api_name="/generate") for _ in range(2)]
    deadline = time.monotonic() + 60
    while not MODELS.locked() and time.monotonic() < deadline:
        time.sleep(0.05)
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
    words = (handle_file(str(picture)), "classifier", ["gradcam", "centre"], "top1", 50, 0.2)
    bars, pictures, summary, _ = client.predict(*words, api_name="/explain")
    assert abs(sum(one["confidence"] for one in bars["confidences"]) - 1) < 1e-4
    assert [one["caption"].split(":")[0].split(",")[0] for one in pictures] == [
        "the picture", *["gradcam"] * 3, *["centre"] * 3,
    ]  # fmt: skip
    folder = place / summary.split("`")[1]
    assert (folder / "report.html").is_file()
    assert not list(place.rglob("*onerror*"))


def editor(picture: Path, layer: Path | None) -> dict[str, Any]:
    layers = [handle_file(str(layer))] if layer else []
    return {"background": handle_file(str(picture)), "layers": layers, "composite": None, "id": None}


def test_inpaint_leaves_known_pixels_and_gives_more_like_one(client: Client, picture: Path, tmp_path: Path) -> None:
    layer = Image.new("RGBA", (60, 40))
    layer.paste((255, 0, 0, 255), (16, 10, 32, 20))
    layer.save(tmp_path / "layer.png")
    inputs = (handle_file(str(picture)), editor(picture, tmp_path / "layer.png"), None, "filler", 3, 4, 1.0, 0.5)
    variants, structures, _, _, name = client.predict(*inputs, "", 0, api_name="/inpaint")
    assert len(variants) == len(structures) == 3
    hole = np.zeros(SIZE, bool)
    hole[5:10, 8:16] = True
    with Image.open(picture) as image:
        original = np.asarray(image)
    for one in variants:
        with Image.open(one["image"]) as image:
            np.testing.assert_array_equal(np.asarray(image)[~hole], original[~hole])
    more, *_ = client.predict(*inputs, name, 1, api_name="/more_like_this")
    assert [one["caption"].split(",")[1] for one in more] == [" seed 7", " seed 8", " seed 9"]
    assert "is no earlier result here" in refusal(client, *inputs, "../../etc", 0, api_name="/inpaint")
    assert "nothing is painted" in refusal(
        client, inputs[0], editor(picture, None), *inputs[2:], "", 0, api_name="/inpaint"
    )


def test_bombs_and_what_is_no_picture_are_sentences(client: Client, tmp_path: Path) -> None:
    Image.new("1", (90, 90)).save(tmp_path / "bomb.png")
    (tmp_path / "x.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>")
    for name, sentence in (("bomb.png", "pixels, more than the 4,000 allowed"), ("x.svg", "it is not an image")):
        words = (handle_file(str(tmp_path / name)), "classifier", ["gradcam"], "top1", 50, 0.2)
        assert sentence in refusal(client, *words, api_name="/explain")


def test_no_path_of_the_server_is_opened(place: Path, address: str) -> None:
    secret = place / "secret.png"
    Image.new("L", (8, 8)).save(secret)
    given = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}  # what a client that uploads nothing can send
    calls = f"{address.rstrip('/')}/gradio_api/call/explain"
    words = [given, "classifier", ["gradcam"], "top1", 50, 0.2]
    before = len(list((place / "app").glob("explained-*")))
    event = httpx.post(calls, json={"data": words}, timeout=60).json()["event_id"]
    assert "event: error" in httpx.get(f"{calls}/{event}", timeout=60).text
    assert len(list((place / "app").glob("explained-*"))) == before
    for path in (secret, "/etc/passwd", place / "app" / ".." / "secret.png"):
        assert httpx.get(f"{address.rstrip('/')}/gradio_api/file={path}").status_code in (403, 404)
    for name in ("../../secret.png", "%2e%2e/%2e%2e/secret.png"):
        assert httpx.get(f"{address.rstrip('/')}/gradio_api/file=app/{name}").status_code in (403, 404)


def test_distilled_sets_and_runs_are_shown(client: Client) -> None:
    picture, card, facts, _ = client.predict("small", api_name="/show_distilled")
    assert "Accuracy 0.5" in card
    assert facts["method"] == "ftd"
    assert picture
    text, charts, samples, _ = client.predict("run", api_name="/show_run")
    assert "step 5" in text
    assert "<svg" in charts
    assert len(samples) == 1
    assert "was not started here" in refusal(client, "run", api_name="/stop_run")


def test_every_action_has_a_name(client: Client) -> None:
    names = set(client.view_api(return_format="dict")["named_endpoints"])
    assert {"/generate", "/browse", "/verify", "/export", "/explain", "/inpaint", "/more_like_this"} <= names
    assert {"/show_distilled", "/distill", "/show_run", "/stop_run", "/resume_run"} <= names
    assert not {name for name in names if "lambda" in name}
