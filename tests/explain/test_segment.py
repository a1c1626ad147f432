"""Every segmenter behind the one interface, which one is taken, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from segment_anything import SamPredictor
from torch import Tensor

import explain.segment as segment_module
from explain.candidates import choose, evidence_score
from explain.hiding import hiding
from explain.prompts import Prompts, prompts_of
from explain.sam_checkpoint import open_checkpoint
from explain.sam_network import SamShape, build_sam, shape_of
from explain.segment import open_segmenter, open_segmenters
from explain.shapley import Attribution
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier
from workbench.planted import planted

HEIGHT, WIDTH = 60, 90
DISC = (60.0, 25.0, 14.0)  # x, y, radius
PROMPTS = Prompts(((60.0, 25.0), (12.0, 45.0)), (1, -1), (44.0, 10.0, 76.0, 40.0), (1.0, -0.5))
TINY = SamShape(
    image_size=64, patch_size=16, encoder_width=32, encoder_depth=3, encoder_heads=2, relative_positions=True,
    window_size=3, global_blocks=(1,), width=16, decoder_mlp=24, quality_width=20,
)  # fmt: skip


def disc() -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return (columns - DISC[0]) ** 2 + (rows - DISC[1]) ** 2 <= DISC[2] ** 2


def scene() -> Tensor:
    """An orange disc on noisy blue."""
    noise = torch.randint(0, 40, (3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0))
    colours = torch.where(
        disc(), torch.tensor([220, 120, 20])[:, None, None], torch.tensor([20, 40, 160])[:, None, None]
    )
    return (colours + noise).clamp(0, 255).byte()


def iou(mask: Tensor, truth: Tensor) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


# ---- classical -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["grabcut", "random-walker"])
@pytest.mark.parametrize("enlarged", [1, 4])
def test_classical_segmenters_find_the_disc(spec: str, enlarged: int) -> None:
    """At another size than they work at, too; twice the same."""
    if spec == "grabcut":
        pytest.importorskip("cv2")
    image, truth = (x.repeat_interleave(enlarged, -1).repeat_interleave(enlarged, -2) for x in (scene(), disc()))
    points = tuple((enlarged * x, enlarged * y) for x, y in PROMPTS.points)
    segmenter = open_segmenter(spec)
    embedding = segmenter.embed(image)
    masks, quality = segmenter.masks(embedding, Prompts(points, PROMPTS.signs, None, PROMPTS.peak_values))
    assert masks.shape == (1, *truth.shape)
    assert iou(masks[0], truth) > 0.9
    assert quality.isnan().all()
    again, _ = segmenter.masks(embedding, Prompts(points, PROMPTS.signs, None, PROMPTS.peak_values))
    assert torch.equal(masks, again)
    assert segmenter.classical
    assert "no SAM weights" in segmenter.name


def test_grabcut_finds_a_large_object_in_a_small_picture() -> None:
    """Half as wide as the picture of 48 x 64 pixels, from its middle and box: without the box, or cut at its own
    size, the mean IoU is 0.73 or 0.85."""
    pytest.importorskip("cv2")
    scenes = planted(range(4), (48, 64), seed=3, plant="none")
    segmenter = open_segmenter("grabcut")
    found = []
    for image, truth in zip(scenes.images, scenes.masks, strict=True):
        rows, columns = (line.tolist() for line in truth.nonzero().T)
        box = (float(min(columns)), float(min(rows)), float(max(columns)), float(max(rows)))
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        masks, _ = segmenter.masks(segmenter.embed(image), Prompts((middle,), (1,), box, (1.0,)))
        found.append(iou(masks[0], truth))
    assert sum(found) / len(found) > 0.88


def test_points_that_name_no_object() -> None:
    segmenter = open_segmenter("random-walker")
    with pytest.raises(UserError, match="at least one positive point"):
        segmenter.masks(segmenter.embed(scene()), Prompts(((3.0, 4.0),), (-1,), None, (0.0,)))


def test_the_threshold_is_the_evidence_itself() -> None:
    values = disc().float() - 0.3
    prompts = prompts_of(values)
    assert prompts is not None
    segmenter = open_segmenter("threshold")
    masks, quality = segmenter.masks(segmenter.embed(scene()), prompts)
    assert torch.equal(masks[0], disc())
    assert quality.isnan().all()
    with pytest.raises(UserError, match="without an explanation"):
        segmenter.masks(segmenter.embed(scene()), PROMPTS)


# ---- segment-anything ------------------------------------------------------------------------------------------------


def tiny_sam(shape: SamShape = TINY) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sam = build_sam(shape).eval()
        for parameter in sam.parameters():  # zeros hide mistakes
            if not parameter.any():
                parameter.data.normal_(0, 0.2)
    return sam


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam") / "tiny_untrained.pth"
    torch.save(tiny_sam().state_dict(), path)
    return path


@pytest.mark.parametrize("prompts", [PROMPTS, Prompts(PROMPTS.points, PROMPTS.signs, None, PROMPTS.peak_values)])
def test_a_checkpoint_gives_the_masks_of_its_own_predictor(checkpoint: Path, prompts: Prompts) -> None:
    segmenter = open_segmenter(str(checkpoint))
    masks, quality = segmenter.masks(segmenter.embed(scene()), prompts)
    predictor = SamPredictor(tiny_sam())
    predictor.set_image(scene().permute(1, 2, 0).numpy())
    wanted, scores, _ = predictor.predict(
        np.array(prompts.points), np.array([1, 0]), None if prompts.box is None else np.array(prompts.box)
    )
    assert torch.equal(masks, torch.from_numpy(wanted))
    torch.testing.assert_close(quality, torch.from_numpy(scores))
    assert masks.any()
    assert not segmenter.classical
    assert "tiny_untrained.pth" in segmenter.name


def test_the_sizes_are_read_from_the_weights(checkpoint: Path, tmp_path: Path) -> None:
    assert shape_of(tiny_sam().state_dict()) == TINY
    save_file(tiny_sam().state_dict(), tmp_path / "weights.safetensors")
    assert torch.equal(
        open_checkpoint(tmp_path / "weights.safetensors").embed(scene()).features,
        open_checkpoint(checkpoint).embed(scene()).features,
    )


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_the_released_networks_are_recognised(name: str) -> None:
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        released = sam_model_registry[name]()
        ours = build_sam(shape := shape_of(released.state_dict()))
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in released.state_dict().items()}
    blocks = zip(ours.image_encoder.blocks, released.image_encoder.blocks, strict=True)
    assert all((a.window_size, a.attn.num_heads) == (b.window_size, b.attn.num_heads) for a, b in blocks)
    assert (shape.image_size, shape.patch_size, shape.mlp_ratio) == (1024, 16, 4.0)


def test_an_image_is_embedded_once(checkpoint: Path) -> None:
    segmenter = open_segmenter(str(checkpoint))
    calls: list[int] = []
    segmenter.sam.image_encoder.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[attr-defined]
    embedding = segmenter.embed(scene())
    for _ in range(3):
        segmenter.masks(embedding, PROMPTS)
    assert len(calls) == 1


class Pickled:
    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.mark.parametrize("kind", ["other", "nested", "text", "code", "half"])
def test_files_that_are_no_checkpoint(kind: str, checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "file.pth"
    state = torch.load(checkpoint, weights_only=True)
    contents = {
        "other": {"conv.weight": torch.zeros(3)},
        "nested": {"model": {"trunk.pos_embed": torch.zeros(3)}},
        "code": Pickled(),
        "half": {k: v for k, v in state.items() if "mask_decoder.iou_token" not in k},
    }
    path.write_text("nothing") if kind == "text" else torch.save(contents[kind], path)
    with pytest.raises(UserError, match="is not a checkpoint of segment-anything's ViT-B"):
        open_segmenter(str(path))
    assert capsys.readouterr().out == ""


# ---- transformers ----------------------------------------------------------------------------------------------------


def tiny_transformers(kind: str, folder: Path) -> Path:
    """A SAM or SAM 2 of random weights, as a hub folder has it."""
    import transformers as t

    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "sam":
            config = t.SamConfig(
                vision_config={
                    "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                    "image_size": 64, "patch_size": 16, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 48,
                    "num_pos_feats": 8,
                },
                prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 8},
                mask_decoder_config={"hidden_size": 16, "mlp_dim": 24, "num_attention_heads": 2,
                                     "iou_head_hidden_dim": 16},
            )  # fmt: skip
            t.SamModel(config).save_pretrained(folder)
            size = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
            t.SamImageProcessor(**size).save_pretrained(folder)
        else:
            backbone = t.Sam2HieraDetConfig(
                hidden_size=8, image_size=[64, 64], num_attention_heads=1, blocks_per_stage=[1, 1, 2, 1],
                embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 2, 2],
                window_size_per_stage=[8, 4, 4, 4], global_attention_blocks=[3],
                window_positional_embedding_background_size=[4, 4],
            )  # fmt: skip
            vision = t.Sam2VisionConfig(
                backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=16,
                backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
            )  # fmt: skip
            config = t.Sam2Config(
                vision_config=vision,
                prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 8},
                mask_decoder_config={"hidden_size": 16, "mlp_dim": 24, "num_attention_heads": 2,
                                     "iou_head_hidden_dim": 16},
            )  # fmt: skip
            t.Sam2Model(config).save_pretrained(folder)
            t.Sam2ImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["sam", "sam2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_transformers(request.param, tmp_path_factory.mktemp(f"{request.param}_untrained"))


def test_a_transformers_folder_gives_the_masks_of_its_own_pipeline(folder: Path) -> None:
    import transformers

    segmenter = open_segmenter(str(folder))
    masks, quality = segmenter.masks(segmenter.embed(scene()), PROMPTS)
    first = folder.name.startswith("sam_")
    processor = (transformers.SamProcessor if first else transformers.Sam2Processor)(
        transformers.AutoImageProcessor.from_pretrained(folder)
    )
    model = (transformers.SamModel if first else transformers.Sam2Model).from_pretrained(folder)
    points = [[[list(point) for point in PROMPTS.points]]]
    given = processor(
        scene().permute(1, 2, 0).numpy(), input_points=points, input_labels=[[[1, 0]]],
        input_boxes=[[list(PROMPTS.box or ())]], return_tensors="pt",
    )  # fmt: skip
    sizes = [given[key] for key in ("original_sizes", "reshaped_input_sizes") if key in given]
    with torch.no_grad():
        found = model(**{k: v for k, v in given.items() if not k.endswith("sizes")}, multimask_output=True)
    wanted = processor.post_process_masks(found.pred_masks, *sizes)[0][0]
    assert masks.shape == (3, HEIGHT, WIDTH)
    assert (masks == wanted).float().mean() > 0.999
    torch.testing.assert_close(quality, found.iou_scores[0, 0], rtol=1e-3, atol=1e-4)
    assert segmenter.name.startswith("SAM (" if first else "SAM 2 (")


def test_missing_weights_are_not_made_up(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "iou_token" not in k}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(UserError, match=r"lacks trained weights for mask_decoder\.iou_token"):
        open_segmenter(str(tmp_path))


def test_a_model_of_another_type(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UserError, match="a model of the type vit, not sam or sam2"):
        open_segmenter(str(tmp_path))


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no complete SAM or SAM 2"):
        open_segmenter(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam"}))
    with pytest.raises(UserError, match="no complete SAM or SAM 2"):
        open_segmenter(str(tmp_path))


def test_no_weights_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import explain.sam_transformers as backend

    asked: list[bool] = []

    def nowhere(name: str, device: Any, local: bool) -> Any:
        asked.append(local)
        raise OSError("there is no connection")

    monkeypatch.setattr(backend, "_open", nowhere)
    with pytest.raises(UserError, match="not on disk and could not be had"):
        open_segmenter("facebook/sam-vit-base")
    assert asked == [True, False]


# ---- which one -------------------------------------------------------------------------------------------------------


def test_auto_takes_the_best_that_is_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    monkeypatch.setattr("explain.sam_transformers.on_disk", lambda: str(folder))
    assert open_segmenter().name.startswith("SAM")
    assert len(open_segmenters()) == 1
    monkeypatch.setattr("explain.sam_transformers.on_disk", lambda: None)
    small, classical = open_segmenters()
    assert "small SAM" in small.name
    assert classical.classical
    monkeypatch.setattr(segment_module, "ZOO", tmp_path)
    found = {"cv2": True}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found.get(name))
    assert open_segmenter().name.startswith("GrabCut")
    found.clear()
    assert open_segmenter().name.startswith("random walker")
    with pytest.raises(UserError, match=r"grabcut needs opencv: .*random-walker"):
        open_segmenter("grabcut")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("sam", "there is no segmenter 'sam': give auto"),
        ("missing/deeply/file.pth", "there is no segmenter"),
        ("zoo:large-sam", "the zoo has no segmenter large-sam"),
    ],
)
def test_specs_that_name_nothing(spec: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        open_segmenter(spec)


# ---- the choice ------------------------------------------------------------------------------------------------------


class Orange(torch.nn.Module):
    """How much orange it sees."""

    def forward(self, pixels: Tensor) -> Tensor:
        seen = (pixels[:, 0] - pixels[:, 2]).clamp(min=0).mean((1, 2))
        return torch.stack([torch.zeros_like(seen), 100 * seen - 4], 1)


def attribution(values: Tensor) -> Attribution:
    return Attribution(values, 0.1, 1, 0.9, 10, 0.1, 0.0, "mean", "probability", 0, "test", None)


def test_the_mask_that_holds_the_evidence_is_chosen() -> None:
    classifier = PixelClassifier.wrap(Orange(), mean=(0.0,) * 3, std=(1.0,) * 3)
    image, truth = scene().float() / 255, disc()
    values = truth * 0.01 - 0.001
    part = truth.clone()
    part[:, 60:] = False
    other = torch.zeros_like(truth)
    other[40:55, 5:20] = True
    masks = torch.stack([torch.ones_like(truth), other, part, truth, torch.zeros_like(truth)])
    qualities = torch.tensor([1.0, 0.99, 0.9, 0.5, math.nan])
    found, chosen = choose(classifier, image, attribution(values), masks, qualities, list("aaabb"))
    assert [one.segmenter for one in found] == list("aaabb")
    assert chosen == 3
    area = float(truth.float().mean())
    assert found[3].evidence == pytest.approx(1 - area)
    assert found[1].evidence == pytest.approx(-float(other.float().mean()))
    assert [bool(c.rejected) for c in found] == [True, True, False, False, True]
    assert "whole image" in found[0].rejected
    assert found[1].rejected == "it holds 0% of the evidence in 4% of the picture"
    assert "tiny" in found[4].rejected
    with torch.no_grad():
        shown = classifier.probabilities(classifier(hiding(image, "mean")(truth[None])))[0, 1]
    assert found[3].confidence == pytest.approx(float(shown))
    assert found[3].confidence > found[1].confidence


def test_the_cut_out_decides_between_equals() -> None:
    """Two masks of one evidence and quality: the one on which the classifier keeps its word."""
    classifier = PixelClassifier.wrap(Orange(), mean=(0.0,) * 3, std=(1.0,) * 3)
    values = torch.zeros(HEIGHT, WIDTH)
    values[:, 10:12] = values[:, 59:61] = 0.01
    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, :, 5:20] = True
    masks[1, :, 50:65] = True
    image, flat = scene().float() / 255, torch.tensor([0.5, 0.5])
    found, chosen = choose(classifier, image, attribution(values), masks, flat, list("ab"))
    assert found[0].evidence == pytest.approx(found[1].evidence)
    assert chosen == 1


def test_no_mask_is_chosen_where_none_fits() -> None:
    classifier = PixelClassifier.wrap(Orange(), mean=(0.0,) * 3, std=(1.0,) * 3)
    image = scene().float() / 255
    found, chosen = choose(classifier, image, attribution(-disc().float()), disc()[None], torch.tensor([0.9]), ["a"])
    assert chosen is None
    assert found[0].rejected
    assert evidence_score(disc(), torch.zeros(HEIGHT, WIDTH)) < 0
