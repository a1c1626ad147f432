"""Settings: sizes, limits, and the way from a YAML file and the command line."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from workbench.classification_config import ClassifyEvalConfig, ClassifyTrainConfig
from workbench.command import parse
from workbench.config import TrainingConfig, from_mapping, parse_size, to_mapping
from workbench.errors import UserError


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_sizes_read_back(height: int, width: int) -> None:
    assert parse_size(f"{height}x{width}") == (height, width)
    assert parse_size(f"{height}X{width}") == (height, width)
    assert parse_size(height) == parse_size(str(height)) == (height, height)


@pytest.mark.parametrize("text", ["", "0", "x", "32x", "x32", "0x32", "-3", "3x-3", "3.5", "3 x 3", "1x2x3", "²", "a"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UserError, match="is not a size; write one number such as 32, or HEIGHTxWIDTH such as 48x32"):
        parse_size(text)


LIMITS: list[tuple[str, Any, str]] = [
    ("train_batch_size", 0, "1 or more"),
    ("gradient_accumulation_steps", 0, "1 or more"),
    ("max_train_steps", -1, "1 or more"),
    ("logging_steps", 0, "1 or more"),
    ("checkpointing_steps", 0, "1 or more"),
    ("checkpoints_total_limit", 0, "1 or more"),
    ("max_nonfinite_steps", 0, "1 or more"),
    ("lr_warmup_steps", -1, "0 or more"),
    ("validation_steps", -1, "0 or more"),
    ("seed", -1, "0 or more"),
    ("adam_weight_decay", -0.1, "0 or more"),
    ("learning_rate", 0.0, "more than 0"),
    ("learning_rate", float("nan"), "more than 0"),
    ("max_grad_norm", -1.0, "more than 0"),
    ("adam_epsilon", 0.0, "more than 0"),
    ("ema_decay", 1.0, "at least 0 and less than 1"),
    ("ema_decay", -0.1, "at least 0 and less than 1"),
    ("adam_beta1", 1.0, "at least 0 and less than 1"),
    ("adam_beta2", float("nan"), "at least 0 and less than 1"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), LIMITS)
def test_impossible_values_are_told(name: str, value: Any, allowed: str) -> None:
    config = TrainingConfig(output_dir=Path("run"), **{name: value})
    with pytest.raises(UserError) as caught:
        config.check()
    assert str(caught.value) == f"--{name.replace('_', '-')} is {value}; give {allowed}"


def test_a_bad_resolution_is_told() -> None:
    with pytest.raises(UserError, match="'32by32' is not a size"):
        TrainingConfig(output_dir=Path("run"), resolution="32by32").check()
    assert TrainingConfig(output_dir=Path("run"), resolution="48x32").size == (48, 32)


def test_limits_themselves_are_allowed() -> None:
    TrainingConfig(
        output_dir=Path("run"), max_train_steps=1, lr_warmup_steps=0, validation_steps=0, seed=0, ema_decay=0.0
    ).check()  # fmt: skip
    with pytest.raises(UserError, match="--width is 0"):
        ClassifyTrainConfig(output_dir=Path("run"), width=0).check()


# ---- from YAML -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        TrainingConfig(output_dir=Path("a b"), classes=["no", "1"], learning_rate=1e-8, mixed_precision="no"),
        ClassifyTrainConfig(output_dir=Path("x"), extra_data="more", random_flip=True),
        ClassifyEvalConfig(classifier="timm:resnet18", data="fashion-mnist", output=None),
    ],
)
def test_settings_survive_yaml(config: Any) -> None:
    text = yaml.safe_dump(to_mapping(config))
    assert from_mapping(type(config), yaml.safe_load(text)) == config


def test_yaml_as_a_person_writes_it() -> None:
    """YAML 1.1 takes 1e-3 for text, 32 for a number, and no for False."""
    text = "{output-dir: runs/x, learning_rate: 1e-3, resolution: 32, mixed_precision: no, max_grad_norm: 1, seed: '7'}"
    config = from_mapping(TrainingConfig, yaml.safe_load(text))
    typed = TrainingConfig(
        output_dir=Path("runs/x"), learning_rate=1e-3, resolution="32", mixed_precision="no", max_grad_norm=1.0, seed=7
    )
    assert config == typed
    assert [type(v) for v in dataclasses.astuple(config)] == [type(v) for v in dataclasses.astuple(typed)]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("learning_rte", 1, "unknown setting 'learning_rte'; did you mean 'learning_rate'?"),
        ("zebra", 1, "unknown setting 'zebra'; known: data, classes, "),
        ("max_train_steps", 2.5, "max_train_steps is 2.5; give a whole number"),
        ("max_train_steps", True, "max_train_steps is True; give a whole number"),
        ("learning_rate", "fast", "learning_rate is 'fast'; give a number"),
        ("overwrite", "yes please", "overwrite is 'yes please'; give true or false"),
        ("overwrite", 1, "overwrite is 1; give true or false"),
        ("data", None, "data is None; give text"),
        ("output_dir", 3, "output_dir is 3; give a path"),
        ("mixed_precision", "fp8", "mixed_precision is 'fp8'; give auto or no or bf16 or fp16"),
        ("device", False, "device is 'no'; give auto or cpu or cuda or mps"),
    ],
)
def test_wrong_settings_are_told(name: str, value: Any, told: str) -> None:
    with pytest.raises(UserError) as caught:
        from_mapping(TrainingConfig, {"output_dir": "x", name: value})
    assert str(caught.value).startswith(told)


def test_a_missing_setting_is_told() -> None:
    with pytest.raises(UserError, match="the setting 'output_dir' is missing"):
        from_mapping(TrainingConfig, {})


# ---- from the command line -------------------------------------------------------------------------------------------


def parsed(*words: str) -> Any:
    return parse({"classify": ClassifyTrainConfig, "plain": TrainingConfig}, words, "gen/train.py")


def test_hyphens_and_underscores_are_the_same() -> None:
    with_hyphens = parsed("plain", "--output-dir", "x", "--max-train-steps", "7", "--checkpoints-total-limit", "3")
    assert with_hyphens == parsed("plain", "--output_dir", "x", "--max_train_steps=7", "--checkpoints_total_limit", "3")
    assert with_hyphens == TrainingConfig(output_dir=Path("x"), max_train_steps=7, checkpoints_total_limit=3)
    assert parsed("plain", "--output", "x", "--overwrite").overwrite
    assert parsed("classify", "--output", "x", "--data", "d", "--width", "8") == ClassifyTrainConfig(
        output_dir=Path("x"), data="d", width=8
    )
    assert parse(ClassifyEvalConfig, ["--classifier", "a", "--data", "b"], "workbench").split is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["plain"], "--output"),
        (["plain", "--output", "x", "--max-train-stpes", "3"], "max-train-steps"),
        (["plain", "--output", "x", "--max-train-steps", "many"], "many"),
        (["plain", "--output", "x", "--lr-scheduler", "wavy"], "cosine"),
        (["plane"], "plane"),
    ],
)
def test_a_wrong_command_line_exits_with_2(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed(*words)
    assert caught.value.code == 2
    assert told in capsys.readouterr().err
