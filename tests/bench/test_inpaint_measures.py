"""The measures of completions, on completions whose figures are known."""

import pytest
import torch
from inpaint_measures import (
    border_error,
    diversity_figures,
    fidelity_figures,
    interval,
    law_figures,
    modes,
    total_variation,
)
from inpaint_toy import LAW, Reading, make_scenes, read


def test_errors_are_of_the_hole():
    images, mask = torch.zeros(2, 1, 4, 6), torch.zeros(2, 1, 4, 6)
    mask[..., 1:3, 2:4] = 1
    variants = torch.stack([images + 0.2 * mask, images - 0.4 * mask + 9 * (1 - mask)], dim=1)
    figures = fidelity_figures(variants, images, mask)
    assert figures["hole_psnr_one"] == pytest.approx(20.0, abs=1e-3)  # 10 log10 (4 / 0.04)
    assert figures["hole_psnr_best"] == pytest.approx(20.0, abs=1e-3)
    assert figures["hole_psnr_mean"] == pytest.approx(26.02, abs=1e-2)  # the mean is 0.1 off


def test_a_seam_shows_at_the_border_and_a_shade_does_not():
    images, mask = torch.rand(1, 3, 8, 10), torch.zeros(1, 1, 8, 10)
    mask[..., 2:6, 3:7] = 1
    assert border_error(images + 0.3, images, mask) == pytest.approx(0, abs=1e-6)
    assert border_error(images + 0.3 * mask, images, mask) == pytest.approx(0.3, abs=1e-6)


def test_pairs_are_split_by_their_structures():
    mask = torch.ones(1, 1, 2, 2)
    variants = torch.tensor([0.0, 0.0, 0.5])[None, :, None, None, None].expand(1, 3, 1, 2, 2)
    ids = torch.tensor([[[1, 2], [1, 2], [1, 3]]])
    figures = diversity_figures(variants, mask, ids)
    assert figures == {"pair_l1": 0.5, "pair_l1_same_structure": 0.0, "share_of_same_structures": pytest.approx(1 / 3)}


def test_the_true_law_is_near_itself():
    scenes = make_scenes(1500, 5)
    figures = law_figures(read(scenes.images), scenes.cues)
    for cue in "ABC":
        assert figures[f"tv_{cue}"] < 0.06
        assert figures[f"tv_{cue}_low"] <= figures[f"tv_{cue}"] <= figures[f"tv_{cue}_high"] + 0.02
    assert figures["possible"] == figures["valid"] > 0.99


def test_a_wrong_law_is_far():
    shapes, valid = torch.zeros(10, 4, dtype=torch.long), torch.ones(10, 4, dtype=torch.bool)
    assert total_variation(shapes, valid, LAW[0]) == 0.5  # only circles
    assert total_variation(shapes, valid, LAW[1]) == 1.0
    assert total_variation(shapes, ~valid, LAW[0]) == 1.0
    assert interval(shapes, valid, LAW[0]) == (0.5, 0.5)


def test_only_valid_modes_count():
    reading = Reading(
        shapes=torch.tensor([0, 0, 1, 2, 2, 2]), colours=torch.tensor([1, 2, 1, 0, 0, 0]),
        overlap=torch.tensor([0.9, 0.9, 0.5, 0.9, 0.9, 0.8]),
    )  # fmt: skip
    assert modes(reading, 3) == 1.5  # two of the first image, one of the second
