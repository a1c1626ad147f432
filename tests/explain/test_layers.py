"""Which layers of a classifier are found and chosen, and that what is read of them lies as the image does."""

import threading
from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy_classifiers import pixels, tiny_vit

from explain.anatomy import choose_layers, dissect
from explain.layers import Layer, listening, read
from explain.saliency import explain
from workbench.errors import UserError
from workbench.networks import build_classifier
from workbench.pixel_classifier import PixelClassifier

SIZE = (24, 32)


def wrap(network: nn.Module, size: tuple[int, int] | None = SIZE) -> PixelClassifier:
    return PixelClassifier.wrap(network, mean=(0.5,) * 3, std=(0.25,) * 3, size=size)


def chosen(classifier: PixelClassifier, **options: Any) -> list[Layer]:
    return choose_layers(dissect(classifier), **options)


def swin() -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=(32, 48), patch_size=2, num_classes=4, embed_dim=8, depths=(1, 1, 1), num_heads=(1, 2, 2),
        window_size=(4, 4),
    )  # fmt: skip


def transformer(norm_first: bool) -> nn.Module:
    class Patches(nn.Module):
        """Patches of 8 pixels by a plain reshape: no convolution tells the grid."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(192, 16)
            layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
            self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            patches = x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
            return self.head(self.encoder(self.embed(patches)).mean(1))

    return Patches()


# ---- what is chosen --------------------------------------------------------------------------------------------------


def test_a_pyramid_gives_the_last_output_of_each_grid() -> None:
    layers = chosen(wrap(build_classifier("convnet", 4, image_size=SIZE, width=8)))
    assert [str(layer) for layer in layers] == ["blocks.0.2 (8x24x32)", "blocks.0 (8x12x16)", "blocks.1 (8x6x8)"]
    layers = chosen(wrap(build_classifier("resnet18", 4)), count=2)
    assert [str(layer) for layer in layers] == ["trunk.layer2 (128x12x16)", "trunk.layer3 (256x6x8)"]


def test_a_resnet_gives_the_papers_layers() -> None:
    from torchvision.models import resnet18

    layers = chosen(wrap(resnet18(num_classes=3), (128, 160)))
    assert [str(x) for x in layers] == ["layer2 (128x16x20)", "layer3 (256x8x10)", "layer4 (512x4x5)"]


def test_a_vgg_gives_the_papers_max_pools() -> None:
    from torchvision.models.vgg import cfgs, make_layers

    def stack(shape: str, final_pool: bool = True) -> nn.Module:
        features = make_layers([width if width == "M" else int(width) // 32 for width in cfgs[shape]])
        kept = features if final_pool else features[:-1]
        parts = OrderedDict(features=kept, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=nn.Linear(16, 3))
        return nn.Sequential(parts)

    layers = chosen(wrap(stack("D"), (128, 160)))
    assert [str(x) for x in layers] == ["features.16 (8x16x20)", "features.23 (16x8x10)", "features.30 (16x4x5)"]
    layers = chosen(wrap(stack("D", final_pool=False), (128, 160)))  # else the last convolutions would not be read
    assert [str(x) for x in layers] == ["features.15 (8x32x40)", "features.22 (16x16x20)", "features (16x8x10)"]


def test_an_inner_part_of_the_next_stage_is_not_taken() -> None:
    """timm's expand the channels on the old grid before they stride."""
    import timm

    layers = chosen(wrap(timm.create_model("efficientnet_lite0", num_classes=3), (128, 96)))
    assert [(x.name, x.channels, x.grid) for x in layers[:2]] == [
        ("blocks.1", 24, (32, 24)),
        ("blocks.2", 40, (16, 12)),
    ]
    assert (layers[2].name, layers[2].grid) == ("blocks.4", (8, 6))


