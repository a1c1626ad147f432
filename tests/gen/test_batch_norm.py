from datetime import timedelta

import pytest
import torch
from torch import distributed, multiprocessing, nn

from gen.pixel.batch_norm import SynchronisedBatchNorm

ROWS, WIDTH, WORLD = 6, 5, 2
SHIFTS = (0.0, 100.0)


def some_rows(shift=0.0):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, WIDTH, generator=generator) * torch.tensor([1.0, 3.0, 0.1, 1.0, 5.0]) + shift


def some_weights():
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1))


def learn(norm, rows, weights):
    """Two passes in training, one in evaluation: what comes out, the gradients, and what was kept."""
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, WIDTH))
        norm.bias.copy_(torch.linspace(-1, 1, WIDTH))
    rows = rows.clone().requires_grad_()
    first = norm(rows)
    (first * weights).sum().backward()
    second = norm(2 * rows.detach())
    norm.eval()
    return {
        "first": first.detach(), "second": second.detach(), "evaluated": norm(rows.detach()).detach(),
        "rows": rows.grad, "weight": norm.weight.grad, "bias": norm.bias.grad,
        "running_mean": norm.running_mean, "running_var": norm.running_var, "count": norm.num_batches_tracked,
    }  # fmt: skip


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD, timeout=timedelta(minutes=5)
    )
    part = slice(rank * ROWS // WORLD, (rank + 1) * ROWS // WORLD)
    learned = [learn(SynchronisedBatchNorm(WIDTH), some_rows(shift)[part], some_weights()[part]) for shift in SHIFTS]
    torch.save(learned, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Of each of two processes, what it learned of its rows at each of the shifts."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(work, (str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("shift", SHIFTS)
def test_two_processes_are_one(learned, shift):
    """Far from zero too, where a mean of squares less a squared mean would be imprecise."""
    parts = [of_rank[SHIFTS.index(shift)] for of_rank in learned]
    for name, expected in learn(nn.BatchNorm1d(WIDTH), some_rows(shift), some_weights()).items():
        values = [part[name] for part in parts]
        if name in ("weight", "bias"):
            found = sum(values)  # of their shares of the rows
        elif expected.shape == (ROWS, WIDTH):
            found = torch.cat(values)
        else:
            assert torch.equal(values[0], values[1])
            found = values[0]
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4, msg=name)


def test_one_process_is_torch_s_own():
    ours, theirs = (learn(norm(WIDTH), some_rows(), some_weights()) for norm in (SynchronisedBatchNorm, nn.BatchNorm1d))
    for name, expected in theirs.items():
        assert torch.equal(ours[name], expected), name
