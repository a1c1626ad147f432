"""Every method keeps the one contract; each agrees with a library or with what is known of a toy."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy_classifiers import linear, pixels, quadrants, small_cnn, tiny_vit

from explain import cams
from explain.maps import Maps, stretched
from explain.passes import counted
from explain.rise import random_masks, rise
from explain.rollout import rollout
from explain.saliency import METHODS, explain
from explain.targets import resolve_targets
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier

HEIGHT, WIDTH = 24, 32
TARGETS = torch.tensor([[0, 3], [1, 2]])
EVERY = [name for name in METHODS if name not in ("ttame", "shap", "vale")]
CONTROLS = ("random", "centre", "edges", "uniform")
OPTIONS: dict[str, Any] = {"num_masks": 12, "num_steps": 4, "batch_size": 5, "seed": 3}


def plain_cnn() -> PixelClassifier:
    """One that LRP explains too: captum has no rule for nn.Flatten."""
    network = small_cnn().network

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = network[:5]
            self.head = network[6]

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.features(x).flatten(1))

    return PixelClassifier.wrap(Plain(), mean=0.5, std=0.25)


# ---- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_the_contract(name: str) -> None:
    classifier = tiny_vit("timm") if name == "rollout" else plain_cnn()
    images = pixels(2, 3, HEIGHT, WIDTH)
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    stream = torch.get_rng_state()
    maps = explain(name, classifier, images, TARGETS, **OPTIONS)
    assert maps.values.shape == (4, HEIGHT, WIDTH)
    assert maps.targets.tolist() == [0, 3, 1, 2]
    assert maps.values.isfinite().all()
    assert maps.values.amin() >= 0
    assert not maps.values.requires_grad
    again = explain(name, classifier, images, TARGETS, **OPTIONS)
    assert torch.equal(maps.values, again.values)
    if not METHODS[name].knows_target:
        assert torch.equal(maps.values[0], maps.values[1])
    elif name != "uniform":
        assert not torch.equal(maps.values[0], maps.values[1])
    assert torch.equal(torch.get_rng_state(), stream), "the global stream was used"
    assert all(torch.equal(before[key], value) for key, value in classifier.state_dict().items())
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in classifier.modules())


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("gradientshap", "random")])
def test_an_image_is_explained_the_same_alone(name: str) -> None:
    """gradientshap and random draw for each place in the batch."""
    classifier = tiny_vit("timm") if name == "rollout" else plain_cnn()
    images = pixels(2, 3, HEIGHT, WIDTH)
    together = explain(name, classifier, images, TARGETS, **OPTIONS)
    alone = explain(name, classifier, images[1:], TARGETS[1:], **OPTIONS)
    torch.testing.assert_close(together.values[2:], alone.values, rtol=1e-4, atol=1e-6)


# forward and backward passes for one image and two targets
PASSES = {
    "gradcam": (1, 2), "gradcam++": (1, 2), "hirescam": (1, 2), "layercam": (1, 2), "eigencam": (1, 0),
    "scorecam": (1 + 12, 0), "ablationcam": (1 + 12, 0), "rise": (12, 0), "ig": (2 * 4, 2 * 4), "rollout": (1, 0),
    "gradientshap": (2 * 32, 2 * 32), "lrp": (2 * 2, 2), **dict.fromkeys(CONTROLS, (0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSES)
def test_passes_are_counted(name: str) -> None:
    classifier = tiny_vit("timm") if name == "rollout" else plain_cnn()
    maps = explain(name, classifier, pixels(1, 3, HEIGHT, WIDTH), TARGETS[:1], **OPTIONS)
    assert (maps.forward_passes, maps.backward_passes) == PASSES[name]


def test_occlusion_counts_its_windows() -> None:
    maps = explain("occlusion", plain_cnn(), pixels(1, 3, HEIGHT, WIDTH), [0], batch_size=7)
    windows = math.prod(math.ceil((side - 4) / 2) + 1 for side in (HEIGHT, WIDTH))  # 4 pixels wide, 2 apart
    assert maps.forward_passes == 1 + windows


def test_nothing_is_counted_after_the_block() -> None:
    classifier = small_cnn()
    with counted(classifier) as cost:
        classifier(pixels(3, 3, 8, 12)).sum().backward()
    classifier(pixels(3, 3, 8, 12))
    assert (cost.forward_passes, cost.backward_passes) == (3, 3)
    assert cost.seconds > 0


def test_unknown_methods_and_missing_numbers_are_a_sentence() -> None:
    with pytest.raises(UserError, match="did you mean 'gradcam'"):
        explain("grad-cam", small_cnn(), pixels(1, 3, 8, 12))
    broken = small_cnn()
    with torch.no_grad():
        broken.network[0].weight.fill_(torch.nan)  # type: ignore[union-attr,operator]
    with pytest.raises(UserError, match="not finite"):
        explain("rise", broken, pixels(1, 3, 8, 12), [0], num_masks=4)


# ---- targets ---------------------------------------------------------------------------------------------------------


def test_targets_by_rank_number_and_name() -> None:
    classifier = PixelClassifier.wrap(small_cnn().network, mean=0.5, std=0.25, class_names=["a", "b", "cat", "d"])
    logits = torch.tensor([[0.0, 3, 1, 2], [5, 0, 1, 2]])
    expected: dict[Any, list[list[int]]] = {
        None: [[1], [0]],
        "top1": [[1], [0]],
        "top3": [[1, 3, 2], [0, 3, 2]],
        "top9": [[1, 3, 2, 0], [0, 3, 2, 1]],
        2: [[2], [2]],
        "cat": [[2], [2]],
        ("cat", 0, "3"): [[2, 0, 3], [2, 0, 3]],
    }
    for targets, numbers in expected.items():
        assert resolve_targets(targets, classifier, logits).tolist() == numbers
    assert resolve_targets(torch.tensor([3, 1]), classifier, logits).tolist() == [[3], [1]]


@pytest.mark.parametrize(("target", "message"), [(4, "from 0 to 3"), (-1, "from 0 to 3"), ("car", "nearest are cat")])
def test_impossible_targets_are_a_sentence(target: int | str, message: str) -> None:
    classifier = PixelClassifier.wrap(small_cnn().network, mean=0.5, std=0.25, class_names=["a", "b", "cat", "d"])
    with pytest.raises(UserError, match=message):
        resolve_targets(target, classifier, torch.zeros(1, 4))


# ---- maps ------------------------------------------------------------------------------------------------------------


def test_maps_are_stretched_each_by_itself() -> None:
    values = torch.stack([torch.arange(6.0).view(2, 3) - 3, torch.full((2, 3), 7.0), 100 * pixels(2, 3)])
    result = stretched(values)
    torch.testing.assert_close(result[0], torch.arange(6.0).view(2, 3) / 5)
    assert not result[1].any()
    assert (result[2].min(), result[2].max()) == (0, 1)
    assert torch.equal(values[1], torch.full((2, 3), 7.0)), "normalised in place"


def test_images_of_maps() -> None:
    maps = Maps(pixels(6, 4, 5), torch.arange(6), 0, 0, 0.0)
    images = pixels(2, 3, 4, 5)
    assert torch.equal(maps.repeated(images), images[[0, 0, 0, 1, 1, 1]])


# ---- class activation maps -------------------------------------------------------------------------------------------

LIBRARY = {
    "gradcam": "GradCAM",
    "gradcam_plus_plus": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "eigencam": "EigenCAM",
}


@pytest.mark.parametrize("ours", LIBRARY)
def test_cams_equal_those_of_the_grad_cam_package(ours: str) -> None:
    library = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    classifier, images = small_cnn(), pixels(2, 3, HEIGHT, WIDTH)
    maps = getattr(cams, ours)(classifier, images, TARGETS, layer="2")
    network: Any = classifier.network
    network[3].inplace = False  # the library would see the layer overwritten
    with getattr(library, LIBRARY[ours])(classifier, [network[2]]) as cam:
        wanted = [ClassifierOutputTarget(k) for k in maps.targets.tolist()]
        theirs = torch.from_numpy(cam.forward(images.repeat_interleave(2, 0), wanted))
    assert maps.raw is not None
    either_sign = [enlarged(sign * maps.raw, images) for sign in (1, -1)]
    torch.testing.assert_close(stretched(maps.values), either_sign[0])
    signs = either_sign if ours == "eigencam" else either_sign[:1]  # there the library leaves the sign to chance
    for number, their in enumerate(theirs):
        assert min((own[number] - their).abs().max() for own in signs) < 1e-4


def enlarged(raw: Tensor, images: Tensor) -> Tensor:
    return stretched(F.interpolate(raw.clamp(min=0)[:, None], images.shape[-2:], mode="bilinear")[:, 0])


def features_and_head(classifier: PixelClassifier, images: Tensor) -> tuple[Tensor, nn.Sequential]:
    """What layer "2" of `small_cnn` puts out, and the rest."""
    network: Any = classifier.network
    return network[:3](classifier.preprocess(images)), network[3:]


@torch.no_grad()
def test_scorecam_by_hand() -> None:
    classifier, images = small_cnn(), pixels(1, 3, HEIGHT, WIDTH)
    features, _ = features_and_head(classifier, images)
    scores = []
    for channel in features[0]:
        mask = F.interpolate(channel[None, None], (HEIGHT, WIDTH), mode="bilinear")[0, 0]
        scores.append(classifier(images * (mask - mask.min()) / (mask.max() - mask.min()))[0, 3])
    weights = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
    expected = sum(weight * channel for weight, channel in zip(weights, features[0], strict=True))
    maps = cams.scorecam(classifier, images, torch.tensor([[0, 3]]), layer="2", batch_size=5)
    assert maps.raw is not None
    torch.testing.assert_close(maps.raw[1], expected)


@torch.no_grad()
def test_ablationcam_by_hand() -> None:
    classifier, images = small_cnn(), pixels(1, 3, HEIGHT, WIDTH)
    features, head = features_and_head(classifier, images)
    whole = head(features.clone())[0, 3]
    expected = torch.zeros_like(features[0, 0])
    for number, channel in enumerate(features[0]):
        without = features.clone()
        without[:, number] = 0
        expected += (whole - head(without)[0, 3]) / whole * channel
    maps = cams.ablationcam(classifier, images, torch.tensor([[0, 3]]), layer="2", batch_size=5)
    assert maps.raw is not None
    torch.testing.assert_close(maps.raw[1], expected)


@pytest.mark.parametrize("method", ["gradcam", "gradcam_plus_plus", "hirescam", "layercam", "scorecam", "ablationcam"])
@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_cams_of_transformers_lie_on_their_patches(library: str, method: str) -> None:
    maps = getattr(cams, method)(tiny_vit(library), pixels(2, 3, HEIGHT, WIDTH), TARGETS)
    assert maps.raw is not None
    assert maps.raw.shape == (4, 3, 4)
    assert maps.raw.abs().amax() > 0


# ---- RISE ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["black", "mean"])
def test_rise_estimates_its_expectation(fill: str) -> None:
    """The mean of p(target) * mask / p over masks, written as a loop."""
    classifier, images = quadrants(HEIGHT, WIDTH), pixels(2, 3, HEIGHT, WIDTH)
    hidden = images.mean((2, 3), keepdim=True) if fill == "mean" else 0 * images
    masks = random_masks(range(30), (HEIGHT, WIDTH), 5, 0.4, seed=2)
    expected = torch.zeros(2, 2, HEIGHT, WIDTH)
    for mask in masks:
        p = classifier(images * mask + hidden * (1 - mask)).softmax(-1)
        for b in range(2):
            for t in range(2):
                expected[b, t] += p[b, TARGETS[b, t]] * mask / 0.4 / 30
    settings = {"num_masks": 30, "grid": 5, "keep_probability": 0.4, "fill": fill, "seed": 2, "batch_size": 7}
    maps = rise(classifier, images, TARGETS, **settings)
    torch.testing.assert_close(maps.values, expected.flatten(0, 1).detach())


@pytest.mark.parametrize("size", [(24, 32), (31, 9), (7, 50)])
def test_rise_masks(size: tuple[int, int]) -> None:
    masks = random_masks(range(400), size, 7, 0.3, seed=0)
    assert masks.shape == (400, *size)
    assert masks.min() >= 0
    assert masks.max() <= 1
    torch.testing.assert_close(masks.mean(0), torch.full(size, 0.3), atol=0.12, rtol=0)  # six standard errors
    assert torch.equal(masks[3:5], random_masks(range(3, 5), size, 7, 0.3, seed=0))
    assert not torch.equal(masks[:2], random_masks(range(2), size, 7, 0.3, seed=1))


def test_rise_cells_are_square() -> None:
    """As many pixels change along rows as along columns, whatever the aspect."""
    masks = random_masks(range(200), (28, 84), 7, 0.5, seed=0)
    down, right = masks.diff(dim=1).abs().mean(), masks.diff(dim=2).abs().mean()
    assert 0.9 < down / right < 1.1


@pytest.mark.parametrize("method", ["rise", "occlusion", "ig", "gradientshap"])
def test_the_quadrant_that_matters_is_found(method: str) -> None:
    maps = explain(method, quadrants(HEIGHT, WIDTH), 0.5 + pixels(1, 3, HEIGHT, WIDTH) / 2, [2], num_masks=300)
    rows, columns = slice(HEIGHT // 2, None), slice(None, WIDTH // 2)
    inside = maps.values[0, rows, columns].mean()
    assert inside > 1.1 * (maps.values[0].sum() - maps.values[0, rows, columns].sum()) / (HEIGHT * WIDTH * 3 / 4)


# ---- attributions ----------------------------------------------------------------------------------------------------


def test_integrated_gradients_of_a_linear_classifier_are_its_terms() -> None:
    weights = pixels(4, HEIGHT, WIDTH) - 0.5
    images = pixels(2, 3, HEIGHT, WIDTH)
    maps = explain("ig", linear(weights), images, TARGETS)
    assert maps.raw is not None
    expected = images.mean(1).repeat_interleave(2, 0) * weights[maps.targets]
    torch.testing.assert_close(maps.raw, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(maps.values, expected.clamp(min=0), rtol=1e-4, atol=1e-6)


def test_gradient_shap_of_a_linear_classifier_adds_up() -> None:
    """The expected attribution is (image - mean baseline) * weights."""
    weights = pixels(4, HEIGHT, WIDTH) - 0.5
    image = pixels(1, 3, HEIGHT, WIDTH)
    maps = explain("gradientshap", linear(weights), image, [1], seed=1)
    assert maps.raw is not None
    expected = ((image - image.mean((2, 3), keepdim=True) / 2).mean(1) * weights[1]).sum()
    torch.testing.assert_close(maps.raw.sum(), expected, atol=4.0, rtol=0)
    assert not torch.equal(maps.raw, explain("gradientshap", linear(weights), image, [1], seed=2).raw)


def test_lrp_conserves_the_logit_and_refuses_branches() -> None:
    classifier = plain_cnn()
    with torch.no_grad():
        for name, weight in classifier.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
    images = pixels(2, 3, HEIGHT, WIDTH)
    maps = explain("lrp", classifier, images, TARGETS)
    assert maps.raw is not None
    torch.testing.assert_close(
        maps.raw.sum((1, 2)), classifier(images).gather(1, TARGETS).flatten(), rtol=1e-3, atol=1e-4
    )
    from torchvision.models import resnet18

    residual = PixelClassifier.wrap(resnet18(num_classes=4), mean=0.5, std=0.25)
    with pytest.raises(UserError, match="joins branches"):
        explain("lrp", residual, pixels(1, 3, 64, 64), [0])


# ---- attention rollout -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_rollout_by_hand() -> None:
    classifier, images = tiny_vit("timm"), pixels(2, 3, HEIGHT, WIDTH)
    network: Any = classifier.network
    tokens = network._pos_embed(network.patch_embed(classifier.preprocess(images)))
    flow = torch.eye(13).expand(2, 13, 13)
    for block in network.blocks:
        qkv = block.attn.qkv(block.norm1(tokens)).view(2, 13, 3, 2, 8).permute(2, 0, 3, 1, 4)
        attention = (qkv[0] @ qkv[1].mT / 8**0.5).softmax(-1).mean(1)
        flow = (attention + torch.eye(13)) / 2 @ flow
        tokens = block(tokens)
    maps = rollout(classifier, images, TARGETS)
    assert maps.raw is not None
    torch.testing.assert_close(maps.raw[::2], flow[:, 0, 1:].view(2, 3, 4))


@pytest.mark.parametrize(
    ("library", "size"), [("timm", (24, 32)), ("transformers", (24, 32)), ("torchvision", (24, 24))]
)
def test_rollout_hears_every_library_and_changes_nothing(library: str, size: tuple[int, int]) -> None:
    classifier, images = tiny_vit(library, size), pixels(1, 3, *size)
    before = classifier(images)
    maps = rollout(classifier, images, torch.tensor([[0]]))
    assert maps.raw is not None
    assert 0.1 < maps.raw.sum() < 1  # the class token keeps some of its own
    assert torch.equal(classifier(images), before)


def test_rollout_refuses_networks_without_attention() -> None:
    with pytest.raises(UserError, match="choose another method"):
        rollout(small_cnn(), pixels(1, 3, HEIGHT, WIDTH), torch.tensor([[0]]))


# ---- controls --------------------------------------------------------------------------------------------------------


def test_controls_are_what_they_say() -> None:
    classifier, images = small_cnn(), torch.zeros(1, 3, 9, 15)
    images[:, :, :, 8:] = 1.0
    centre = explain("centre", classifier, images, [0]).values[0]
    assert centre.argmax() == 4 * 15 + 7
    torch.testing.assert_close(centre, centre.flip(0, 1))
    edges = explain("edges", classifier, images, [0]).values[0]
    assert edges.amax(0).nonzero().flatten().tolist() == [7, 8]
    assert explain("uniform", classifier, images, [0]).values.eq(1).all()
    noise = explain("random", classifier, pixels(2, 3, 9, 15), [0]).values
    assert not torch.equal(noise[0], noise[1])
