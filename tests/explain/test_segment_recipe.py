"""Training the small SAM: losses against the library, prompts where they should be, runs from the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn
from torchvision.ops import masks_to_boxes, sigmoid_focal_loss

from explain.segment import open_segmenter
from explain.segment_config import SegmentConfig
from explain.segment_data import framed_image, framed_mask, read_objects
from explain.segment_loss import dice_loss, focal_loss, mask_iou
from explain.segment_prompting import BOTH, BOX, POINT, boxes, draw_prompts, first_prompts, next_point, sample
from explain.segment_recipe import SegmentRecipe
from explain.small_sam import ZOO
from ui.segment import segment
from workbench import seeds
from workbench.errors import UserError
from workbench.metrics_log import read_metrics
from workbench.records import DatasetWriter
from workbench.scenes import shapes

TINY: dict[str, Any] = {
    "data": "scenes:shapes", "resolution": "32", "patch_size": 8, "encoder_width": 16, "encoder_depth": 1,
    "encoder_heads": 2, "decoder_width": 16, "max_images": 12, "validation_images": 5, "max_train_steps": 4,
    "train_batch_size": 4, "prompt_rounds": 2, "device": "cpu", "mixed_precision": "no", "validation_steps": 4,
    "checkpointing_steps": 2, "logging_steps": 2, "lr_warmup_steps": 0,
}  # fmt: skip


def config(output: Path, **changes: Any) -> SegmentConfig:
    return SegmentConfig(**{**TINY, "output_dir": output, **changes})


def regions(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Random rectangles with holes."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.zeros(count, height, width, dtype=torch.bool)
    for region in found:
        y, x = (int(torch.randint(side - 1, (1,), generator=generator)) for side in (height, width))
        region[y:, x:] = torch.rand(height - y, width - x, generator=generator) < 0.7
        region[-1, -1] = True
    return found


# ---- losses ----------------------------------------------------------------------------------------------------------


def test_losses_are_those_of_the_library_and_by_hand() -> None:
    logits = 3 * torch.randn(2, 3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    masks = regions(2, 6, 6)[:, None, None]
    wanted = sigmoid_focal_loss(logits, masks.float().expand_as(logits), 0.25, 2.0).mean((-2, -1))
    torch.testing.assert_close(focal_loss(logits, masks), wanted)
    p, m = logits[1, 2, 3].sigmoid(), masks[1, 0, 0].float()
    torch.testing.assert_close(dice_loss(logits, masks)[1, 2, 3], 1 - (2 * (p * m).sum() + 1) / (p + m).sum().add(1))
    hard = logits[1, 2, 3] > 0
    torch.testing.assert_close(mask_iou(logits, masks)[1, 2, 3], (hard * m).sum() / (hard + m).clamp(max=1).sum())
    perfect = torch.where(masks, 30.0, -30.0)
    for loss in (focal_loss, dice_loss):
        assert loss(perfect, masks).max() < 1e-3


def test_the_loss_takes_the_best_of_three_and_the_one(tmp_path: Path) -> None:
    """Against the step written out, for a model whose masks and qualities are given."""
    made = SegmentRecipe(config(tmp_path))
    generator = torch.Generator().manual_seed(2)
    logits, quality = torch.randn(4, 2, 4, 16, 16, generator=generator), torch.rand(4, 2, 4, generator=generator)
    draws = made.draw(4, seeds.generator(0, 1), 1)
    figures = made.loss(Given(logits, quality), torch.arange(4), draws)
    _, masks = made.data.train.shown(torch.arange(4), draws["which"], draws["flip"])
    total = errors = torch.zeros(())
    for k in range(4):
        for r in range(2):
            large = torch.nn.functional.interpolate(logits[k, r][None], (32, 32), mode="bilinear")[0]
            each = 20 * focal_loss(large, masks[k]) + dice_loss(large, masks[k])
            total = total + (each[0] + each[1:].min()) / 8
            errors = errors + (quality[k, r] - mask_iou(large, masks[k])).square().mean() / 8
    torch.testing.assert_close(figures["loss"], total + errors)
    torch.testing.assert_close(figures["quality_loss"], errors)


class Given(nn.Module):
    """A model of known answers."""

    def __init__(self, *answers: Tensor) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, *_: Any) -> tuple[Tensor, ...]:
        return self.answers


def test_every_weight_learns(tmp_path: Path) -> None:
    """As processes that train together need it."""
    made = SegmentRecipe(config(tmp_path))
    draws = {**made.draw(4, seeds.generator(0, 1), 1), "remember": torch.ones(4, 2, dtype=torch.bool)}
    made.loss(made.model, torch.arange(4), draws)["loss"].backward()
    assert [name for name, weight in made.model.named_parameters() if weight.grad is None] == []


# ---- prompts ---------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 20), st.integers(0, 99), st.floats(0, 1, exclude_max=True))
def test_points_lie_in_the_region(side: int, seed: int, place: float) -> None:
    masks = regions(5, side, side, seed)
    x, y = sample(masks, torch.full((5,), place)).long().unbind(1)
    assert masks[torch.arange(5), y, x].all()


def test_every_pixel_of_the_region_is_as_likely() -> None:
    mask = regions(1, 8, 8, 3)
    count = int(mask.sum())
    places = (torch.arange(count) + 0.5) / count
    found = sample(mask.expand(count, -1, -1), places).long()
    assert torch.equal(found.flip(1), mask[0].nonzero())


def test_boxes_are_the_librarys() -> None:
    masks = regions(6, 12, 12)
    assert torch.equal(boxes(masks), masks_to_boxes(masks))


@pytest.mark.parametrize(("kind", "labels"), [(POINT, [-1, -1, 1]), (BOX, [2, 3, -1]), (BOTH, [2, 3, 1])])
def test_first_prompts(kind: int, labels: list[int]) -> None:
    masks = regions(4, 12, 12)
    draws = draw_prompts(4, 2, seeds.generator(0, 1), kind)
    points, found = first_prompts(masks, {**draws, "jitter": torch.zeros(4, 4)})
    assert found.tolist() == [labels] * 4
    assert torch.equal(points[:, :2].reshape(4, 4), masks_to_boxes(masks))
    x, y = points[:, 2].long().unbind(1)
    assert masks[torch.arange(4), y, x].all()


def test_the_next_point_is_where_the_last_mask_was_wrong() -> None:
    masks = torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[:, 4:12, 4:12] = True
    predicted = masks.clone()
    predicted[0, 4:6] = False  # misses the top
    predicted[1, 12:, 4:12] = True  # goes on below
    logits = torch.where(predicted, 9.0, -9.0)
    points, labels = next_point(masks, logits, torch.tensor([0.5, 0.5, 0.5]))
    assert labels.tolist() == [1, 0, 1]
    (_, first), (_, second), (x, y) = points.tolist()
    assert 4 <= first < 6
    assert second >= 12
    assert masks[2, int(y), int(x)]


# ---- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["scenes", "scenes:planted", "scenes:shapes"])
def test_scenes(tmp_path: Path, data: str) -> None:
    found = read_objects(config(tmp_path, data=data))
    assert (len(found.train), len(found.held_out)) == (12, 5)
    assert found.train.images.shape == (12, 3, 32, 32)
    nothing = torch.zeros(12)
    images, masks = found.train.shown(torch.arange(12), nothing + 0.99, nothing > 0)
    assert masks.flatten(1).any(1).all()
    flipped = found.train.shown(torch.arange(12), nothing + 0.99, nothing == 0)
    assert torch.equal(flipped[0].flip(-1), images)
    assert torch.equal(flipped[1].flip(-1), masks)
    assert not any(torch.equal(one, other) for one in found.train.images for other in found.held_out.images)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes twice as wide as high, written as any data set of ours, with their masks; one row without."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    drawn = shapes(range(16), (24, 48))
    rows: list[dict[str, Any]] = [{k: row[k] for k in ("label", "mask")} for row in drawn.rows()]
    rows[3]["mask"] = torch.zeros(24, 48, dtype=torch.bool)
    writer = DatasetWriter(folder, drawn.label_names, {}, shard_size=16)
    writer.write_shard(0, drawn.images, rows)
    return writer.finish()


def test_a_data_set_with_masks(tmp_path: Path, dataset: Path) -> None:
    found = read_objects(config(tmp_path, data=str(dataset), max_images=100))
    assert (len(found.train), len(found.held_out)) in [(14, 1), (15, 0)]
    drawn = shapes(range(16), (24, 48))
    frames = [framed_image(image, 32) for image in drawn.images]
    for image, segments in zip(found.train.images, found.train.segments, strict=True):
        number = next(k for k, frame in enumerate(frames) if torch.equal(frame, image))
        assert torch.equal(segments, framed_mask(drawn.masks[number], 32))
        assert (image[:, 16:] == torch.tensor([124, 116, 104])[:, None, None]).all()
        assert not segments[16:].any()
    if len(found.train) == 14:
        assert any("no mask" in note for note in found.notes)


def test_masks_in_the_cells_of_a_parquet_file(tmp_path: Path) -> None:
    """As `datasets` writes a column of pictures."""
    drawn = shapes(range(6), (24, 48))
    images = [image.permute(1, 2, 0).numpy() for image in drawn.images]
    masks = [(mask.numpy() * 255).astype(np.uint8) for mask in drawn.masks]
    write_parquet(tmp_path / "train.parquet", ImageFeature(), image=images, mask=[*masks[:5], None])
    found = read_objects(config(tmp_path, data=str(tmp_path / "train.parquet"), max_images=100))
    assert len(found.train) == 5
    wanted = [framed_mask(mask, 32) for mask in drawn.masks[:5]]
    assert all(any(torch.equal(segments, one) for one in wanted) for segments in found.train.segments)


def test_a_parquet_file_that_only_names_its_masks(tmp_path: Path) -> None:
    images = [np.zeros((8, 8, 3), np.uint8)] * 3
    write_parquet(tmp_path / "train.parquet", Value("string"), image=images, mask=["one.png"] * 3)
    with pytest.raises(UserError, match="only names its masks"):
        read_objects(config(tmp_path, data=str(tmp_path / "train.parquet")))


def write_parquet(file: Path, kind: Any, **columns: Any) -> None:
    features = Features({"image": ImageFeature(), "mask": kind})
    Dataset.from_dict(columns, features=features).to_parquet(file)


@pytest.mark.parametrize("size", [(24, 48), (50, 31), (200, 7)])
def test_the_frame_is_where_the_segmenter_puts_an_image(size: tuple[int, int]) -> None:
    image = torch.full((3, *size), 9, dtype=torch.uint8)
    inside = (framed_image(image, 32) == 9).all(0)
    height, width = ResizeLongestSide.get_preprocess_shape(*size, 32)
    assert inside[:height, :width].all()
    assert inside.sum() == height * width


def test_data_without_masks(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for k in range(3):
        Image.fromarray(np.full((8, 8, 3), k, np.uint8)).save(tmp_path / "images" / f"{k}.png")
    for data in (str(tmp_path / "images"), "fashion-mnist:extract"):
        with pytest.raises(UserError, match="has no masks"):
            read_objects(config(tmp_path, data=data))
    with pytest.raises(UserError, match="there are no scenes 'scenes:circles'"):
        read_objects(config(tmp_path, data="scenes:circles"))


@pytest.mark.parametrize(
    ("mask", "sentence"), [("other.png", "its image of"), ("../up.png", "inside the data set"), ("no.png", "no.png")]
)
def test_masks_that_do_not_fit(tmp_path: Path, mask: str, sentence: str) -> None:
    rows = []
    for k in range(4):
        Image.fromarray(np.full((8, 8, 3), k, np.uint8)).save(tmp_path / f"{k}.png")
        rows.append(json.dumps({"file_name": f"{k}.png", "mask": mask}))
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "other.png")
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    with pytest.raises(UserError, match=sentence):
        read_objects(config(tmp_path, data=str(tmp_path)))


# ---- the command -----------------------------------------------------------------------------------------------------


def words(output: Path, **changes: Any) -> list[str]:
    given = {**TINY, "output_dir": output, **changes}
    return ["train", *(str(word) for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value))]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "run"
    segment(words(output))
    return output


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "segmenter" / "model.safetensors")


def test_a_run_leaves_a_segmenter(run: Path) -> None:
    segmenter = open_segmenter(str(run))
    assert segmenter.name == "small SAM of the workbench (4 steps on scenes:shapes)"
    assert segmenter.embed(torch.zeros(3, 20, 50, dtype=torch.uint8)).features.shape == (1, 16, 4, 4)
    last = read_metrics(run / "metrics.jsonl")[-1]
    assert {"validation_iou_point", "validation_iou_box", "validation_iou_2_points"} <= last.keys()
    assert "# Small SAM" in (run / "segmenter" / "README.md").read_text()
    with Image.open(run / "samples" / "step-00000004.png") as picture:
        assert picture.size == (2 + 6 * 34, 2 + 3 * 34)  # five images, two a row


def test_a_resumed_run_is_the_uninterrupted_one(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    stored = yaml.safe_load((copy / "config.yaml").read_text())
    (copy / "config.yaml").write_text(yaml.safe_dump({**stored, "output_dir": str(copy)}))
    shutil.rmtree(copy / "checkpoints" / "step-00000004")
    shutil.rmtree(copy / "segmenter")
    (copy / "finished.json").unlink()
    segment(words(copy))
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(copy).items())


def test_a_run_begins_from_another(run: Path, tmp_path: Path) -> None:
    recipe = SegmentRecipe(config(tmp_path / "next", init_from=str(run), data="scenes:planted"))
    begun = recipe.model.sam.state_dict()
    assert all(torch.equal(value, begun[name]) for name, value in weights(run).items())
    with pytest.raises(UserError, match="encoder_width is 16 there and 32 here; give the settings"):
        SegmentRecipe(config(tmp_path / "next", init_from=str(run), encoder_width=32))
    with pytest.raises(UserError, match="holds no small SAM"):
        SegmentRecipe(config(tmp_path / "next", init_from=str(tmp_path)))


def test_the_zoos_network_can_be_trained_on(tmp_path: Path) -> None:
    shipped = SegmentConfig(output_dir=tmp_path, init_from="zoo:small-sam", max_images=4, validation_images=2)
    begun = SegmentRecipe(shipped).model.sam.state_dict()
    kept = load_file(ZOO / "small-sam" / "model.safetensors")
    assert all(torch.equal(value, begun[name]) for name, value in kept.items())


def test_bf16_and_muon_are_trained_by_finite_numbers(tmp_path: Path) -> None:
    segment(words(tmp_path / "run", mixed_precision="bf16", optimizer="muon"))
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())
    assert not any("skipped_steps" in row for row in read_metrics(tmp_path / "run" / "metrics.jsonl"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"resolution": "48x32"}, "a multiple of --patch-size"),
        ({"resolution": "30"}, "a multiple of --patch-size"),
        ({"prompt_rounds": 1}, "--prompt-rounds is 1; give 2 or more"),
        ({"encoder_heads": 3}, "a multiple of --encoder-heads"),
    ],
)
def test_impossible_settings_are_named(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        config(tmp_path, **changes).check()
