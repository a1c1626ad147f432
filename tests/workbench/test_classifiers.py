"""The reference networks, one interface over the libraries, and the round trip to disk."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workbench.classifiers import (
    ConvNet,
    PixelClassifier,
    ResNet18,
    build_classifier,
    load_classifier,
    save_classifier,
)
from workbench.errors import UserError
from workbench.pixel_classifier import Preprocessing

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def by_hand(x: Float[Tensor, "b 3 h w"], mean: tuple[float, ...], std: tuple[float, ...]) -> Float[Tensor, "b 3 h w"]:
    return torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], 1)


class Probe(nn.Module):
    """A "classifier" that hands back what it is given, so that tests see the preprocessing."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.identity = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.dirac_(self.identity.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.identity(x).flatten(1)


# Networks


def test_convnet_is_the_distillation_standard() -> None:
    network = build_classifier("convnet", 10, 3, (32, 32))
    assert sum(weight.numel() for weight in network.parameters()) == 320_010
    x = pixels(2, 3, 32, 32)
    expected = x
    assert isinstance(network, ConvNet)
    for block in network.blocks:  # written out with the functions it is defined by
        layers: list[Any] = list(block.children())
        convolution, norm = layers[:2]
        expected = F.conv2d(expected, convolution.weight, convolution.bias, padding=1)
        expected = F.instance_norm(expected, weight=norm.weight, bias=norm.bias)
        expected = F.avg_pool2d(F.relu(expected), 2)
    features = network.features(x)
    assert features.shape == (2, 128 * 4 * 4)
    torch.testing.assert_close(features, expected.flatten(1))
    torch.testing.assert_close(network(x), F.linear(features, network.head.weight, network.head.bias))


@pytest.mark.parametrize("size", [(28, 28), (48, 32), (30, 17), (5, 3)])
def test_convnet_takes_any_size_it_is_built_for(size: tuple[int, int]) -> None:
    network = build_classifier("convnet", 4, 1, size, width=8)
    assert network(pixels(2, 1, *size)).shape == (2, 4)


def test_convnet_sees_every_pixel_of_odd_sizes() -> None:
    network = build_classifier("convnet", 4, 1, (9, 13), width=8)
    x = pixels(1, 1, 9, 13).requires_grad_()
    (gradient,) = torch.autograd.grad(network(x).square().sum(), x)
    assert (gradient != 0).all()


def test_convnet_flattening_refuses_other_sizes_and_mean_pooling_takes_them() -> None:
    with pytest.raises(UserError, match="takes 32x24 images, not 24x32"):
        build_classifier("convnet", 4, 1, (32, 24), width=8)(pixels(1, 1, 24, 32))
    with pytest.raises(UserError, match="image_size"):
        ConvNet(4)
    network = build_classifier("convnet", 4, 1, (32, 24), width=8, pooling="mean", normalisation="batch")
    assert network.features(pixels(2, 1, 24, 40)).shape == (2, 8)


def test_resnet18_for_small_images() -> None:
    network = build_classifier("resnet18", 10)
    # 11,173,962 is the count of the usual CIFAR ResNet-18 (3x3 stem, 10 classes).
    assert sum(weight.numel() for weight in network.parameters()) == 11_173_962
    network.eval()
    features = network.features(pixels(2, 3, 24, 16))
    assert features.shape == (2, 512)
    torch.testing.assert_close(network(pixels(2, 3, 24, 16)), network.head(features))


