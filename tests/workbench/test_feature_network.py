"""The feature network: trained once, the same each time, for any images."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from workbench import feature_network as module
from workbench.datasets import LabelledImages
from workbench.errors import UserError
from workbench.feature_network import FeatureNetwork, cache_folder, feature_network
from workbench.feature_training import FeatureSettings
from workbench.seeds import generator

SHORT = FeatureSettings(max_train_steps=3, train_batch_size=8)
LEARNING = FeatureSettings(max_train_steps=40, train_batch_size=32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "inception_weights", lambda: None)
    return tmp_path / "features"


def ramps(count: int, seed: int = 0, size: tuple[int, int] = (16, 12), channels: int = 1) -> LabelledImages:
    """Class 0 grows brighter downwards, class 1 to the right; both with noise."""
    labels = torch.arange(count) % 2
    down = torch.linspace(0, 200, size[0])[:, None].expand(size)
    right = torch.linspace(0, 200, size[1])[None, :].expand(size)
    noise = torch.randn(count, channels, *size, generator=generator(seed)) * 25
    images = torch.stack([down, right])[labels][:, None] + noise
    return LabelledImages(images.clamp(0, 255).to(torch.uint8), labels, ("down", "right"), "ramps")


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_learns_and_says_what_it_is() -> None:
    network = feature_network(ramps(80), ramps(40, seed=1), settings=LEARNING)
    assert network.accuracy is not None
    assert network.accuracy > 0.9
    assert network.name.startswith(
        f"convnet-128 trained on ramps (80 images, 16x12 px, test accuracy {network.accuracy:.2f}), sha256 "
    )
    predicted = network.logits(ramps(40, seed=2).images).argmax(1)
    assert (predicted == ramps(40).labels).float().mean() > 0.9
    assert network.features(ramps(5).images).shape == (5, 128)


def test_the_seed_alone_decides_the_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = ramps(20).images
    first = feature_network(ramps(20), settings=SHORT)
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "other"))
    torch.rand(3)  # the global stream is elsewhere now
    second = feature_network(ramps(20), settings=SHORT)
    assert first.name == second.name
    assert torch.equal(first.features(images), second.features(images))
    other = feature_network(ramps(20), settings=replace(SHORT, seed=1))
    assert not torch.equal(first.features(images), other.features(images))


def no_training(*_: object) -> None:
    raise AssertionError("trained again")


def test_the_second_call_reads_the_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    first = feature_network(ramps(20), settings=SHORT)
    assert cache == cache_folder()
    assert len(files(cache)) == 1
    monkeypatch.setattr(module, "train_features", no_training)
    again = feature_network(ramps(20), settings=SHORT)
    assert (again.name, again.accuracy, again.label_names) == (first.name, first.accuracy, first.label_names)
    assert torch.equal(first.features(ramps(4).images), again.features(ramps(4).images))


def test_other_images_labels_tests_sizes_and_settings_are_other_networks(cache: Path) -> None:
    data = ramps(20)
    feature_network(data, settings=SHORT)
    feature_network(ramps(20, seed=1), settings=SHORT)
    feature_network(replace(data, labels=data.labels.flip(0)), settings=SHORT)
    feature_network(data, ramps(6, seed=2), settings=SHORT)
    feature_network(data, resolution=(8, 10), settings=SHORT)
    feature_network(data, settings=replace(SHORT, learning_rate=1e-3))
    assert len(files(cache)) == 6


@pytest.mark.parametrize("damage", ["cut", "garbage", "changed", "empty"])
def test_a_damaged_file_is_trained_again(damage: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = feature_network(ramps(20), settings=SHORT).name
    (path,) = files(cache)
    whole = path.read_bytes()
    changed = whole[:-4] + bytes(byte ^ 255 for byte in whole[-4:])
    path.write_bytes({"cut": whole[:-100], "garbage": b"x" * 500, "changed": changed, "empty": b""}[damage])
    assert feature_network(ramps(20), settings=SHORT).name == name
    assert files(cache) == [path]
    monkeypatch.setattr(module, "train_features", no_training)
    assert feature_network(ramps(20), settings=SHORT).name == name


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert feature_network(ramps(8), settings=SHORT).features(ramps(3).images).isfinite().all()
    assert "could not be kept" in caplog.text


def test_features_do_not_depend_on_the_batch_and_images_of_any_size_are_resized() -> None:
    network = feature_network(ramps(20), settings=SHORT)
    images = ramps(9, seed=3).images
    assert isinstance(images, Tensor)
    torch.testing.assert_close(network.features(images, batch_size=2), network.features(images))
    mixed = [*ramps(3, size=(32, 24)).images, *ramps(2, size=(9, 30)).images]
    apart = [network.features(image[None]) for image in mixed]
    torch.testing.assert_close(network.features(mixed, batch_size=4), torch.cat(apart))


def test_gray_images_are_shown_to_a_colour_network_but_not_the_reverse() -> None:
    colour = feature_network(ramps(20, channels=3), settings=SHORT)
    gray = ramps(4).images
    assert isinstance(gray, Tensor)
    assert torch.equal(colour.features(gray), colour.features(gray.expand(-1, 3, -1, -1)))
    with pytest.raises(UserError, match="channels=1"):
        feature_network(ramps(20), settings=SHORT).features(ramps(4, channels=3).images)


def test_large_images_and_lists_are_seen_small() -> None:
    assert feature_network(ramps(6, size=(200, 100)), settings=SHORT).size == (64, 32)
    several = [*ramps(3, size=(20, 40)).images, *ramps(1, size=(90, 9)).images]
    data = LabelledImages(several, torch.tensor([0, 1, 0, 1]), ("down", "right"), "several")
    assert feature_network(data, settings=SHORT).size == (20, 40)
    assert feature_network(ramps(6), resolution=24, settings=SHORT).size == (24, 24)


@pytest.mark.parametrize("labels", [-1, 1])
def test_without_two_classes_it_learns_rotations(labels: int) -> None:
    data = ramps(160)
    unlabelled = replace(data.select(data.labels == 0), labels=torch.full((80,), labels))
    network = feature_network(unlabelled, settings=replace(LEARNING, max_train_steps=60))
    assert "trained to tell rotations of ramps (80 images, 12 px, held-out accuracy" in network.name
    assert network.accuracy is not None
    assert network.accuracy > 0.6
    assert network.label_names == ()
    with pytest.raises(UserError, match="no class scores"):
        network.logits(data.images)


def test_held_out_classes_are_matched_by_name() -> None:
    data, tests = ramps(80), ramps(40, seed=1)
    turned = replace(tests, labels=2 - tests.labels, label_names=("unknown", "right", "down"))
    plain = feature_network(data, tests, settings=LEARNING)
    assert feature_network(data, turned, settings=LEARNING).accuracy == plain.accuracy
    strangers = replace(tests, label_names=("cat", "dog"))
    assert feature_network(data, strangers, settings=LEARNING).accuracy is None


def test_unlabelled_images_are_left_out_of_training() -> None:
    data = ramps(20)
    half = replace(data, labels=torch.where(torch.arange(20) < 10, data.labels, -1))
    assert "(10 images" in feature_network(half, settings=SHORT).name


def test_a_single_image_is_enough() -> None:
    assert feature_network(ramps(1), settings=SHORT).accuracy is None
    with pytest.raises(UserError, match="no images"):
        feature_network(ramps(2).select([]), settings=SHORT)


class InceptionDouble(nn.Module):
    """Takes what torchmetrics' Inception takes: uint8 colour images."""

    def __init__(self, name: str, features_list: list[str], weights_path: str) -> None:
        super().__init__()
        assert Path(weights_path).is_file()

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        return images.float().mean((2, 3))


def test_inception_is_used_where_it_is_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torchmetrics.image.fid

    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"weights")
    monkeypatch.setattr(module, "inception_weights", lambda: weights)
    monkeypatch.setattr(torchmetrics.image.fid, "NoTrainInceptionV3", InceptionDouble)
    network = feature_network(ramps(4))
    assert network.name.startswith("inception-2048")
    assert network.features(ramps(4).images).shape == (4, 3)
    assert feature_network(ramps(4), kind="convnet", settings=SHORT).name.startswith("convnet")


@pytest.mark.parametrize(("kind", "message"), [("inception", "torch-fidelity"), ("vgg", "auto, convnet or inception")])
def test_a_network_that_is_not_there_is_refused(kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        feature_network(ramps(4), kind=kind)


def test_inception_weights_are_looked_for_in_the_hub_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert module.inception_weights() is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / module.INCEPTION_WEIGHTS).touch()
    assert module.inception_weights() == tmp_path / "checkpoints" / module.INCEPTION_WEIGHTS
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert module.inception_weights() is None


def test_a_network_is_frozen() -> None:
    network = FeatureNetwork(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), "toy", 1, (2, 2))
    assert not any(parameter.requires_grad for parameter in network.module.parameters())
    assert not network.module.training
