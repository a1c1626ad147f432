"""What nobody should be able to do with the app: read other files, open other names, exhaust it, come in uninvited."""

import http.client
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import numpy as np
import pytest
from app_places import furnish, served
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

pytestmark = pytest.mark.filterwarnings("ignore")  # gradio's and its servers' own, in other threads
SECRET = b"nobody reads this"
OWN = "the model's own"
OUT = "../secret"
SIZE = (20, 30)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A served folder with a secret in it, which is no result."""
    root = tmp_path_factory.mktemp("place")
    furnish(root)
    (root / "secret.txt").write_bytes(SECRET)
    return root


@pytest.fixture(scope="module")
def address(place: Path) -> Iterator[str]:
    with served(place, max_image_pixels=4000, max_upload_megabytes=1) as url:
        yield url.rstrip("/")


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False)


def refusal(client: Client, *words: Any, api_name: str) -> str:
    with pytest.raises(AppError) as caught:
        client.predict(*words, api_name=api_name)
    return str(caught.value)


# ---- files -----------------------------------------------------------------------------------------------------------


def fetched(address: str, target: str) -> tuple[int, bytes]:
    """What a server answers to exactly this target: no client has tidied it."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    connection.putrequest("GET", target)
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


@pytest.mark.parametrize(
    "endpoint",
    ["/gradio_api/file=", "/gradio_api/file/", "/gradio_api/proxy=", "/static/", "/assets/", "/svelte/", "/pwa_icon/",
     "/gradio_api/custom_component/x/client/component/", "/gradio_api/stream/x/1/"],
)  # fmt: skip
def test_no_endpoint_hands_out_other_files(address: str, place: Path, endpoint: str) -> None:
    secret, up = str(place / "secret.txt"), "../" * 30
    below_results = f"{place}/app/../secret.txt"
    names = [secret, f"{up}{secret[1:]}", f"file://{secret}", below_results, "../secret.txt", "app/../../secret.txt"]
    for name in [*names, *map(quote, names), *(quote(name, safe="") for name in names), names[1].replace("/", "\\")]:
        status, content = fetched(address, f"{endpoint}{name}".replace(" ", "%20"))
        assert SECRET not in content, name
        assert status >= 400, name


def test_what_was_made_here_is_handed_out(client: Client, address: str, place: Path) -> None:
    """Else the test above would prove nothing."""
    made, text, *_ = client.predict("tiny", ["bag"], ["4x6"], 1, 2, 1.0, OWN, 0, api_name="/generate")
    folder = place / text.split("`")[1]
    status, content = fetched(address, f"/gradio_api/file={folder / 'dataset.json'}")
    assert (status, content) == (200, (folder / "dataset.json").read_bytes())
    assert Path(made[0]["image"]).stat().st_size > 0


def test_no_button_puts_pictures_on_a_public_site(address: str) -> None:
    shown = [
        one["props"].get("buttons") or [] for one in httpx.get(f"{address}/config", timeout=60).json()["components"]
    ]
    assert any("download" in buttons for buttons in shown)
    assert not [buttons for buttons in shown if "share" in buttons]


def test_no_browser_keeps_what_was_uploaded_and_made(address: str) -> None:
    assert httpx.get(f"{address}/config", timeout=60).json()["run_history"] is False
    assert fetched(address, "/gradio_api/runs")[0] == 404


def test_an_upload_keeps_no_path_of_its_name(address: str, place: Path) -> None:
    names = ("../../evil.txt", "/etc/evil.txt", "..\\evil.txt", "<img src=x>.txt")
    for name in names:
        answer = httpx.post(f"{address}/gradio_api/upload", files={"files": (name, b"text")}, timeout=60)
        (kept,) = answer.json()
        assert ".." not in Path(kept).parts
        assert "<" not in Path(kept).name
        assert Path(kept).parent.parent.name == "gradio"
    assert not list(place.rglob("*evil*"))


def test_large_uploads_are_refused(address: str) -> None:
    answer = httpx.post(f"{address}/gradio_api/upload", files={"files": ("x.png", bytes(1_500_000))}, timeout=60)
    assert answer.status_code == 413


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("api_name", "words"),
    [
        ("/labels", (OUT,)),
        ("/generate", (OUT, [], [], 1, 2, None, OWN, 0)),
        ("/side_by_side", ("tiny", [], [], None, 0, [OUT], "", 1)),
        ("/browse", (OUT, "train", "all classes", 1)),
        ("/browse", ("data/noise", OUT, "all classes", 1)),
        ("/browse", ("data/noise", "train", OUT, 1)),
        ("/classes_of_data_set", (OUT,)),
        ("/verify", (OUT,)),
        ("/export", (OUT, "parquet")),
        ("/export", ("data/noise", OUT)),
        ("/about_model", (OUT,)),
        ("/debias", (OUT, "classifier", "auto", "", 20, 0.1, 10)),
        ("/debias", ("data/noise", OUT, "auto", "", 20, 0.1, 10)),
        ("/debias", ("data/noise", "classifier", OUT, "", 20, 0.1, 10)),
        ("/debias_without", (OUT, [])),
        ("/show_debiased", (OUT,)),
        ("/pairs", (OUT, "x")),
        ("/pack_debiased", (OUT,)),
        ("/stop_debiasing", (OUT,)),
        ("/distill", (OUT, 1, "ftd", "quick")),
        ("/distill", ("data/noise", 1, OUT, "quick")),
        ("/show_distilled", (OUT,)),
        ("/resume_distilling", (OUT,)),
        ("/stop_distilling", (OUT,)),
        ("/show_run", (OUT,)),
        ("/resume_run", (OUT,)),
        ("/stop_run", (OUT,)),
    ],
)
def test_no_name_leads_out_of_the_lists(client: Client, place: Path, api_name: str, words: tuple[Any, ...]) -> None:
    before = set((place / "app").iterdir())
    told = refusal(client, *words, api_name=api_name)
    assert OUT in told  # a sentence about it, and no failure of something else
    assert str(place) not in told
    assert set((place / "app").iterdir()) == before


