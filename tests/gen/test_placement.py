import math

import pytest
import torch
from tiny_models import generators, random_transformer

from gen.rpe2d.extrapolation import extrapolate
from gen.rpe2d.modes import EXTRAPOLATIONS
from gen.rpe2d.placement import attention_factor, check_mode, place, timestep_factor
from gen.rpe2d.positions import inference_positions
from workbench.errors import UserError

MODEL = random_transformer()  # 4 x 6 patches natively, 9 x 14 positions


@pytest.mark.parametrize("mode", ["equispaced", "isotropic", "centered"])
def test_modes_place_the_grid_in_the_trained_range(mode):
    placed = place(MODEL, mode, (3, 8))
    rows, columns = inference_positions((3, 8), (9, 14), mode)
    assert torch.equal(placed.rows, rows)
    assert torch.equal(placed.columns, columns)
    assert placed.frequencies is None
    assert placed.logit_scale == 1


def test_drawn_positions_are_each_images_own():
    placed = place(MODEL, "random", (3, 8), generators(1, 2), 2)
    for k, generator in enumerate(generators(1, 2)):
        rows, columns = inference_positions((3, 8), (9, 14), "random", generator)
        assert torch.equal(placed.rows[k], rows)
        assert torch.equal(placed.columns[k], columns)


@pytest.mark.parametrize("rule", EXTRAPOLATIONS)
def test_rules_go_beyond_the_trained_range(rule):
    check_mode(MODEL, rule, (12, 20))
    placed, expected = place(MODEL, rule, (12, 20), sigma=0.7), extrapolate(rule, (12, 20), (9, 14), 8, 100.0, 0.7)
    assert torch.equal(placed.rows, expected.rows)
    assert (placed.frequencies is None) == (expected.frequencies is None)
    noise = torch.randn(1, 1, 24, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = MODEL(
            noise, torch.tensor([3.0]), position_ids=(placed.rows, placed.columns), frequencies=placed.frequencies
        )
    assert out.sample.shape == noise.shape


@pytest.mark.parametrize(
    ("encoding", "mode", "sentence"),
    [
        ("rope", "yran", "position_mode is 'yran'; give one of equispaced, "),
        ("rope", "equispaced", "12 patches .* trained on 9 positions"),
        ("sincos", "yarn", "yarn changes rotary frequencies and this model's encoding is sincos"),
        ("table", "extrapolation", "learned table ends"),
    ],
)
def test_what_a_model_cannot_do_is_a_sentence(encoding, mode, sentence):
    with pytest.raises(UserError, match=sentence):
        check_mode(random_transformer(pos_embed_type=encoding), mode, (12, 14))


@pytest.mark.parametrize("encoding", ["sincos", "lff", "table"])
def test_added_encodings_can_be_interpolated(encoding):
    model = random_transformer(pos_embed_type=encoding)
    check_mode(model, "interpolation", (12, 20))
    placed = place(model, "interpolation", (12, 20))
    assert placed.columns.max() < 14
    noise = torch.randn(1, 1, 24, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert model(noise, torch.tensor([3.0]), position_ids=(placed.rows, placed.columns)).sample.isfinite().all()


@pytest.mark.parametrize(
    ("rule", "grid", "factor"),
    [
        ("auto", (4, 6), 1.0),
        ("auto", (8, 12), math.sqrt(math.log(96) / math.log(24))),
        ("auto", (2, 3), 1.0),
        ("entropy", (2, 3), math.sqrt(math.log(6) / math.log(24))),
        ("yarn", (4, 12), (0.1 * math.log(2) + 1) ** 2),
        ("yarn", (2, 3), 1.0),
        (None, (8, 12), 1.0),
        (1.3, (8, 12), 1.3),
    ],
)
def test_attention_factors(rule, grid, factor):
    assert attention_factor(rule, MODEL, grid) == pytest.approx(factor)


@pytest.mark.parametrize(("rule", "grid", "factor"), [("auto", (8, 12), 2.0), (None, (8, 12), 1.0), (3.0, (4, 6), 3.0)])
def test_timestep_factors(rule, grid, factor):
    assert timestep_factor(rule, MODEL, grid) == pytest.approx(factor)


@pytest.mark.parametrize("value", ["entrpy", 0, -1.0])
def test_impossible_factors_are_a_sentence(value):
    with pytest.raises(UserError, match=r"attention_scale is .*; give a number above 0, auto, entropy, yarn or None"):
        attention_factor(value, MODEL, (8, 12))
    with pytest.raises(UserError, match=r"timestep_shift is .*; give a number above 0, auto or None"):
        timestep_factor(value, MODEL, (8, 12))


def test_without_a_generator_every_call_draws_anew():
    first, second = (place(MODEL, "random", (3, 8), batch_size=2) for _ in range(2))
    drawn = [tuple(rows.tolist()) for placed in (first, second) for rows in placed.columns]
    assert len(set(drawn)) > 1