@pytest.mark.parametrize(
    ("library", "names"),
    [
        ("timm", ["blocks.0.norm1", "blocks.1.norm1"]),
        ("transformers", ["vit.layers.0.layernorm_before", "vit.layers.1.layernorm_before"]),
        ("torchvision", ["encoder.layers.encoder_layer_0.ln_1", "encoder.layers.encoder_layer_1.ln_1"]),
    ],
)
def test_a_transformer_gives_what_its_attention_sees(library: str, names: list[str]) -> None:
    """T-TAME's authors name the first norm of each block; torchvision's transformer takes squares only."""
    size = (24, 24) if library == "torchvision" else SIZE
    layers = chosen(tiny_vit(library, size))
    assert [layer.name.replace("vit.encoder.layer.", "vit.layers.") for layer in layers] == names
    assert {(x.layout, x.grid, x.prefix_tokens, x.channels) for x in layers} == {
        ("tokens", (size[0] // 8, size[1] // 8), 1, 16)
    }


def test_registers_are_no_patches() -> None:
    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(SIZE, 8, embed_dim=16, depth=3, num_heads=2, num_classes=4, reg_tokens=4)
    assert {(layer.prefix_tokens, layer.grid) for layer in chosen(wrap(network))} == {(5, (3, 4))}


def test_a_transformer_without_a_convolution() -> None:
    first, last = (chosen(wrap(transformer(norm_first)))[-1] for norm_first in (True, False))
    assert (first.name, first.grid, first.prefix_tokens) == ("encoder.layers.3.norm1", (3, 4), 0)
    assert last.name == "encoder.layers.2"  # a norm comes after attention: the block before is what it sees


def test_a_swin_transformer_has_its_channels_last() -> None:
    layers = chosen(wrap(swin(), (32, 48)))
    assert [(x.layout, x.channels, x.grid) for x in layers] == [
        ("channels-last", 8, (16, 24)), ("channels-last", 16, (8, 12)), ("channels-last", 32, (4, 6))
    ]  # fmt: skip


def test_a_swin_transformer_of_transformers_ends_in_its_last_norm() -> None:
    """The whole model names its parts, and its pooled channels are as many as an image of 8x8 patches has."""
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(
        image_size=64, patch_size=2, embed_dim=16, depths=[1, 1, 1], num_heads=[1, 2, 2], window_size=4, num_labels=4
    )
    classifier = wrap(SwinForImageClassification(config), (64, 64))
    layers = chosen(classifier)
    assert [layer.grid for layer in layers] == [(32, 32), (16, 16), (8, 8)]
    assert (layers[-1].name, layers[-1].channels) == ("swin.layernorm", 64)
    maps = explain("gradcam", classifier, pixels(1, 3, 64, 64))
    assert maps.raw is not None
    assert maps.raw.abs().max() > 0


def test_names_win_and_are_put_in_order() -> None:
    classifier = wrap(build_classifier("convnet", 4, image_size=SIZE, width=8))
    layers = chosen(classifier, wanted=["blocks.1.0", "blocks.0.0"])
    assert [layer.name for layer in layers] == ["blocks.0.0", "blocks.1.0"]
    with pytest.raises(UserError, match=r"'blocks.1.9' is no layer .* such as blocks.1.\d.*--dry-run"):
        chosen(classifier, wanted=["blocks.1.9"])


class Odd(nn.Module):
    """Layers that must not be read: shared, blind, not finite, pooled to a fixed grid, padded; and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.good = nn.Conv2d(3, 4, 3, padding=1)
        self.twice = nn.ReLU()
        self.pooled = nn.AdaptiveAvgPool2d((6, 8))
        self.blind, self.broken = Constant(1.0), Constant(torch.nan)
        self.weights, self.padding = nn.Softmax(-1), nn.ZeroPad2d(-1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.good(x)))
        self.padding(x)
        x = x + self.blind(x) + self.broken(x).nan_to_num()
        tokens = self.pooled(x).flatten(2).mT
        self.weights((tokens @ tokens.mT)[:, None])
        return tokens.mean(1)


class Constant(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = float(value)

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.value)


def test_what_says_nothing_of_the_image_is_left_out() -> None:
    assert [layer.name for layer in dissect(wrap(Odd())).layers] == ["good"]


def test_dissection_leaves_the_classifier_as_it_was() -> None:
    classifier = wrap(build_classifier("convnet", 4, image_size=SIZE, width=8, normalisation="batch"))
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    stream = torch.get_rng_state()
    chosen(classifier.train())
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(before[name], value) for name, value in classifier.state_dict().items())
    assert not any(module._forward_hooks for module in classifier.modules())


# ---- what is read ----------------------------------------------------------------------------------------------------


CLASSIFIERS = {
    "cnn": lambda: wrap(build_classifier("convnet", 4, image_size=SIZE, width=8)),
    "timm": lambda: tiny_vit("timm"),
    "transformers": lambda: tiny_vit("transformers"),
    "swin": lambda: wrap(swin(), (32, 48)),
    "plain": lambda: wrap(transformer(True)),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_reading_changes_no_logit(name: str) -> None:
    classifier = CLASSIFIERS[name]()
    images = pixels(3, 3, *(classifier.preprocessing.size or SIZE))
    layers = chosen(classifier)
    with torch.no_grad():
        reading = read(classifier, layers, images)
        torch.testing.assert_close(reading.logits, classifier(images))
    assert [tuple(f.shape) for f in reading.features] == [(3, x.channels, *x.grid) for x in layers]


@pytest.mark.parametrize("name", ["timm", "transformers", "plain", "swin"])
def test_places_of_a_map_are_places_of_the_image(name: str) -> None:
    """In the first layer that sees patches, a changed patch changes its own place alone; here one off the diagonal."""
    classifier = CLASSIFIERS[name]()
    size = classifier.preprocessing.size or SIZE
    first = dissect(classifier).layers[0]
    images = pixels(1, 3, *size).repeat(2, 1, 1, 1)
    cell = (size[0] // first.grid[0], size[1] // first.grid[1])
    images[1, :, cell[0] : 2 * cell[0], 3 * cell[1] : 4 * cell[1]] = 1.0
    with torch.no_grad():
        (features,) = read(classifier, [first], images).features
    changed = (features[0] - features[1]).abs().sum(0) > 1e-6
    expected = torch.zeros(first.grid, dtype=torch.bool)
    expected[1, 3] = True
    assert torch.equal(changed, expected)


def test_tokens_of_another_image_size_are_laid_out_anew() -> None:
    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(SIZE, 8, embed_dim=16, depth=3, num_heads=2, num_classes=4, dynamic_img_size=True)
    classifier = wrap(network, size=None)
    layers = choose_layers(dissect(classifier, SIZE))
    for size in ((32, 24), (24, 32), (16, 48), (40, 16)):
        with torch.no_grad():
            features = read(classifier, layers, pixels(1, 3, *size)).features
        assert {tuple(f.shape[2:]) for f in features} == {(size[0] // 8, size[1] // 8)}
    with pytest.raises(UserError, match=r"the 13 tokens of layer blocks.0 are no grid over an image of 24x32"):
        Layer("blocks.0", "tokens", 16, (3, 4), 1).to_map(torch.zeros(1, 14, 16), SIZE)


def test_what_is_overwritten_in_place_is_copied() -> None:
    norm = nn.BatchNorm2d(4)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), norm, nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, 2, 1))
    classifier = wrap(nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    first, second = chosen(classifier, wanted=["0.1", "0.3"])
    assert (first.overwritten, second.overwritten) == (True, False)
    images = pixels(2, 3, *SIZE)
    with torch.no_grad():
        features = read(classifier, [first, second], images).features
        expected = norm(network[0](classifier.preprocess(images)))
    torch.testing.assert_close(features[0], expected)
    assert (features[0] < 0).any()


def test_another_thread_is_not_heard() -> None:
    layer, heard = nn.Conv2d(3, 3, 1), []
    with listening({"layer": layer}, lambda name, output: heard.append(output)):
        other = threading.Thread(target=layer, args=(torch.zeros(1, 3, 2, 2),))
        other.start()
        other.join()
        assert not heard
        mine = layer(torch.ones(1, 3, 2, 2))
    assert len(heard) == 1
    assert heard[0] is mine


def test_hooks_go_after_an_error() -> None:
    layer = nn.Conv2d(3, 3, 1)
    with pytest.raises(RuntimeError), listening({"layer": layer}, lambda name, output: None):
        layer(torch.zeros(1, 4, 2, 2))
    assert not layer._forward_hooks


# ---- classifiers that cannot be read ---------------------------------------------------------------------------------


def test_a_network_without_maps_is_a_sentence() -> None:
    with pytest.raises(UserError, match="no layer of this Sequential puts out a map over an image of 24x32 pixels"):
        dissect(wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 32, 4))))


def test_broken_weights_are_a_sentence() -> None:
    network = build_classifier("convnet", 4, image_size=SIZE, width=8)
    network.head.bias.data[1] = torch.nan
    with pytest.raises(UserError, match="logits of an image of noise are not finite numbers; check its weights"):
        dissect(wrap(network))


def test_a_size_that_nobody_gave_is_asked_for() -> None:
    classifier = wrap(build_classifier("resnet18", 4), size=None)
    with pytest.raises(UserError, match=r"image_size=\(height, width\), or --resolution"):
        dissect(classifier)
    assert dissect(classifier, (16, 24)).size == (16, 24)


def test_a_wrong_size_is_a_sentence() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 22 * 30, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.features(x)).flatten(1))

    classifier = wrap(Fixed(), size=None)
    assert dissect(classifier, SIZE).num_classes == 2
    with pytest.raises(UserError, match=r"cannot see images of 32x25 pixels .*give images of its own size"):
        dissect(classifier, (32, 25))
    with pytest.raises(UserError, match=r"cannot see images of 16x16 pixels"):
        read(classifier, choose_layers(dissect(classifier, SIZE)), pixels(1, 3, 16, 16))