def test_equal_seeds_give_equal_weights_and_leave_the_global_stream_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (build_classifier("convnet", 4, 1, (8, 8), seed=seed, width=8) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(UserError, match=r"'vgg'.*convnet, resnet18"):
        build_classifier("vgg", 10)


# Wrapping: equal to preprocessing by hand


def test_a_torchvision_model_with_its_weights() -> None:
    from torchvision.models import Weights, resnet18
    from torchvision.transforms._presets import ImageClassification

    transforms = partial(ImageClassification, crop_size=32, resize_size=32)
    weights = Weights(url="", transforms=transforms, meta={"categories": [f"thing {i}" for i in range(7)]})
    model = resnet18(weights=None, num_classes=7).eval()
    classifier = PixelClassifier.wrap(model, weights)
    assert classifier.label_names[6] == "thing 6"
    x = pixels(2, 3, 57, 57)
    torch.testing.assert_close(classifier(x), model(weights.transforms()(x)))


def test_a_timm_model_is_given_what_its_own_transform_gives() -> None:
    timm = pytest.importorskip("timm")
    from PIL import Image
    from torchvision.transforms.functional import to_tensor

    model = timm.create_model("resnet18", pretrained=False)
    classifier = PixelClassifier.wrap(model)
    configuration = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**{**configuration, "crop_pct": 1.0})
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))
    torch.testing.assert_close(classifier.preprocess(to_tensor(image)[None])[0], transform(image))
    assert (classifier.preprocessing.size, classifier.preprocessing.interpolation) == ((224, 224), "bicubic")
    assert classifier.label_names[0].startswith("tench")
    assert len(classifier.label_names) == 1000
    x = pixels(1, 3, 40, 64)
    resized = F.interpolate(x, (224, 224), mode="bicubic", antialias=True)
    expected = model(by_hand(resized, configuration["mean"], configuration["std"]))
    torch.testing.assert_close(classifier(x), expected)


def test_a_timm_model_with_another_head_does_not_keep_the_names_of_the_old_one() -> None:
    timm = pytest.importorskip("timm")
    assert PixelClassifier.wrap(timm.create_model("resnet10t", num_classes=5)).label_names == ()


def tiny_vit(num_labels: int = 3) -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    names = {i: f"name {i}" for i in range(num_labels)}
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        id2label=names,
        label2id={name: i for i, name in names.items()},
    )
    return ViTForImageClassification(config).eval()


