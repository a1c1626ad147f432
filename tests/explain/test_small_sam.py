"""The small SAM: batched prompts and masks are those of segment-anything's own classes; on disk and back; refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from explain.prompts import Prompts
from explain.sam_checkpoint import SamSegmenter
from explain.sam_network import SamShape, build_sam, decode_masks, embed_prompts
from explain.segment import open_segmenter
from explain.small_sam import save_small_sam
from workbench.errors import UserError

SHAPE = SamShape(image_size=32, patch_size=8, encoder_width=16, encoder_depth=1, encoder_heads=2, width=16)
PROMPTS = Prompts(((20.0, 8.0), (3.0, 30.0)), (1, -1), (10.0, 2.0, 30.0, 20.0), (1.0, -0.5))
RECORD: dict[str, Any] = {"data": "scenes", "images": 3}


def network() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_sam(SHAPE).eval()


def image(height: int = 60, width: int = 40) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0)).byte()


@torch.no_grad()
def test_prompts_of_a_batch_are_embedded_as_those_of_one() -> None:
    encoder = network().prompt_encoder
    points = torch.tensor([[[1.0, 2.0], [9.0, 20.0], [4.0, 4.0]], [[3.0, 7.0], [30.0, 12.0], [5.0, 6.0]]])
    labels = torch.tensor([[2, 3, 1], [-1, 0, 1]])
    found = embed_prompts(encoder, points, labels)
    boxed, _ = encoder(points=(points[:1, 2:], labels[:1, 2:]), boxes=points[0, :2].view(1, 4), masks=None)
    torch.testing.assert_close(found[0], boxed[0][[1, 2, 0]])
    pointed, _ = encoder(points=(points[1:, 1:], labels[1:, 1:]), boxes=None, masks=None)
    torch.testing.assert_close(found[1], pointed[0][[2, 0, 1]])


@torch.no_grad()
def test_masks_of_a_batch_are_those_of_one() -> None:
    sam = network()
    generator = torch.Generator().manual_seed(1)
    features, dense = torch.randn(2, 3, 16, 4, 4, generator=generator)
    sparse = torch.randn(3, 5, 16, generator=generator)
    places = sam.prompt_encoder.get_dense_pe()
    masks, quality = decode_masks(sam.mask_decoder, features, places, sparse, dense)
    assert masks.shape == (3, 4, 16, 16)
    for k in range(3):
        one = slice(k, k + 1)
        wanted = sam.mask_decoder.predict_masks(features[one], places, sparse[one], dense[one])
        torch.testing.assert_close((masks[one], quality[one]), wanted)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    sam = network()
    (tmp_path / "run" / "segmenter").mkdir(parents=True)
    save_small_sam(sam, SHAPE, RECORD, 70, tmp_path / "run" / "segmenter")
    for folder in (tmp_path / "run", tmp_path / "run" / "segmenter"):
        opened = open_segmenter(str(folder))
        masks, quality = opened.masks(opened.embed(image()), PROMPTS)
        before = SamSegmenter(sam, "before")
        wanted = before.masks(before.embed(image()), PROMPTS)
        assert masks.shape == (3, 60, 40)
        assert torch.equal(masks, wanted[0])
        assert torch.equal(quality, wanted[1])
        assert opened.trained
        assert not opened.classical
        assert opened.name == "small SAM of the workbench (70 steps on scenes)"


def test_an_untrained_network_is_refused(tmp_path: Path) -> None:
    save_small_sam(network(), SHAPE, RECORD, 0, tmp_path)
    with pytest.raises(UserError, match="has not been trained"):
        open_segmenter(str(tmp_path))


@pytest.mark.parametrize("damage", ["weights", "shape", "missing"])
def test_a_damaged_folder_is_named(tmp_path: Path, damage: str) -> None:
    save_small_sam(network(), SHAPE, RECORD, 70, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if damage == "weights":
        (tmp_path / "model.safetensors").write_bytes(b"half")
    elif damage == "shape":
        config["shape"]["width"] = 24
    else:
        del config["shape"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="is damaged"):
        open_segmenter(str(tmp_path))


def test_an_unfinished_run_is_no_segmenter(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("recipe: segment")
    with pytest.raises(UserError, match="not finished"):
        open_segmenter(str(tmp_path))


def test_it_is_small_enough_to_ship() -> None:
    with torch.device("meta"):
        weights = sum(value.numel() for value in build_sam(SamShape()).state_dict().values())
    assert weights * 4 < 12e6
