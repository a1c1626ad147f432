"""Measured facts: place, shape, colour, edges, what hiding does; and what a generated text may say beside them."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_classifiers import pixels, quadrants

from explain.claims import agreement, claims, names_class, tidied
from explain.facts import (
    Facts,
    Region,
    block,
    colour_name,
    edge_density,
    elongation,
    half_area,
    measure_region,
    place,
    sentences,
)
from explain.region_views import box_with_margin, highlighted, outlined, signed_colours, signed_overlay
from explain.verification import CONTROLS, displaced, verify_region

HEIGHT, WIDTH = 24, 32


def box(top: int, left: int, height: int, width: int) -> torch.Tensor:
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


# ---- hiding ----------------------------------------------------------------------------------------------------------


def test_verification_is_what_the_classifier_says_of_the_masked_images() -> None:
    """Class 0 is the bright upper left quarter: with the mean in its place nothing is left of it."""
    classifier = quadrants(HEIGHT, WIDTH)
    mask = box(0, 0, HEIGHT // 2, WIDTH // 2)
    image = torch.where(mask, 0.9, 0.1).expand(3, -1, -1)
    one, other = verify_region(classifier, image, [0, 3], mask, fills=("mean",))
    filled = image.mean((1, 2), keepdim=True).expand_as(image)
    views = torch.stack([image, torch.where(mask, image, filled), torch.where(mask, filled, image)])
    expected = classifier(views).softmax(1).detach()
    assert [one.probability, one.keep, one.remove] == pytest.approx(expected[:, 0].tolist(), rel=1e-5)
    assert [other.probability, other.keep, other.remove] == pytest.approx(expected[:, 3].tolist(), rel=1e-5)
    controls = displaced(mask)
    views = torch.cat([torch.where(controls[:, None], image, filled), torch.where(controls[:, None], filled, image)])
    left = classifier(views).softmax(1)[:, 0].detach()
    assert one.control_keep == pytest.approx(float(left[:CONTROLS].mean()), rel=1e-5)
    assert one.control_remove == pytest.approx(float(left[CONTROLS:].mean()), rel=1e-5)
    assert one.nothing == pytest.approx(classifier(filled[None]).softmax(1)[0, 0].item(), rel=1e-5)
    assert one.sufficiency == pytest.approx(one.keep / one.probability)
    assert one.necessity == pytest.approx(1 - one.remove / one.probability)
    assert one.remove < one.control_remove


def test_every_target_with_every_fill() -> None:
    found = verify_region(quadrants(HEIGHT, WIDTH), pixels(3, HEIGHT, WIDTH), [2, 1], box(3, 4, 9, 5))
    assert [(one.fill, one.target) for one in found] == [("mean", 2), ("mean", 1), ("blur", 2), ("blur", 1)]


@given(st.integers(0, 12), st.integers(0, 20), st.integers(1, 8), st.integers(1, 10), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_controls_have_the_regions_area_and_lie_elsewhere(
    top: int, left: int, height: int, width: int, seed: int
) -> None:
    mask = box(top, left, height, width)
    controls = displaced(mask, seed)
    assert (controls.sum((1, 2)) == mask.sum()).all()
    assert (controls & mask).sum() == 0  # there is room
    assert torch.equal(controls, displaced(mask, seed))


# ---- places, shapes, colours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "word"),
    [
        (box(0, 0, 5, 5), "upper left"), (box(0, 12, 5, 6), "upper centre"), (box(10, 26, 4, 6), "middle right"),
        (box(19, 26, 5, 6), "lower right"), (box(9, 13, 6, 6), "centre"), (box(0, 0, 23, 31), "most of the picture"),
    ],
)  # fmt: skip
def test_places(mask: torch.Tensor, word: str) -> None:
    assert place(mask) == word


def test_elongation_is_the_ratio_of_the_sides() -> None:
    assert elongation(box(2, 2, 10, 10)) == pytest.approx(1)
    assert elongation(box(2, 2, 4, 20)) == pytest.approx(5)
    assert elongation(box(2, 2, 20, 4)) == pytest.approx(5)
    assert elongation(box(7, 3, 1, 12)) == pytest.approx(12)
    diagonal = torch.eye(30, dtype=torch.bool)
    assert elongation(diagonal) > 20


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((0, 0, 0), "black"), ((255, 255, 255), "white"), ((128, 128, 128), "gray"), ((60, 62, 60), "dark gray"),
        ((210, 30, 30), "red"), ((40, 80, 210), "blue"), ((110, 70, 45), "brown"), ((250, 230, 40), "yellow"),
        ((50, 160, 50), "green"), ((150, 190, 235), "light blue"),
    ],
)  # fmt: skip
def test_colours(colour: tuple[int, int, int], name: str) -> None:
    assert colour_name(torch.tensor(colour) / 255) == name


def test_edges_are_counted_where_they_are() -> None:
    mask = box(4, 4, 8, 8)
    stripes = (torch.arange(WIDTH) % 2).float().expand(3, HEIGHT, WIDTH)
    inside, outside = edge_density(torch.where(mask, stripes, 0.5), mask)
    assert inside == pytest.approx(1, abs=0.1)
    assert outside < 0.1
    assert edge_density(stripes, torch.ones(HEIGHT, WIDTH, dtype=torch.bool))[1] == 0


def test_evidence_is_the_share_of_what_speaks_for_the_class() -> None:
    values = torch.zeros(HEIGHT, WIDTH)
    values[2, 2], values[20, 20], values[2, 3] = 3.0, 1.0, -7.0
    region = measure_region(torch.full((1, HEIGHT, WIDTH), 0.5), values, box(0, 0, 6, 8))
    assert region.evidence == pytest.approx(0.75)
    assert region.area == pytest.approx(48 / (HEIGHT * WIDTH))
    assert region.colour == "gray"


def test_half_of_the_evidence_needs_the_fewest_pixels() -> None:
    assert half_area(torch.ones(6, 10)) == pytest.approx(0.5)
    assert half_area(-torch.ones(6, 10)) is None
    values = -torch.ones(6, 10)
    values[0, :3] = torch.tensor([5.0, 3.0, 2.0])
    assert half_area(values) == pytest.approx(1 / 60)
    values[5, 9] = 1.0
    assert half_area(values) == pytest.approx(2 / 60)


# ---- words -----------------------------------------------------------------------------------------------------------


def facts(mask: torch.Tensor | None = None, label: str = "ankle boot") -> Facts:
    region = Region(0.12, 0.71, "upper left", 3.1, "brown", 0.2, 0.1) if mask is None else None
    classifier = quadrants(HEIGHT, WIDTH)
    verified = verify_region(classifier, pixels(3, HEIGHT, WIDTH), [0], box(0, 0, 12, 16), fills=("blur",))
    predictions = ((label, 0.931), ("bag", 0.042))
    return Facts(label, 0.931, predictions, 0.05, "probability", "blur", 500, 0.0, region, verified)


def test_sentences_say_what_was_measured() -> None:
    given_facts = facts()
    one = given_facts.verifications[0]
    text = " ".join(sentences(given_facts))
    for part in ("ankle boot", "93.1%", "bag (4.2%)", "71%", "upper left", "12%", "brown", "3.1 times", "5.0%"):
        assert part in text
    assert f"{one.remove:.1%} instead of {one.probability:.1%}" in text
    assert f"{one.control_remove:.1%}" in text
    warned = sentences(replace(given_facts, warnings=("it is so",), region=None, verifications=()))
    assert warned[-1] == "Note: it is so."
    assert warned[1] == "No region of the picture is named."
    spread = replace(given_facts, region=None, half_area=0.31)
    assert "the strongest half of what speaks for ankle boot covers 31% of it" in sentences(spread)[1]


def test_the_scale_is_told_where_it_is_not_the_probability() -> None:
    assert not any("log-odds" in sentence for sentence in sentences(facts()))
    told = sentences(replace(facts(), scale="log-odds"))
    assert any("measured in log-odds" in sentence for sentence in told)
    assert "With the whole picture blurred, the probability of ankle boot is 5.0%." in told


def test_the_overlap_with_one_point_less_is_told_where_there_are_points_to_leave_out() -> None:
    assert not any("overlap" in sentence for sentence in sentences(facts()))
    assert any("overlap by 42% (IoU)" in sentence for sentence in sentences(replace(facts(), stability=0.42)))


def test_a_class_that_is_not_the_first_is_not_called_seen() -> None:
    other = replace(facts(), label="sock", probability=0.003)
    assert sentences(other)[0] == "The classifier sees ankle boot (93.1%); of sock its probability is 0.3%."


def test_a_comparison_is_of_the_other_class() -> None:
    compared = replace(facts(), why_not="bag", why_not_verifications=facts().verifications)
    assert any(
        sentence.startswith("Why not bag?") and "probability of bag" in sentence for sentence in sentences(compared)
    )


def test_the_block_has_every_fact_on_its_line() -> None:
    lines = dict(line.split(": ", 1) for line in block(facts()).splitlines() if ": " in line)
    assert lines["label"] == "ankle boot"
    assert lines["place"] == "upper left"


# ---- generated texts -------------------------------------------------------------------------------------------------


def test_figures_and_statements_on_the_classifier_are_not_a_models_business() -> None:
    text, notes = tidied("A brown boot. It is 93% likely. Removing it lowers the probability. It has laces.")
    assert text == "A brown boot. It has laces."
    assert len(notes) == 1
    assert tidied("The classifier saw a boot.")[0] == ""


def test_ramblings_are_cut() -> None:
    text, notes = tidied("One thing. One thing. Two things. Three things. Four. Five. Six and th", finished=False)
    assert text == "One thing. Two things. Three things. Four."
    assert len(notes) == 2
    assert tidied("a boot and a boot and", finished=False)[0] == "a boot and a boot and ..."
    assert tidied(" \n ", finished=False) == ("", ())


def test_agreement_is_on_whole_names() -> None:
    assert agreement("Two tabby cats sleep.", "tabby, tabby cat") == "yes"
    assert agreement("A catalogue.", "cat", ["dog"]) == "unclear"
    assert agreement("Dogs on grass.", "cat", ["cat", "dog"]) == "no"
    assert names_class("an Ankle boot!", "Ankle boot")
    assert not names_class("a boot on the ankle", "ankle boot")
    assert not names_class("anything", "")


def test_claims_are_held_against_the_facts() -> None:
    found = {claim.about: claim for claim in claims("A brown bag at the right.", facts())}
    assert (found["class"].said, found["class"].agrees) == ("bag", False)
    assert found["colour"].agrees
    assert (found["place"].said, found["place"].agrees) == ("right", False)
    assert claims("Something shiny.", facts()) == ()


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_views_of_a_region() -> None:
    image = torch.full((3, HEIGHT, WIDTH), 200, dtype=torch.uint8)
    mask = box(4, 10, 10, 20)
    assert box_with_margin(mask) == (3, 15, 8, 32)
    view = highlighted(image, mask)
    assert view.shape == (3, 12, 24)
    assert view[:, 1, 2].tolist() == [200] * 3
    assert view[:, 0, 0].tolist() == [50] * 3
    line = outlined(image, mask)
    assert torch.equal(line[:, mask], image[:, mask])
    assert line[:, 3, 9].tolist() != [200] * 3
    assert line[:, 0, 0].tolist() == [200] * 3


def test_signed_maps_have_one_scale() -> None:
    colours = signed_colours(torch.tensor([[2.0, 0.0, -1.0, -2.0]]))
    reddish, white, half, blue = colours[:, 0].T
    assert reddish[0] > reddish[2]
    assert blue[2] > blue[0]
    assert torch.allclose(half, (white + blue) / 2)
    assert signed_colours(torch.zeros(1, 2)).isfinite().all()


def test_points_are_drawn_where_they_are() -> None:
    image = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.uint8)
    plain = signed_overlay(image, torch.zeros(HEIGHT, WIDTH))
    pointed = signed_overlay(image, torch.zeros(HEIGHT, WIDTH), ((30.0, 4.0),), (1,))
    changed = (plain != pointed).any(0).nonzero().float().mean(0) / torch.tensor(plain.shape[1:])
    assert changed.tolist() == pytest.approx([4 / HEIGHT, 30 / WIDTH], abs=0.05)
    assert not math.isnan(float(changed.sum()))
