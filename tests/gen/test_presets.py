import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gen.presets import PRESETS, forward_flops
from gen.rpe2d.transformer import RPE2DTransformer2DModel

PUBLISHED = {"S": 33e6, "B": 130e6, "L": 458e6, "XL": 675e6}  # DiT's, of patch size 2


def on_meta(name, **changes):
    """As DiT on ImageNet: latents of 4 channels, 1000 classes."""
    settings = {
        "sample_size": (32, 32),
        "patch_size": 2,
        "in_channels": 4,
        "num_classes": 1000,
        "max_positions": (64, 64),
    }
    with torch.device("meta"):
        return RPE2DTransformer2DModel(**{**settings, **PRESETS[name]._asdict(), **changes})


@pytest.mark.parametrize("name", PRESETS)
def test_the_number_of_weights(name):
    layers, heads, head_dim = PRESETS[name]
    d = heads * head_dim
    ends = (16 + 1) * d + (d + 1) * 16  # patches in and out
    conditions = (257 + d + 1) * d + (4 * 256 + 1 + d + 1) * d + 1001 * d  # time, crop, label
    blocks = layers * ((6 * d + 4 * d + 8 * d) * d + 6 * d + 4 * d + 5 * d + 2 * head_dim)
    count = sum(weight.numel() for weight in on_meta(name).parameters())
    assert count == ends + conditions + blocks + 2 * d * (d + 1)
    if name in PUBLISHED:
        assert count == pytest.approx(PUBLISHED[name], rel=0.025)


@pytest.mark.parametrize("name", ["S", "XL"])
@pytest.mark.parametrize("tokens", [256, 1024])
def test_the_cost_of_an_image_is_what_torch_counts(name, tokens):
    side = 2 * int(tokens**0.5)
    with FlopCounterMode(display=False) as counter:
        model = on_meta(name)
        model(torch.empty(1, 4, side, side, device="meta"), torch.empty(1, device="meta"))
    assert forward_flops(PRESETS[name], tokens) == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_half_of_the_mlp_costs_a_third_less_than_its_layers():
    full, half = (forward_flops(PRESETS["B"], 256, ratio) for ratio in (4.0, 2.0))
    assert full - half == 12 * 256 * 8 * 768**2
