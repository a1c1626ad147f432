"""The attention module against its definition written out, on the large grid and for all classes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from explain.attention import AttentionModule, build_module

Shapes = list[tuple[int, int, int]]  # channels, height, width of each layer


def features_of(shapes: Shapes, batch: int = 3, seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, *shape, generator=random) for shape in shapes]


def naive(module: AttentionModule, features: list[Tensor], size: tuple[int, int]) -> Tensor:
    """The paper's own order: convolve, normalise, add, ReLU, enlarge, concatenate, fuse; of every class."""
    parts = []
    for branch, x in zip(module.branches, features, strict=True):
        norm = branch.norm
        y = F.conv2d(x, branch.convolution.weight, branch.convolution.bias)
        mean = y.mean((0, 2, 3), keepdim=True) if module.training else norm.running_mean.view(1, -1, 1, 1)
        variance = (
            y.var((0, 2, 3), correction=0, keepdim=True) if module.training else norm.running_var.view(1, -1, 1, 1)
        )
        y = (y - mean) / (variance + norm.eps).sqrt() * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
        parts.append(F.interpolate((y + x).clamp(min=0), size, mode="bilinear", align_corners=False))
    return F.conv2d(torch.cat(parts, 1), module.fuser.weight[:, :, None, None], module.fuser.bias)


def trained(module: AttentionModule) -> AttentionModule:
    """With running statistics and norms that are not those of a fresh one."""
    random = torch.Generator().manual_seed(7)
    for branch in module.branches:
        for values in (branch.norm.running_var, branch.norm.weight.data):
            values.copy_(torch.rand(values.shape, generator=random) + 0.5)
        for values in (branch.norm.running_mean, branch.norm.bias.data):
            values.copy_(torch.randn(values.shape, generator=random))
    return module


SHAPES: list[tuple[Shapes, int, tuple[int, int]]] = [
    ([(4, 12, 20), (6, 6, 10), (8, 3, 5)], 56, (12, 20)),
    ([(4, 12, 20), (6, 6, 10)], 9, (9, 9)),
    ([(5, 7, 4)] * 3, 56, (7, 4)),
    ([(6, 5, 8)], 6, (5, 6)),
]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("shapes", "most", "size"), SHAPES)
def test_both_identities_are_exact(shapes: Shapes, most: int, size: tuple[int, int], train: bool) -> None:
    module = trained(build_module([c for c, _, _ in shapes], 11, most, seed=1)).train(train)
    features = features_of(shapes)
    with torch.no_grad():
        expected = naive(module, features, size)
        every = module(features, torch.arange(11))
        some = module(features, torch.tensor([7, 0, 7]))
        own = module(features, torch.tensor([[1, 2], [3, 3], [10, 0]]))
    torch.testing.assert_close(every, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(some, expected[:, [7, 0, 7]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own[2], expected[2, [10, 0]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own[0], expected[0, [1, 2]], rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    grids=st.lists(st.tuples(st.integers(2, 9), st.integers(2, 9)), min_size=1, max_size=3),
    most=st.integers(1, 10),
    classes=st.lists(st.integers(0, 4), min_size=1, max_size=6),
)
def test_identities_hold_for_any_grids(grids: list[tuple[int, int]], most: int, classes: list[int]) -> None:
    shapes = [(3, *grid) for grid in grids]
    module, features = trained(build_module([3] * len(grids), 5, most, seed=2)).eval(), features_of(shapes)
    size = (min(grids[0][0], most), min(grids[0][1], most))
    with torch.no_grad():
        expected = naive(module, features, size)[:, classes]
        torch.testing.assert_close(module(features, torch.tensor(classes)), expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_definition() -> None:
    shapes: Shapes = [(4, 6, 10), (6, 3, 5)]
    first, second = (build_module([4, 6], 7, 56, seed=3) for _ in range(2))
    features, classes = features_of(shapes), torch.tensor([2, 2, 5])
    weights = torch.randn(3, 3, 6, 10, generator=torch.Generator().manual_seed(4))
    (first(features, classes).sigmoid() * weights).sum().backward()
    (naive(second, features, (6, 10))[:, classes].sigmoid() * weights).sum().backward()
    for (name, mine), (_, wanted) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert mine.grad is not None
        assert wanted.grad is not None, name
        torch.testing.assert_close(mine.grad, wanted.grad, rtol=1e-4, atol=1e-5)


def test_rows_of_other_classes_are_not_read() -> None:
    module = build_module([4], 5, 56, seed=0).eval()
    module.fuser.weight.data[[0, 1, 2, 4]] = torch.nan
    with torch.no_grad():
        assert module(features_of([(4, 3, 5)]), torch.tensor([3])).isfinite().all()


@pytest.mark.parametrize(
    ("channels", "millions"), [((256, 512, 512), 1.9), ((512, 1024, 2048), 9.1), ((768, 768, 768), 4.1)]
)
def test_the_module_is_as_large_as_the_papers(channels: tuple[int, ...], millions: float) -> None:
    """VGG-16, ResNet-50 and ViT-B-16 with 1000 classes."""
    with torch.device("meta"):
        module = AttentionModule(channels, 1000)
    assert sum(p.numel() for p in module.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_a_head_of_21000_classes_costs_a_row_of_each_class_asked() -> None:
    """All its maps would be 21,841 x 28 x 28 numbers an image; of three classes, three."""
    module, most = build_module([8, 8], 21_841, 56, seed=0).eval(), 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal most
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and not result._is_view():
                most = max(most, result.numel())
            return result

    with torch.no_grad(), Watch():
        maps = module(features_of([(8, 28, 28), (8, 14, 14)], batch=2), torch.tensor([5, 21_840, 77]))
    assert maps.shape == (2, 3, 28, 28)
    assert most <= 2 * 8 * 28 * 28


def test_equal_seeds_begin_equal_and_leave_the_stream_alone() -> None:
    stream = torch.get_rng_state()
    first, same, other = (build_module([4, 6], 5, 56, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["fuser.weight"], other["fuser.weight"])


def test_it_knows_whether_it_has_learned() -> None:
    module = build_module([4, 6], 5, 56, seed=0)
    assert module.trained_batches == 0
    module.eval()(features_of([(4, 6, 6), (6, 3, 3)]), torch.tensor([0]))
    assert module.trained_batches == 0
    module.train()(features_of([(4, 6, 6), (6, 3, 3)]), torch.tensor([0]))
    assert module.trained_batches == 1