def test_a_transformers_model_is_given_what_its_own_processor_gives() -> None:
    from transformers import ViTImageProcessor

    model, processor = tiny_vit(12), ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=MEAN)
    classifier = PixelClassifier.wrap(model, processor)
    assert classifier.label_names[10:] == ("name 10", "name 11")  # by number, not by alphabet
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    inputs = processor(list(images), return_tensors="pt")
    torch.testing.assert_close(classifier(torch.from_numpy(images) / 255), model(**inputs).logits)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("EfficientNetImageProcessor", {"rescale_offset": True, "rescale_factor": 1 / 127.5}),
        ("EfficientNetImageProcessor", {"include_top": False, "image_mean": MEAN, "image_std": STD}),
        ("ViTImageProcessor", {"do_normalize": False}),
        ("MobileViTImageProcessor", {"do_flip_channel_order": True, "do_center_crop": False}),
        (
            "CLIPImageProcessor",
            {"crop_size": {"height": 20, "width": 24}, "size": {"height": 20, "width": 24}},
        ),
    ],
)
def test_the_habits_of_other_processors(name: str, options: dict) -> None:
    import transformers

    processor = getattr(transformers, name)(**{"size": {"height": 20, "width": 24}, **options})
    classifier = PixelClassifier.wrap(Probe(), processor)
    assert classifier.preprocessing.size == (20, 24)
    image = np.random.default_rng(0).integers(0, 256, (3, 20, 24), dtype=np.uint8)
    expected = processor([image], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(classifier.preprocess(torch.from_numpy(image)[None] / 255), expected)


def test_a_plain_module_with_its_normalisation_and_size() -> None:
    classifier = PixelClassifier.wrap(Probe(), mean=MEAN, std=STD, size=(6, 10))
    x = pixels(2, 3, 24, 20)
    resized = F.interpolate(x, (6, 10), mode="bilinear", antialias=True)
    torch.testing.assert_close(classifier(x), by_hand(resized, MEAN, STD).flatten(1))
    small = pixels(2, 3, 6, 10)
    torch.testing.assert_close(classifier(small), by_hand(small, MEAN, STD).flatten(1))
    assert classifier.label_name(7) == "class 7"


def test_a_plain_module_of_unknown_normalisation_warns_and_gets_the_pixels_as_they_are() -> None:
    with pytest.warns(UserWarning, match="pass mean and std"):
        classifier = PixelClassifier.wrap(Probe())
    x = pixels(1, 3, 5, 4)
    assert torch.equal(classifier(x), x.flatten(1))


def test_gray_images_for_a_colour_model_and_colour_images_for_a_gray_model() -> None:
    colour = PixelClassifier.wrap(Probe(3), mean=MEAN, std=STD)
    gray_image, colour_image = pixels(1, 1, 5, 4), pixels(1, 3, 5, 4)
    assert torch.equal(colour(gray_image), colour(gray_image.repeat(1, 3, 1, 1)))
    gray = PixelClassifier.wrap(Probe(1), mean=0.5, std=0.5)
    red, green, blue = colour_image.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    torch.testing.assert_close(gray(colour_image), ((luma - 0.5) / 0.5).flatten(1))
    assert (colour.channels, gray.channels) == (3, 1)
    with pytest.raises(UserError, match="2 channels"):
        colour(pixels(1, 2, 5, 4))


def test_one_number_serves_three_channels_and_three_numbers_serve_one() -> None:
    assert PixelClassifier.wrap(Probe(3), mean=0.5, std=0.2).preprocessing.mean == (0.5,) * 3
    gray = PixelClassifier.wrap(Probe(1), mean=(0.1, 0.1, 0.1), std=(0.2, 0.2, 0.2)).preprocessing
    assert gray.mean == pytest.approx((0.1,))
    assert gray.std == pytest.approx((0.2,))
    with pytest.raises(UserError, match="for 2 channels but the model takes 3"):
        PixelClassifier.wrap(Probe(3), mean=(0.5, 0.5), std=(0.2, 0.2))


def test_wrapping_puts_the_model_in_eval_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.9), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier = PixelClassifier.wrap(model, mean=0.5, std=0.5)
    x = pixels(2, 3, 6, 6)
    assert torch.equal(classifier(x), classifier(x))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("image", "small"), [((50, 80), (12, 16)), ((50, 9), (12, 9)), ((7, 80), (7, 16)), ((12, 16), (12, 16))]
)
def test_a_shrunk_image_has_the_same_logits(
    image: tuple[int, int], small: tuple[int, int], interpolation: Literal["bilinear", "bicubic"]
) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 16, 4))
    seen = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.2, 0.2), (12, 16), interpolation)
    classifier, pixels = PixelClassifier(network, seen), torch.rand(2, 3, *image)
    shrunk = classifier.shrink(pixels)
    assert tuple(shrunk.shape[2:]) == small
    torch.testing.assert_close(classifier(shrunk), classifier(pixels))


def test_gradients_reach_the_pixels_through_resizing() -> None:
    network = build_classifier("convnet", 3, 3, (8, 8), width=4)
    classifier = PixelClassifier.wrap(network, mean=MEAN, std=STD, size=8)
    x = pixels(1, 3, 12, 10).requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(x)[0, 1], x)
    assert (gradient != 0).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_network_on_the_gpu_is_wrapped_there() -> None:
    network = build_classifier("convnet", 3, 3, (8, 8), width=4)
    expected = PixelClassifier.wrap(network, mean=MEAN, std=STD, size=8)(pixels(2, 3, 12, 10))
    on_gpu = PixelClassifier.wrap(network.cuda(), mean=MEAN, std=STD, size=8)
    torch.testing.assert_close(on_gpu(pixels(2, 3, 12, 10).cuda()).cpu(), expected, atol=1e-3, rtol=1e-3)


