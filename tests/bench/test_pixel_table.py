"""What the pixel benchmark answers, from figures that are made up."""

from pathlib import Path

import pytest
from pixel_arms import Task
from pixel_table import LONGER, Found, Results, answers, spread

TASK = Task("fashion-mnist", 28, Path("runs"), 20, 40, 30, {"preset": "tiny", "patch_size": 4})
LONG = TASK.longer("full")
GOOD = {  # arm, steps, evaluations: distances of two seeds, and class agreements
    ("ssl", 40, 18): ((10.0, 12.0), (0.8, 0.7)),
    ("ssl", 40, 1): ((90.0, 80.0), (0.1, 0.1)),
    ("ssl", 40, 2): ((60.0, 70.0), (0.1, 0.2)),
    ("scratch", 40, 18): ((11.0, 13.0), (0.8, 0.7)),
    (LONGER, LONG, 18): ((9.0, 13.0), (0.8, 0.7)),
    ("ssl-noRC", 40, 18): ((9.0, 11.0), (0.8, 0.7)),
    ("cm-dm", 30, 1): ((20.0, 22.0), (0.7, 0.6)),
}


def told(**changes):
    rows = {**GOOD, **changes.get("rows", {})}
    found = []
    for (arm, steps, evaluations), values in rows.items():
        for seed, (distance, agreement) in enumerate(zip(*values, strict=True)):
            figures = {"frechet_distance": distance, "class_agreement": agreement, "kernel_distance": 0.1}
            found.append(Found(arm, seed, steps, evaluations, figures))
    return [answer.strip("*") for _, answer, _ in answers(TASK, Results(found))]


def test_a_yes_holds_for_every_seed():
    assert told() == ["yes", "no", "no", "yes", "not measured"]


@pytest.mark.parametrize(
    ("row", "values"),
    [
        (("cm-dm", 30, 1), ((20.0, 71.0), (0.7, 0.6))),  # no closer than two evaluations
        (("cm-dm", 30, 1), ((20.0, 22.0), (0.7, 0.5))),  # less than four fifths as clear
        (("ssl", 40, 18), ((10.0, 12.0), (0.8, 0.4))),  # an unclear model proves nothing
    ],
)
def test_one_step_has_to_be_close_and_clear(row, values):
    assert told(rows={row: values})[3] == "no"


def test_the_longer_training_costs_as_much_as_both_stages():
    """Three trained passes at three each, one and two without gradient: 12 of the encoder's a step, against 3."""
    from pixel_arms import costs

    alone, whole = costs(TASK)
    assert abs(LONG - 40 - 20 * 12 * alone / (3 * whole)) <= 1
    assert 0.3 < alone / whole < 0.5


def test_spreads_of_few_seeds():
    assert (spread([]), spread([1.5]), spread([1.0, 3.0])) == ("-", "1.5", "2 ± 1.4")
