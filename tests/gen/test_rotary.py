import numpy as np
import torch

from gen.rpe2d.positions import sample_positions
from gen.rpe2d.rotary import _in_real_numbers, rotary_frequencies, rotary_table, rotate


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def encode(x, rows, columns, theta=100.0):
    """Rotary embedding of x (images, heads, tokens, channels) by the code under test."""
    own = rotary_frequencies(x.shape[-1], theta)
    return rotate(x, rotary_table(torch.as_tensor(rows), torch.as_tensor(columns), (own, own)))


def by_complex_numbers(x, rows, columns, theta):
    """The same in double precision, for positions that all images share."""
    x = x.double().numpy()
    frequencies = [theta ** (-4 * k / x.shape[-1]) for k in range(x.shape[-1] // 4)]
    angles = np.array([[p * f for p in (r, c) for f in frequencies] for r in rows for c in columns])
    z = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)


def test_rotation_is_multiplication_of_complex_numbers():
    rows, columns = [0, 2, 7], [1, 3, 4, 100, 127]
    x = torch.randn(2, 3, 15, 12, generator=seeded())
    np.testing.assert_allclose(encode(x, rows, columns, 50.0), by_complex_numbers(x, rows, columns, 50.0), atol=1e-4)


def test_the_rotation_is_precise_at_far_positions():
    far = list(range(1000, 1024))
    x = torch.randn(1, 1, 24, 8, generator=seeded())
    exact = by_complex_numbers(x, far, [1000], 10_000.0)
    np.testing.assert_allclose(encode(x, far, [1000], 10_000.0), exact, atol=1e-3)
    rounded = encode(x.bfloat16(), far, [1000], 10_000.0)
    assert rounded.dtype == torch.bfloat16
    np.testing.assert_allclose(rounded.float(), exact, atol=0.03)


def test_each_image_has_its_own_positions():
    rows, columns = sample_positions(3, 4, 20, seeded(1)), sample_positions(3, 2, 20, seeded(2))
    x = torch.randn(3, 2, 8, 8, generator=seeded())
    together = encode(x, rows, columns)
    for b in range(3):
        torch.testing.assert_close(together[b : b + 1], encode(x[b : b + 1], rows[b], columns[b]))
    assert not torch.allclose(together[0], encode(x, rows[1], columns[1])[0], atol=0.1)


def logits(q, k, rows, columns):
    """Attention logits between all tokens."""
    return encode(q, rows, columns) @ encode(k, rows, columns).mT


def test_attention_depends_on_differences_of_positions_only():
    q, k = torch.randn(2, 1, 2, 15, 16, generator=seeded())
    rows, columns = torch.tensor([0, 2, 5]), torch.tensor([1, 2, 6, 7, 9])
    here = logits(q, k, rows, columns)
    torch.testing.assert_close(here, logits(q, k, rows + 90, columns + 31), atol=1e-3, rtol=0)
    for other in (logits(q, k, 2 * rows, columns), logits(q, k, rows, 2 * columns)):
        assert (here - other).abs().max() > 0.5


def test_rows_and_columns_are_told_apart():
    """Of 2 x 3 tokens in row-major order, a moved row or column changes the logits between the two sides only."""
    q, k = torch.randn(2, 1, 1, 6, 8, generator=seeded())
    plain = q @ k.mT
    for rows, columns, side in (
        ([0, 5], [0, 0, 0], [0, 0, 0, 1, 1, 1]),
        ([0, 0], [0, 0, 5], [0, 0, 1, 0, 0, 1]),
    ):
        same = (logits(q, k, rows, columns) - plain)[0, 0].abs() < 1e-4
        assert torch.equal(same, torch.tensor(side)[:, None] == torch.tensor(side))


def test_each_axis_turns_at_its_own_frequencies():
    own = rotary_frequencies(8, 100.0)
    rows, columns = torch.tensor([1, 2]), torch.tensor([3, 5, 6])
    slow_columns = rotary_table(rows, columns, (own, own / 3))
    torch.testing.assert_close(slow_columns, rotary_table(rows, columns / 3, (own, own)))
    torch.testing.assert_close(rotary_table(rows, columns, (own / 3, own)), rotary_table(rows / 3, columns, (own, own)))


def test_real_and_complex_arithmetic_agree():
    own = rotary_frequencies(8, 100.0)
    table = rotary_table(torch.tensor([[1, 2], [0, 5]]), torch.tensor([3, 5, 6]).expand(2, 3), (own, own))
    x = torch.randn(2, 3, 6, 8, generator=seeded())
    torch.testing.assert_close(_in_real_numbers(x.unflatten(-1, (4, 2)), table).flatten(-2), rotate(x, table))