def test_damaged_models_are_named_as_the_page_names_them(client: Client, place: Path) -> None:
    from tiny_models import random_pipeline

    random_pipeline().save_pretrained(place / "models" / "broken")
    (place / "models" / "broken" / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    told = refusal(client, "models/broken", [], [], 1, 2, None, OWN, 0, api_name="/generate")
    assert "models/broken is damaged" in told
    assert str(place) not in told


# ---- pictures --------------------------------------------------------------------------------------------------------


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def noise(mode: str = "RGB") -> Image.Image:
    random = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return Image.fromarray(random).convert(mode)


def deep() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 65536, SIZE, dtype=np.uint16))


SVG = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><script>alert(1)</script></svg>"
BAD = {
    "bomb.png": (encoded(Image.new("1", (90, 90)), "PNG"), "more than the 4,000 allowed"),
    "huge.png": (encoded(Image.new("1", (9000, 9000)), "PNG"), "more than the 4,000 allowed"),
    "truncated.png": (encoded(noise(), "PNG")[:900], "the picture cannot be read"),
    "truncated.jpg": (encoded(noise(), "JPEG")[:300], "the picture cannot be read"),
    "drawing.svg": (SVG, "it is not an image"),
    "drawing.png": (SVG, "it is not an image"),
    "page.html": (b"<script>alert(1)</script>", "it is not an image"),
    "empty.png": (b"", "it is not an image"),
}
GOOD = {
    "animated.gif": encoded(noise("P"), "GIF", save_all=True, append_images=[noise("L").convert("P")]),
    "animated.webp": encoded(noise(), "WEBP", save_all=True, append_images=[noise("L").convert("RGB")]),
    "deep.png": encoded(deep(), "PNG"),
    "printed.jpg": encoded(noise("CMYK"), "JPEG"),
    "palette.png": encoded(noise("P"), "PNG"),
    "seen-through.png": encoded(noise("RGBA"), "PNG"),
}


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    image = Image.new("L", SIZE[::-1])
    image.paste(255, (8, 5, 16, 10))
    image.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_sentences(client: Client, place: Path, tmp_path: Path, mask: Path, name: str) -> None:
    content, sentence = BAD[name]
    (tmp_path / name).write_bytes(content)
    bad = handle_file(str(tmp_path / name))
    before = set((place / "app").iterdir())
    for words, api_name in (
        ((bad, "classifier", ["gradcam"], "top1", 50, 0.2, 50), "/explain"),
        ((bad, None, handle_file(str(mask)), 0), "/mask"),
        ((bad, None, handle_file(str(mask)), "filler", 1, 0, 1.0, 0.5, 0, [], "", 0), "/inpaint"),
    ):
        told = refusal(client, *words, api_name=api_name)
        assert sentence in told
        assert "/" not in told.replace("give an image file such as PNG or JPEG", "")  # no place of the server
    noise().save(tmp_path / "picture.png")
    told = refusal(client, handle_file(str(tmp_path / "picture.png")), None, bad, 0, api_name="/mask")
    assert sentence.replace("the picture", "the mask") in told
    assert set((place / "app").iterdir()) == before


@pytest.mark.parametrize("name", GOOD)
def test_unusual_pictures_are_filled(client: Client, tmp_path: Path, mask: Path, name: str) -> None:
    (tmp_path / name).write_bytes(GOOD[name])
    words = (handle_file(str(tmp_path / name)), None, handle_file(str(mask)))
    variants, _, _, text, _, _ = client.predict(*words, "filler", 1, 0, 1.0, 0.5, 0, [], "", 0, api_name="/inpaint")
    assert "1 variant." in text
    with Image.open(variants[0]["image"]) as image:
        assert image.size == SIZE[::-1]


def test_a_painted_layer_may_be_no_bomb(client: Client, tmp_path: Path) -> None:
    noise().save(tmp_path / "picture.png")
    Image.new("1", (3000, 3000)).save(tmp_path / "layer.png")
    picture, layer = (handle_file(str(tmp_path / name)) for name in ("picture.png", "layer.png"))
    editor = {"background": picture, "layers": [layer], "composite": None, "id": None}
    assert str(tmp_path) not in refusal(client, picture, editor, None, 0, api_name="/mask")


# ---- people ----------------------------------------------------------------------------------------------------------


def test_with_accounts_nothing_is_had_without_one(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("anna:secret\n")
    with served(tmp_path, auth_file=tmp_path / "names") as url:
        address = url.rstrip("/")
        for target in ("/config", "/gradio_api/info", f"/gradio_api/file={tmp_path / 'app'}", "/gradio_api/file=x"):
            assert fetched(address, target)[0] == 401, target
        for target, given in (
            ("upload", {"files": {"files": ("x.png", b"x")}}),
            ("call/browse", {"json": {"data": ["fashion-mnist:extract", "test", "all classes", 1]}}),
            ("queue/join", {"json": {"data": [], "fn_index": 0, "session_hash": "x"}}),
        ):
            assert httpx.post(f"{address}/gradio_api/{target}", **given, timeout=60).status_code == 401, target  # type: ignore[arg-type]
        found = Client(address, auth=("anna", "secret"), verbose=False)
        assert "1,000 images" in found.predict("fashion-mnist:extract", "test", "all classes", 1, api_name="/browse")[1]