def test_a_half_precision_network_takes_float_pixels() -> None:
    network = build_classifier("convnet", 3, 3, (8, 8), width=4)
    full = PixelClassifier.wrap(network, mean=MEAN, std=STD)
    expected = full(pixels(2, 3, 8, 8))
    logits = full.bfloat16()(pixels(2, 3, 8, 8))
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c(torch.zeros(1, 3, 4, 4, dtype=torch.uint8)), r"torch\.uint8.*/ 255"),
        (lambda c: c(torch.zeros(3, 4, 4)), r"\(3, 4, 4\).*batch axis"),
        (lambda c: PixelClassifier.wrap(c.network, mean=0.5), "only one of mean and std"),
        (lambda c: PixelClassifier.wrap(c.network, mean=0.5, std=0.0), "above 0"),
        (lambda c: PixelClassifier.wrap(c.network, {"mean": 0.5}), "dict says nothing about pixels"),
        (
            lambda c: PixelClassifier(c.network, c.preprocessing, ["a"])(torch.zeros(1, 3, 4, 4)),
            "48 logits for 1",
        ),
        (
            lambda c: PixelClassifier(nn.Conv2d(3, 2, 1), c.preprocessing)(torch.zeros(1, 3, 4, 4)),
            r"returned \(1, 2, 4, 4\)",
        ),
    ],
)
def test_bad_input_is_answered_with_a_sentence(call: Callable[[PixelClassifier], object], message: str) -> None:
    classifier = PixelClassifier.wrap(Probe(), mean=MEAN, std=STD)
    with pytest.raises(UserError, match=message):
        call(classifier)


def test_the_fingerprint_tells_classifiers_apart() -> None:
    def classifier(seed: int = 0, mean: float = 0.5) -> PixelClassifier:
        return PixelClassifier.wrap(build_classifier("convnet", 3, 1, (8, 8), width=8, seed=seed), mean=mean, std=0.5)

    assert classifier().fingerprint() == classifier().fingerprint()
    changed = classifier()
    with torch.no_grad():
        next(changed.network.parameters())[0] += 0.01
    prints = [c.fingerprint() for c in (classifier(), classifier(seed=1), classifier(mean=0.4), changed)]
    assert len(set(prints)) == 4


# On disk


@pytest.fixture
def ours() -> PixelClassifier:
    network = build_classifier("convnet", 3, 1, (16, 24), width=8, seed=3)
    return PixelClassifier(network, Preprocessing((0.3,), (0.35,), (16, 24)), ("dress", "coat", "bag"))


def test_a_saved_classifier_loads_equal(ours: PixelClassifier, tmp_path: Path) -> None:
    save_classifier(ours, tmp_path / "new" / "clf", {"command": "classify", "figures": {"accuracy": 0.9}})
    loaded = load_classifier(str(tmp_path / "new" / "clf"))
    x = pixels(2, 1, 20, 20)
    assert torch.equal(loaded(x), ours(x))
    assert loaded.fingerprint() == ours.fingerprint()
    assert loaded.label_names == ("dress", "coat", "bag")
    assert not loaded.training
    config = json.loads((tmp_path / "new" / "clf" / "config.json").read_text())
    assert config["resolution"] == [16, 24]
    assert config["figures"] == {"accuracy": 0.9}
    assert {path.name for path in (tmp_path / "new" / "clf").iterdir()} == {
        "config.json",
        "model.safetensors",
    }


def test_a_saved_resnet_keeps_its_batch_statistics(tmp_path: Path) -> None:
    network = ResNet18(2, 1)
    network(pixels(4, 1, 8, 8))  # in training mode: moves the running mean
    classifier = PixelClassifier.wrap(network, mean=0.5, std=0.5)
    save_classifier(classifier, tmp_path, {})
    assert torch.equal(load_classifier(tmp_path)(pixels(2, 1, 8, 12)), classifier(pixels(2, 1, 8, 12)))


def test_a_classifier_is_replaced_only_on_request(ours: PixelClassifier, tmp_path: Path) -> None:
    save_classifier(ours, tmp_path, {"command": "first"})
    with pytest.raises(UserError, match="--overwrite"):
        save_classifier(ours, tmp_path, {"command": "second"})
    assert json.loads((tmp_path / "config.json").read_text())["command"] == "first"
    save_classifier(ours, tmp_path, {"command": "second"}, overwrite=True)
    assert json.loads((tmp_path / "config.json").read_text())["command"] == "second"


def test_a_foreign_network_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not Probe"):
        save_classifier(PixelClassifier.wrap(Probe(), mean=0.5, std=0.5), tmp_path / "clf", {})
    assert not (tmp_path / "clf").exists()


