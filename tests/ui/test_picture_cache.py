"""A picture in the page's cache is whole at every moment, however many ask for it."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from gradio import processing_utils
from PIL import Image

from ui.picture_cache import keep_pictures_whole, save_picture
from workbench.files import write_atomic


@pytest.fixture
def picture() -> Image.Image:
    """Of noise, so that its file is long."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8))


def test_it_keeps_what_gradio_would(picture: Image.Image, tmp_path: Path) -> None:
    own = Path(processing_utils.save_pil_to_cache(picture, str(tmp_path / "gradio"), format="png"))
    ours = Path(save_picture(picture, str(tmp_path / "ours"), format="png"))
    assert ours.relative_to(tmp_path / "ours") == own.relative_to(tmp_path / "gradio")
    assert ours.read_bytes() == own.read_bytes()


def test_a_picture_that_is_there_is_not_written_again(picture: Image.Image, tmp_path: Path) -> None:
    path = Path(save_picture(picture, str(tmp_path), format="png"))
    node = path.stat().st_ino
    os.utime(path, (1, 1))
    assert Path(save_picture(picture, str(tmp_path), format="png")) == path
    assert path.stat().st_ino == node
    assert path.stat().st_mtime > 1  # the cache forgets what nobody has asked for lately
    path.unlink()
    assert Path(save_picture(picture, str(tmp_path), format="png")).stat().st_size > 100_000


def test_gradio_keeps_pictures_by_it(picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processing_utils, "save_pil_to_cache", processing_utils.save_pil_to_cache)
    keep_pictures_whole()
    first, second = (Path(processing_utils.save_img_array_to_cache(np.asarray(picture), str(tmp_path))) for _ in "ab")
    assert first == second
    assert processing_utils.save_pil_to_cache is save_picture


def test_a_file_that_several_threads_write_is_whole(tmp_path: Path) -> None:
    path, content = tmp_path / "file", bytes(2_000_000)
    write_atomic(path, content)

    def write_or_read(number: int) -> int:
        if number % 2:
            return path.stat().st_size
        write_atomic(path, content)
        return len(content)

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(write_or_read, range(60))) == {len(content)}
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
