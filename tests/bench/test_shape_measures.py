"""The measures of generated shapes on pictures whose truth is known."""

from collections.abc import Callable
from pathlib import Path

import pytest
import shape_measures
import shape_network
import torch
from shape_measures import box_downsample, measure, noise_floor, patches, real_shapes
from shape_network import ShapeNetwork, ShapeSettings
from shape_objects import background_planes, find_objects
from torch import Tensor
from torch.nn import functional

from workbench.errors import UserError
from workbench.scenes import shapes
from workbench.seeds import generator

SIZES = [(24, 24), (32, 32), (48, 48), (64, 64), (32, 64), (64, 32)]
WIDE = (32, 64)
BRIEF = ShapeSettings(max_train_steps=2, scenes_per_size=8)


@pytest.fixture(scope="module")
def network() -> ShapeNetwork:
    network = ShapeNetwork().eval()
    network.initialise(generator(0))
    return network


def gradient(height: int, width: int, top: float = 0.2, bottom: float = 0.4, right: float = 0.1) -> Tensor:
    """One picture, different in every channel."""
    down, across = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    plane = top + (bottom - top) * down + right * across
    return torch.stack([plane, plane + 0.1, 0.9 - plane])[None]


def paint(image: Tensor, top: int, left: int, height: int, width: int, change: float = 0.3) -> Tensor:
    """Adds a rectangle of one colour."""
    painted = image.clone()
    colour = image[:, :, top, left] + change * torch.tensor([1.0, 1.0, -1.0])
    painted[:, :, top : top + height, left : left + width] = colour[:, :, None, None]
    return painted


def noisy(images: Tensor, sigma: float) -> Tensor:
    return images + sigma * torch.randn(images.shape, generator=generator(1))