@pytest.mark.parametrize("damage", ["no config", "cut weights", "other weights", "unknown option"])
def test_a_damaged_folder_is_named(ours: PixelClassifier, tmp_path: Path, damage: str) -> None:
    save_classifier(ours, tmp_path, {})
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    if damage == "no config":
        config.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-8])
    else:
        old, new = ('"width": 8', '"width": 9') if damage == "other weights" else ('"width"', '"breadth"')
        config.write_text(config.read_text().replace(old, new))
    with pytest.raises(UserError, match="not a complete classifier"):
        load_classifier(tmp_path)


# By SPEC


@pytest.mark.parametrize("spec", ["timm:resnet10t", "torchvision:squeezenet1_1"])
def test_the_libraries_by_name(spec: str) -> None:
    pytest.importorskip("timm")
    classifier = load_classifier(spec, pretrained=False)
    assert classifier(pixels(1, 3, 30, 20)).shape == (1, 1000)
    assert len(classifier.label_names) == 1000
    assert classifier.preprocessing.mean == (0.485, 0.456, 0.406)


def test_a_transformers_folder(tmp_path: Path) -> None:
    from transformers import ViTImageProcessor

    model = tiny_vit()
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    classifier = load_classifier(f"transformers:{tmp_path}")
    x = pixels(2, 3, 32, 32)
    torch.testing.assert_close(classifier(x), model(2 * x - 1).logits)
    assert classifier.label_names == ("name 0", "name 1", "name 2")
    assert load_classifier(f"transformers:{tmp_path}", pretrained=False).fingerprint() != classifier.fingerprint()
    with pytest.raises(UserError, match="transformers:FOLDER"):
        load_classifier(tmp_path)


def test_a_transformers_backbone_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    from transformers import ViTImageProcessor

    tiny_vit().vit.save_pretrained(tmp_path)
    ViTImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"lacks trained weights for classifier\.bias"):
        load_classifier(f"transformers:{tmp_path}")


USER_MODULE = """
from torch import nn
from workbench.classifiers import PixelClassifier
import neighbour_of_mine

def wrapped():
    return PixelClassifier.wrap(plain(), mean=0.5, std=0.5, class_names=["a", "b"])

def plain():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(neighbour_of_mine.CHANNELS, 2))

def text():
    return "resnet18"
"""


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "module_of_mine.py").write_text(USER_MODULE)
    (tmp_path / "neighbour_of_mine.py").write_text("CHANNELS = 1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_function_of_the_user(user_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_name = load_classifier("module_of_mine:wrapped")
    assert by_name.label_names == ("a", "b")
    monkeypatch.chdir("/")
    by_file = load_classifier(f"{user_folder / 'module_of_mine.py'}:wrapped")
    assert by_file(pixels(2, 1, 9, 7)).shape == (2, 2)
    with pytest.warns(UserWarning, match="pass mean and std"):
        load_classifier(f"{user_folder / 'module_of_mine.py'}:plain")
    with pytest.raises(UserError, match="returned str"):
        load_classifier(f"{user_folder / 'module_of_mine.py'}:text")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet18", "no folder and no classifier.*timm:NAME"),
        ("no/such/folder", "no folder and no classifier"),
        ("timm:resnet19", "timm has no classifier 'resnet19': try timm:resnet1"),
        ("torchvision:fcn_resnet50", "torchvision has no classifier 'fcn_resnet50'"),
        ("no_such_module:build", "no_such_module:build cannot be found"),
        ("no_such_file.py:build", "No such file"),
        ("json:no_such_function", "no_such_function"),
    ],
)
def test_an_unknown_spec_says_what_to_type(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_classifier(spec)


@pytest.mark.parametrize("spec", ["timm:resnet10t", "transformers:nobody/nothing", "torchvision:squeezenet1_1"])
def test_missing_weights_offline_are_a_sentence(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib import request

    import huggingface_hub.constants

    def no_network(*args: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(request, "urlopen", no_network)
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"the weights of {spec} are not on disk"):
        load_classifier(spec)
