"""Networks as functions of one vector, and the networks themselves."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import grad, vmap
from torchvision.models import resnet18

from distill.flat import FlatNetwork
from distill.nets import NETWORKS, MeanPool, NetworkSpec, build_network
from workbench import seeds
from workbench.errors import UserError
from workbench.networks import ConvNet

NAMES = list(NETWORKS)


def spec(name: str, height: int = 18, width: int = 11, channels: int = 2) -> NetworkSpec:
    return NetworkSpec(name, 3, channels, (height, width), width=4, depth=2)  # type: ignore[arg-type]


def flat(name: str = "convnet") -> FlatNetwork:
    return FlatNetwork(build_network(spec(name)))


def images(batch: int = 2, height: int = 18, width: int = 11) -> torch.Tensor:
    return torch.randn(batch, 2, height, width, generator=seeds.generator(9))


@pytest.mark.parametrize("name", NAMES)
def test_the_vector_holds_the_module_and_no_more(name: str) -> None:
    """Same logits as the module with these parameters; `features` is what its head sees."""
    network = flat(name)
    theta = network.initial(seeds.generator(1))
    assert len(theta) == network.size == sum(p.numel() for p in network.module.parameters())
    network.module.load_state_dict(network.unflatten(theta))
    logits = network(theta, images())
    assert torch.equal(logits, network.module(images()))
    assert logits.shape == (2, 3)
    torch.testing.assert_close(network.module.head(network.features(theta, images())), logits)  # type: ignore[operator]
    assert torch.equal(network.flatten(network.unflatten(theta)), theta)


def test_parameters_lie_in_the_order_of_their_names() -> None:
    network = flat()
    values = network.unflatten(torch.arange(network.size).float())
    assert list(values) == [name for name, _ in network.module.named_parameters()]
    assert torch.cat([value.flatten() for value in values.values()]).tolist() == list(range(network.size))


def test_initial_weights_are_torchs_own_and_leave_the_global_stream_alone() -> None:
    state = torch.get_rng_state()
    theta = flat().initial(seeds.generator(4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(theta, flat().initial(seeds.generator(4)))
    assert not torch.equal(theta, flat().initial(seeds.generator(5)))
    weight = flat().unflatten(theta)["blocks.1.0.weight"]  # uniform within 1 / sqrt(inputs)
    assert weight.abs().max() <= 1 / 6
    assert weight.std() == pytest.approx(1 / 6 / 3**0.5, rel=0.2)


def test_initial_weights_are_a_copy() -> None:
    network = flat()
    first = network.initial(seeds.generator(1))
    kept = first.clone()
    network.initial(seeds.generator(2))
    assert torch.equal(first, kept)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_several_networks_at_once_are_those_of_each(name: str) -> None:
    """No operation in place, none that vmap cannot do."""
    network = FlatNetwork(build_network(spec(name, 33, 18)))  # norms over two pixels would magnify rounding
    thetas = torch.stack([network.initial(seeds.generator(k)) for k in range(2)])
    x = torch.stack(list(images(2, 33, 18).split(1)))

    def loss(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return network(theta, x).logsumexp(1).sum()

    together = vmap(grad(loss))(thetas, x)
    for theta, own, found in zip(thetas, x, together, strict=True):
        leaf = theta.clone().requires_grad_()
        (alone,) = torch.autograd.grad(loss(leaf, own), leaf)
        assert (found - alone).norm() < 1e-3 * alone.norm(), (found - alone).norm() / alone.norm()


def test_running_statistics_are_refused() -> None:
    batch_norm = ConvNet(3, 1, (8, 6), width=4, depth=1, normalisation="batch")
    with pytest.raises(UserError, match=r"running statistics \(blocks.0.1\).*use group or instance norm"):
        FlatNetwork(batch_norm)
    with_buffer = nn.Linear(2, 2)
    with_buffer.register_buffer("steps", torch.zeros(1))
    with pytest.raises(UserError, match="running statistics"):
        FlatNetwork(with_buffer)


@pytest.mark.parametrize(
    ("channels", "size", "classes", "depth", "count"),
    [
        (3, (32, 32), 10, 3, 320_010),
        (3, (32, 32), 100, 3, 504_420),
        (3, (64, 64), 200, 4, 857_160),
        (3, (128, 128), 10, 5, 615_690),
        (1, (28, 28), 10, 3, 317_706),  # 28 becomes 4 cells a side, as 32 does
    ],
)
def test_convnets_have_the_published_sizes(
    channels: int, size: tuple[int, int], classes: int, depth: int, count: int
) -> None:
    network = FlatNetwork(build_network(NetworkSpec("convnet", classes, channels, size, 128, depth)))
    assert network.size == count


@given(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)))
def test_the_pool_is_torchs(shape: tuple[int, int, int, int]) -> None:
    x = torch.randn(shape, generator=seeds.generator(0), dtype=torch.float64, requires_grad=True)
    ours, theirs = MeanPool()(x), torch.nn.functional.avg_pool2d(x, 2, ceil_mode=True)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(ours.shape, generator=seeds.generator(1), dtype=torch.float64)
    torch.testing.assert_close(grad_of(ours, x, weights), grad_of(theirs, x, weights))


def grad_of(y: torch.Tensor, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(y, x, weights)[0]


def test_resnet_is_torchvisions_but_for_its_stem() -> None:
    ours = FlatNetwork(build_network(NetworkSpec("resnet18", 10, 3, (32, 32)))).size
    theirs = sum(p.numel() for p in resnet18(num_classes=10).parameters())
    assert ours == theirs - 64 * 3 * (7 * 7 - 3 * 3)


@pytest.mark.parametrize(
    ("name", "size", "advice"),
    [
        ("vgg11", (8, 8), "give --network convnet"),
        ("resnet18", (8, 8), "give --network convnet"),
        ("convnet", (2, 2), "give a lower --depth"),
    ],
)
def test_images_that_a_norm_would_erase_are_refused(name: str, size: tuple[int, int], advice: str) -> None:
    with pytest.raises(UserError, match=f"images of {size[0]}x{size[1]} are too small for {name}.*{advice}"):
        build_network(NetworkSpec(name, 3, 1, size, 4, 2))  # type: ignore[arg-type]


def test_a_spec_survives_json() -> None:
    import json

    one = spec("convnet")
    assert NetworkSpec.from_mapping(json.loads(json.dumps(one.to_mapping()))) == one