def enlarged(images: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(images, size, mode="bicubic").clamp(0, 1)


def renders(size: tuple[int, int], count: int = 128) -> Tensor:
    return real_shapes(size, count)[0] / 255


# Objects


@pytest.mark.parametrize("size", SIZES)
def test_real_renders_show_one_object_even_with_noise(size: tuple[int, int]) -> None:
    images = renders(size)
    for sigma in (0.0, 0.02):
        assert (find_objects(noisy(images, sigma)).counts == 1).double().mean() >= 0.99


@pytest.mark.parametrize("size", SIZES)
def test_a_ring_is_one_object(size: tuple[int, int]) -> None:
    images, labels = real_shapes(size, 64)
    assert (find_objects(images[labels == 2] / 255).counts == 1).all()


def test_objects_are_counted_image_by_image() -> None:
    none = gradient(48, 64)
    one = paint(none, 5, 40, 12, 10)
    two = paint(one, 30, 8, 8, 16, change=0.2)
    touching_the_border = paint(none, 30, 50, 18, 14)
    speck = paint(none, 20, 20, 5, 6)  # 30 of 3072 pixels
    found = find_objects(torch.cat([none, one, two, touching_the_border, speck, two]))
    assert found.counts.tolist() == [0, 1, 2, 1, 0, 2]
    assert found.areas.tolist() == pytest.approx([part / 3072 for part in (0, 120, 248, 252, 0, 248)])
    assert found.edge_widths.isnan().tolist() == [True, False, False, False, True, False]


def test_pasted_and_tiled_objects_are_two_and_more() -> None:
    left, right = renders((32, 32), 2).split(1)
    background = gradient(32, 64)
    planes = background_planes(torch.cat([left, right]))
    objects = torch.cat([left - planes[:1], right - planes[1:]], dim=3)
    assert find_objects(background + objects).counts.item() == 2
    assert (find_objects(renders((32, 32)).repeat(1, 1, 2, 2)).counts > 1).all()


def test_a_picture_without_a_background_shows_no_object() -> None:
    noise = torch.rand(8, 3, 64, 64, generator=generator(0))
    assert find_objects(noise).counts.sum() == 0


@pytest.mark.parametrize(("height", "width"), [(24, 24), (32, 64), (64, 32)])
def test_planes_are_found_behind_large_objects_and_noise(height: int, width: int) -> None:
    plane = gradient(height, width)
    inside = paint(plane, height // 5, width // 8, height * 3 // 5, width * 3 // 5, change=0.2)  # 36 % of the picture
    on_the_border = paint(plane, 0, 0, height // 2, width // 2)
    painted = torch.cat([inside, on_the_border])
    assert (background_planes(painted) - plane).abs().max() < 5e-3
    assert (background_planes(noisy(painted, 0.02)) - plane).abs().max() < 0.02


@pytest.mark.parametrize("size", SIZES)
def test_areas_do_not_depend_on_the_size_in_pixels(size: tuple[int, int]) -> None:
    height, width = size
    fine = shapes(range(64), (256 * height // max(size), 256 * width // max(size)), shape_measures.REFERENCE_SEED)
    areas = find_objects(renders(size, 64)).areas
    assert (areas - fine.masks.double().mean((1, 2))).abs().max() < 0.02
    assert (areas - fine.masks.double().mean((1, 2))).mean().abs() < 0.004


# Edges


def median_width(images: Tensor) -> float:
    return float(find_objects(images).edge_widths.nanmedian())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sigma", [0.0, 0.02, 0.05])
def test_native_edges_are_equally_wide_at_every_size(size: tuple[int, int], sigma: float) -> None:
    assert median_width(noisy(renders(size), sigma)) == pytest.approx(1.55, abs=0.08)


@pytest.mark.parametrize("sigma", [0.0, 0.05])
def test_enlarging_to_twice_the_size_widens_edges(sigma: float) -> None:
    native = median_width(noisy(renders((64, 64)), sigma))
    bicubic = median_width(noisy(enlarged(renders((32, 32)), (64, 64)), sigma))
    bilinear = functional.interpolate(renders((32, 32)), (64, 64), mode="bilinear")
    assert 1.65 < bicubic / native < 2.1
    assert 1.9 < median_width(noisy(bilinear, sigma)) / native < 2.3


def test_an_edge_has_the_width_of_its_ramp() -> None:
    """8 pixels from the one colour to the other, down and across, beside a sharp little object."""
    across = torch.arange(64)
    opacity = ((across - 19.5) / 8).clamp(0, 1) * ((42.5 - across) / 8).clamp(0, 1)
    picture = paint(gradient(48, 64, 0.2, 0.2, 0.0) + 0.3 * opacity, 20, 2, 6, 6)
    for image in (picture, picture.mT):
        found = find_objects(image)
        assert found.counts.item() == 2
        assert found.edge_widths.item() == pytest.approx(8, rel=0.03)


# Distances


def test_box_downsample_averages_areas() -> None:
    images = torch.rand(2, 3, 96, 48, generator=generator(0))
    thrice = images.repeat_interleave(2, 2).repeat_interleave(2, 3)  # 48 = 32 * 1.5
    assert torch.allclose(box_downsample(images, 32), functional.avg_pool2d(thrice, 3), atol=1e-6)
    assert torch.allclose(box_downsample(images, 24), functional.avg_pool2d(images, 2), atol=1e-6)
    assert torch.equal(box_downsample(images, 48), images)
    assert torch.equal(box_downsample(images, 64), images)


def test_patches_are_cut_from_their_image_at_seeded_places() -> None:
    rows, columns = torch.arange(20.0)[:, None].expand(20, 40), torch.arange(40.0).expand(20, 40)
    images = torch.stack([torch.stack([rows, columns, torch.full((20, 40), float(i))]) for i in range(50)])
    cut = patches(images, seed=3)
    assert cut.shape == (200, 3, 16, 16)
    assert torch.equal(cut[:, 0], cut[:, 0, :1, :1] + torch.arange(16.0)[:, None].expand(16, 16))
    assert torch.equal(cut[:, 1], cut[:, 1, :1, :1] + torch.arange(16.0).expand(16, 16))
    assert torch.equal(cut[:, 2, 0, 0], torch.arange(50.0).repeat_interleave(4))
    assert set(cut[:, 0, 0, 0].tolist()) == set(range(5))  # each of the places that there are
    assert set(cut[:, 1, 0, 0].tolist()) == set(range(25))
    assert torch.equal(patches(images, seed=3), cut)
    assert not torch.equal(patches(images, seed=4), cut)


@pytest.mark.parametrize("size", [(24, 24), WIDE])
def test_real_sets_are_near_and_changed_ones_far(size: tuple[int, int], network: ShapeNetwork) -> None:
    images, labels = real_shapes(size, 256, first=256)
    references, _ = real_shapes(size, 256)
    floor = noise_floor(size, 256, network)
    brighter = measure(images / 255 + 0.2, labels, references, network)
    cropped = measure(enlarged(images[..., 4:-4, 4:-4] / 255, size), labels, references, network)
    assert floor["one_object"] == 1
    for name in ("global", "patch"):
        assert abs(floor[f"{name}_kernel"]) < brighter[f"{name}_kernel"] / 20
        assert floor[f"{name}_frechet"] < brighter[f"{name}_frechet"] / 5
    assert floor["area_distance"] < cropped["area_distance"] / 10


def test_patches_tell_enlarged_images_which_the_whole_picture_does_not(network: ShapeNetwork) -> None:
    size = (64, 64)
    images, labels = real_shapes((32, 32), 512, first=512)
    found = measure(enlarged(images / 255, size), labels, real_shapes(size, 512)[0], network)
    floor = noise_floor(size, 512, network)
    assert found["patch_kernel"] > 5 * abs(floor["patch_kernel"])
    assert found["patch_frechet"] > 3 * floor["patch_frechet"]
    assert found["global_frechet"] < 2 * floor["global_frechet"]
    assert found["edge_width"] > 1.65 * floor["edge_width"]


# All measures


def test_the_order_of_the_images_is_of_no_account(network: ShapeNetwork) -> None:
    images, labels = real_shapes(WIDE, 128, first=128)
    references, _ = real_shapes(WIDE, 128)
    order = torch.randperm(128, generator=generator(0))
    straight = measure(images, labels, references, network)
    mixed = measure(images[order], labels[order], references, network)
    exact = ("one_object", "label_accuracy", "area_distance", "edge_width")
    assert [mixed[name] for name in exact] == pytest.approx([straight[name] for name in exact])
    assert mixed["global_frechet"] == pytest.approx(straight["global_frechet"], rel=1e-6)
    assert mixed["global_kernel"] == pytest.approx(straight["global_kernel"], abs=0.05)


def test_bytes_and_floats_measure_the_same_and_so_does_a_second_time(network: ShapeNetwork) -> None:
    images, labels = real_shapes(WIDE, 16, first=16)
    references, _ = real_shapes(WIDE, 16)
    found = measure(images, labels, references, network, seed=5)
    assert list(found) == [
        "one_object", "label_accuracy", "area_distance", "global_kernel", "global_frechet", "patch_kernel",
        "patch_frechet", "edge_width",
    ]  # fmt: skip
    assert measure(images / 255, labels, references / 255, network, seed=5) == found


def test_labels_are_compared_with_the_networks(network: ShapeNetwork) -> None:
    images = real_shapes(WIDE, 16)[0]
    predicted = network.predict(network.features(images / 255))
    wrong = torch.cat([(predicted[:4] + 1) % 4, predicted[4:]])
    assert measure(images, predicted, images, network)["label_accuracy"] == 1
    assert measure(images, wrong, images, network)["label_accuracy"] == 0.75


def test_area_distance_is_a_mean_difference(network: ShapeNetwork) -> None:
    """Sorted, every area differs by 40 pixels of 3072."""
    lengths = range(10, 18)
    small, large = (
        torch.cat([paint(gradient(48, 64), 5, 5, 10, length + more) for length in lengths]) for more in (0, 4)
    )
    found = measure(large, torch.zeros(8, dtype=torch.int64), small, network)
    assert found["area_distance"] == pytest.approx(40 / 3072)


def test_the_noise_floor_is_of_disjoint_sets() -> None:
    first, second = real_shapes(WIDE, 32)[0], real_shapes(WIDE, 32, first=32)[0]
    assert (first[:, None] != second).flatten(2).any(2).all()


@pytest.mark.parametrize(
    ("images", "references", "words"),
    [
        (torch.zeros(4, 3, 32, 64), torch.zeros(4, 3, 64, 32), "32x64 were given with references of 64x32"),
        (torch.zeros(4, 3, 12, 32), torch.zeros(4, 3, 12, 32), "too small"),
        (torch.full((4, 3, 32, 32), torch.nan), torch.zeros(4, 3, 32, 32), "not finite"),
    ],
)
def test_images_that_cannot_be_measured_are_a_sentence(
    images: Tensor, references: Tensor, words: str, network: ShapeNetwork
) -> None:
    with pytest.raises(UserError, match=words):
        measure(images, torch.zeros(4, dtype=torch.int64), references, network)


# The network


def test_the_network_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shape_network.shape_network(tmp_path / "cache", BRIEF)
    again = shape_network.shape_network(tmp_path / "elsewhere", BRIEF)
    monkeypatch.setattr(shape_network, "_trained", _never)
    cached = shape_network.shape_network(tmp_path / "cache", BRIEF)
    for name, weights in first.state_dict().items():
        assert torch.equal(weights, cached.state_dict()[name])
        assert torch.equal(weights, again.state_dict()[name])
    assert not any(parameter.requires_grad for parameter in cached.parameters())
    with pytest.raises(AssertionError, match="trained"):
        shape_network.shape_network(tmp_path / "cache", ShapeSettings(max_train_steps=3, scenes_per_size=8))


def _never(settings: ShapeSettings) -> Callable[..., None]:
    raise AssertionError(f"trained with {settings}")


def test_a_little_training_teaches_shapes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shape_network, "SIZES", ((24, 24), (16, 32)))
    trained = shape_network.shape_network(tmp_path, ShapeSettings(max_train_steps=120, scenes_per_size=512))
    images, labels = real_shapes((24, 24), 256)
    assert (trained.predict(trained.features(images / 255)) == labels).double().mean() > 0.5


def test_features_do_not_depend_on_the_other_images(network: ShapeNetwork) -> None:
    images = renders((32, 64), 140)  # more than a batch
    assert network.features(images).shape == (140, 64)
    assert network.texture(images).shape == (140, 32)
    assert torch.allclose(network.features(images)[130:], network.features(images[130:]), atol=1e-5)
