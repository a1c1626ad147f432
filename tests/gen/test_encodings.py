import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed

from gen.rpe2d.encodings import FourierEncoding, SinCosEncoding, TableEncoding

ROWS, COLUMNS = torch.tensor([0, 2, 3]), torch.tensor([1, 4, 5, 7])


def test_sines_and_cosines_are_dits_with_the_row_first():
    """diffusers encodes the column in the first half of the vector, on a square grid from 0."""
    theirs = torch.as_tensor(np.asarray(get_2d_sincos_pos_embed(16, 5, base_size=5, output_type="pt"))).float()
    column, row = theirs.chunk(2, dim=-1)
    ours = SinCosEncoding(16, 10_000.0)(torch.arange(5), torch.arange(5))
    torch.testing.assert_close(ours[0], torch.cat([row, column], dim=-1), atol=1e-5, rtol=0)


def test_learnable_features_are_those_of_the_formula():
    encoding = FourierEncoding(8, (9, 14), features=12, hidden=5, gamma=1.0)
    expected = []
    for row in ROWS:
        for column in COLUMNS:
            place = torch.tensor([row / 8, column / 13])
            phase = encoding.frequencies.weight @ place
            expected.append(encoding.mlp(torch.cat([phase.cos(), phase.sin()]) / 12**0.5))
    torch.testing.assert_close(encoding(ROWS, COLUMNS)[0], torch.stack(expected))


@pytest.mark.parametrize("gamma", [0.5, 4.0])
def test_learnable_frequencies_start_with_the_spread_asked_for(gamma):
    weight = FourierEncoding(8, (9, 14), features=4096, hidden=5, gamma=gamma).frequencies.weight
    assert weight.std().item() == pytest.approx(1 / gamma, rel=0.05)


def test_a_table_is_indexed_and_between_positions_resampled():
    encoding = TableEncoding(6, (9, 14))
    found = encoding(ROWS, COLUMNS)[0].unflatten(0, (3, 4))
    assert torch.equal(found[1, 2], torch.cat([encoding.rows[2], encoding.columns[5]]))
    torch.testing.assert_close(found, encoding(ROWS.float(), COLUMNS.float())[0].unflatten(0, (3, 4)))
    with torch.no_grad():  # a symmetric kernel reproduces a straight line half way, away from the ends
        encoding.rows.copy_(torch.arange(9.0)[:, None].expand(9, 3))
    between = encoding(torch.tensor([2.5, 5.5]), COLUMNS)[0].unflatten(0, (2, 4))
    torch.testing.assert_close(between[:, 0, 0], torch.tensor([2.5, 5.5]))


@pytest.mark.parametrize(
    "encoding", [SinCosEncoding(8, 100.0), FourierEncoding(8, (9, 14), 12, 5, 1.0), TableEncoding(8, (9, 14))]
)
def test_each_image_has_its_own_positions(encoding):
    rows, columns = torch.stack([ROWS, ROWS + 1]), torch.stack([COLUMNS, COLUMNS - 1])
    together = encoding(rows, columns)
    assert together.shape == (2, 12, 8)
    for b in range(2):
        torch.testing.assert_close(together[b], encoding(rows[b], columns[b])[0])
    assert not torch.allclose(together[0], together[1])
