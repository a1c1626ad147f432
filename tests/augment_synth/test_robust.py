"""Every method trains, with and without synthetic images, resumes, and says what it lacks."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from halves import CLASSES, SIZE, halves, quick

from augment_synth.groups import GroupedImages
from augment_synth.robust import METHODS, train_robust
from augment_synth.robust_config import RobustSettings
from workbench.classifiers import load_classifier
from workbench.errors import UserError

NEED_GROUPS = ("group-dro", "subg", "rwg", "dfr")


def without_groups(data: GroupedImages) -> GroupedImages:
    return replace(data, groups=None, group_names=())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_with_and_without_synthetic_images(method: str, tmp_path: Path) -> None:
    validation = halves((3, 3, 3, 3), seed=9)
    for name, synthetic in (("real", 0), ("both", 6)):
        data = halves(synthetic=synthetic)
        classifier = train_robust(method, data, validation, quick(), tmp_path / name)
        assert not classifier.training
        assert classifier.label_names == CLASSES
        assert classifier(torch.rand(2, 3, *SIZE)).isfinite().all()
        stored = json.loads((tmp_path / name / "classifier" / "config.json").read_text())
        assert stored["method"] == method
        assert [row["n"] for row in stored["groups"]["groups"]] == [3, 3, 3, 3]
        assert [row["train_n"] for row in stored["groups"]["groups"]] == [12, 4, 3, 9]
        again = load_classifier(tmp_path / name)
        assert again.fingerprint() == classifier.fingerprint()


def test_the_names_are_those_of_the_command_line() -> None:
    from typing import get_args

    from augment_synth.robust_config import RobustMethod

    assert set(METHODS) == set(get_args(RobustMethod))


def test_erm_learns(tmp_path: Path) -> None:
    settings = quick(max_train_steps=40, keep_warmup_steps=10)
    validation = halves((6, 6, 6, 6), seed=9)
    train_robust("erm", halves((20, 20, 20, 20)), validation, settings, tmp_path / "erm")
    stored = json.loads((tmp_path / "erm" / "classifier" / "config.json").read_text())
    assert stored["groups"]["worst"] > 0.8
    assert stored["test"]["images"] == 24


@pytest.mark.parametrize("method", NEED_GROUPS)
def test_methods_that_need_groups_say_so(method: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{method} needs the group of each training image"):
        train_robust(method, without_groups(halves()), None, quick(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["erm", "suby", "jtt"])
def test_the_others_do_without(method: str, tmp_path: Path) -> None:
    train_robust(method, without_groups(halves(synthetic=2)), None, quick(), tmp_path / "run")
    assert "groups" not in json.loads((tmp_path / "run" / "classifier" / "config.json").read_text())


def test_dfr_takes_the_groups_of_the_validation_images(tmp_path: Path) -> None:
    train_robust("dfr", without_groups(halves()), halves((5, 5, 5, 5)), quick(), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "classifier" / "config.json").read_text())["dfr_on"] == "validation"


@pytest.mark.parametrize("method", ["group-dro", "keepaugment", "advprop"])
def test_stopped_and_resumed_equals_uninterrupted(method: str, tmp_path: Path) -> None:
    def settings(steps: int) -> RobustSettings:
        return quick(max_train_steps=steps, lr_scheduler="constant", dro_step_size=0.5)

    data = halves(synthetic=4)
    train_robust(method, data, None, settings(2), tmp_path / "parts")
    parts = train_robust(method, data, None, settings(4), tmp_path / "parts")
    whole = train_robust(method, data, None, settings(4), tmp_path / "whole")
    for name, weights in whole.network.state_dict().items():
        assert torch.equal(weights, parts.network.state_dict()[name]), name


def test_splitting_a_batch_over_forward_passes_draws_the_same_images(tmp_path: Path) -> None:
    settings = quick(normalisation="instance", max_train_steps=2, optimizer="sgd", learning_rate=0.1)
    whole = train_robust("erm", halves(), None, settings, tmp_path / "whole")
    settings = replace(settings, train_batch_size=8, gradient_accumulation_steps=2)
    split = train_robust("erm", halves(), None, settings, tmp_path / "split")
    for first, second in zip(whole.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", ["erm", "jtt"])
def test_a_run_of_other_images_is_not_gone_on_with(method: str, tmp_path: Path) -> None:
    train_robust(method, halves(), None, quick(), tmp_path / "run")
    with pytest.raises(UserError, match="data was"):
        train_robust(method, halves(seed=1), None, quick(), tmp_path / "run")
    with pytest.raises(UserError, match="is finished"):
        train_robust(method, halves(), None, quick(), tmp_path / "run")
    train_robust(method, halves(seed=1), None, quick(overwrite=True), tmp_path / "run")


def test_a_stage_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    settings = quick()
    train_robust("jtt", halves(), None, settings, tmp_path / "run")
    first = tmp_path / "run" / "identification" / "finished.json"
    before = first.stat().st_mtime_ns
    (tmp_path / "run" / "finished.json").unlink()
    train_robust("jtt", halves(), None, settings, tmp_path / "run")
    assert first.stat().st_mtime_ns == before


def test_an_unknown_method_gets_its_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'group-dro'"):
        train_robust("groupdro", halves(), None, quick(), tmp_path / "run")


@pytest.mark.parametrize("method", ["advprop", "shape-texture"])
def test_two_statistics_need_batch_norm(method: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no batch norm"):
        train_robust(method, halves(), None, quick(normalisation="instance"), tmp_path / "run")


def test_maxup_needs_something_random(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is random"):
        train_robust("maxup", halves(), None, quick(random_shift=0), tmp_path / "run")


@pytest.mark.parametrize(
    ("setting", "value"), [("synthetic_share", 1.5), ("keep_side", 0.0), ("maxup_copies", 0), ("mixup_alpha", 0.0)]
)
def test_impossible_settings(setting: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=setting.replace("_", "-")):
        train_robust("erm", halves(), None, quick(**{setting: value}), tmp_path / "run")
