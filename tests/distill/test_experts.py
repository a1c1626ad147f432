"""Experts: what a step is, what is kept, and how a folder of them is gone on with."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny_runs import experts_config
from torch import Tensor

from distill import augment, buffer, experts
from distill.buffer import ExpertBuffer, expert_file, open_folder
from distill.data import as_float
from distill.experts import AUGMENTATION, INITIAL, ORDER, describe, missing_groups, train_experts
from distill.sharpness import trajectory_kl
from workbench import seeds
from workbench.errors import UserError


def read(folder: Path, number: int = 0) -> torch.Tensor:
    return load_file(expert_file(folder, number))["theta"]


def by_hand(config: Any, number: int, epochs: int) -> torch.Tensor:
    """The same training written out for one network: plain, sam or saf."""
    opened = open_folder(config, overwrite=False)
    network, train = opened.network, opened.sources.train
    images = opened.transform.apply(as_float(train))
    theta, kept = network.initial(seeds.generator(config.seed, INITIAL, number)), []
    logits_of: dict[int, torch.Tensor] = {}
    for epoch in range(1, epochs + 1):
        kept.append(theta)
        order = torch.randperm(len(images), generator=seeds.generator(config.seed, ORDER, epoch, number))
        drawing = seeds.generator(config.seed, AUGMENTATION, epoch, number)
        logits_of[epoch] = torch.zeros(len(images), 3)
        for rows in order.split(config.train_batch_size):
            x = augment.apply(images[rows], augment.draw(config.augmentation, len(rows), (8, 6), drawing))

            def gradient(theta: Tensor, x: Tensor = x, rows: Tensor = rows, epoch: int = epoch) -> Tensor:
                leaf = theta.clone().requires_grad_()
                logits = network(leaf, x)
                loss = F.cross_entropy(logits, train.labels[rows])
                if config.flatness == "saf" and epoch > config.saf_start:
                    past = logits_of[epoch - config.saf_lag][rows].half().float()
                    loss = loss + config.saf_weight * trajectory_kl(logits, past, config.saf_temperature)
                logits_of[epoch][rows] = logits.detach()
                return torch.autograd.grad(loss, leaf)[0]

            g = gradient(theta)
            if config.flatness == "sam":
                g = gradient(theta + config.rho * g / g.norm())
            theta = theta - config.learning_rate * g
    return torch.stack([*kept, theta])


@pytest.mark.parametrize("flatness", ["none", "sam", "saf"])
def test_an_expert_is_its_training_written_out(digits_folder: Path, tmp_path: Path, flatness: str) -> None:
    config = experts_config(
        digits_folder, tmp_path / "experts", flatness=flatness, epochs=4, saf_start=2, saf_lag=2, seed=3, rho=0.1
    )
    train_experts(config)
    torch.testing.assert_close(read(config.output_dir, 1), by_hand(config, 1, 4), rtol=1e-4, atol=1e-5)


def test_bf16_products_make_nearly_the_same_expert(experts_folder: Path, digits_folder: Path, tmp_path: Path) -> None:
    config = experts_config(digits_folder, tmp_path / "rounded", num_experts=1, epochs=2, mixed_precision="bf16")
    train_experts(config)
    rounded, exact = read(config.output_dir), read(experts_folder)[:3]
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert (rounded - exact)[-1].norm() < 0.1 * (exact[-1] - exact[0]).norm()


def test_snapshots_are_copies(experts_folder: Path) -> None:
    """`cpu()` of what is on a CPU is the same memory: every epoch would hold the last weights."""
    theta = read(experts_folder)
    assert theta.shape[0] == 7
    assert all(not torch.equal(theta[k], theta[k + 1]) for k in range(6))


def test_experts_differ_and_follow_the_seed(experts_folder: Path, digits_folder: Path, tmp_path: Path) -> None:
    assert not torch.equal(read(experts_folder, 0), read(experts_folder, 1))
    config = experts_config(digits_folder, tmp_path / "again", num_experts=1)
    train_experts(config)
    assert torch.equal(read(config.output_dir), read(experts_folder))


def test_side_by_side_is_one_after_another(
    experts_folder: Path, digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one pass, as on a GPU."""
    from distill.ensemble import side_by_side

    monkeypatch.setattr(experts, "gradients", side_by_side)
    config = experts_config(digits_folder, tmp_path / "together", experts_at_once=2)
    train_experts(config)
    for number in (0, 1):
        torch.testing.assert_close(read(config.output_dir, number), read(experts_folder, number), rtol=1e-3, atol=1e-4)


def test_what_was_measured_is_stored(experts_folder: Path) -> None:
    opened = ExpertBuffer(experts_folder)
    record = opened.record(1)
    assert (record["number"], record["seed"], opened.epochs, opened.numbers) == (1, 0, 6, [0, 1])
    assert [len(record[name]) for name in ("train_loss", "sharpness", "validation_accuracy")] == [6, 6, 6]
    assert record["train_loss"][-1] < record["train_loss"][0]
    assert record["validation_accuracy"][-1] > 0.6
    summary = opened.summary([0, 1])
    assert summary["mean_train_loss"] == pytest.approx(
        (opened.record(0)["train_loss"][-1] + record["train_loss"][-1]) / 2
    )
    assert torch.equal(opened.theta(1, 4), read(experts_folder, 1)[4])


def test_gsam_finds_flatter_places(digits_folder: Path, tmp_path: Path) -> None:
    """By a fifth at least, by both measures."""
    measured = {}
    for flatness in ("none", "gsam"):
        config = experts_config(
            digits_folder, tmp_path / flatness, flatness=flatness, epochs=12, rho=0.1, num_experts=1,
            augmentation="none", learning_rate=0.1, train_batch_size=16,
        )  # fmt: skip
        train_experts(config)
        measured[flatness] = ExpertBuffer(config.output_dir).summary([0])
    for name in ("mean_sharpness", "mean_top_eigenvalue"):
        assert measured["gsam"][name] < 0.8 * measured["none"][name], measured


def test_only_the_epochs_asked_for_are_kept(digits_folder: Path, tmp_path: Path) -> None:
    config = experts_config(digits_folder, tmp_path / "short", keep_epochs=2, num_experts=1, epochs=3)
    train_experts(config)
    assert len(read(config.output_dir)) == 3
    assert len(ExpertBuffer(config.output_dir).record(0)["train_loss"]) == 3


# ---- going on --------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(experts_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(experts_folder, tmp_path / "experts"))


def test_only_missing_experts_are_trained(copy: Path, digits_folder: Path) -> None:
    before = expert_file(copy, 0).stat().st_mtime_ns, read(copy, 1)
    expert_file(copy, 1).unlink()
    train_experts(experts_config(digits_folder, copy, num_experts=3))
    assert expert_file(copy, 0).stat().st_mtime_ns == before[0]
    assert torch.equal(read(copy, 1), before[1])
    assert ExpertBuffer(copy).numbers == [0, 1, 2]


def test_a_signal_leaves_finished_experts_and_says_how_to_go_on(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = experts.write_expert

    def write_and_be_stopped(*arguments: Any) -> None:
        original(*arguments)
        signal.raise_signal(signal.SIGTERM)

    config = experts_config(digits_folder, tmp_path / "experts")
    monkeypatch.setattr(experts, "write_expert", write_and_be_stopped)
    with pytest.raises(SystemExit) as stopped:
        train_experts(config)
    assert stopped.value.code == 143
    assert ExpertBuffer(config.output_dir).numbers == [0]
    assert "finished experts are kept. Go on with:" in capsys.readouterr().err


def test_groups_do_not_depend_on_processes_nor_on_what_is_done(digits_folder: Path, tmp_path: Path) -> None:
    config = experts_config(digits_folder, tmp_path, num_experts=8, experts_at_once=3)
    assert missing_groups(config, torch.device("cpu")) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    for number in (1, 3, 4, 5):
        expert_file(tmp_path, number).touch()
    assert missing_groups(config, torch.device("cpu")) == [[0, 2], [6, 7]]
    config.experts_at_once = None
    assert missing_groups(config, torch.device("cpu")) == [[0], [2], [6], [7]]
    assert missing_groups(config, torch.device("cuda")) == [[0, 2], [6, 7]]


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": 7}, "epochs was 6 and is now 7; give the same settings to add to them"),
        ({"flatness": "gsam"}, "flatness was 'none' and is now 'gsam'"),
        ({"width": 9}, "width was 8 and is now 9"),
        ({"augmentation": "flip"}, "augmentation was 'crop_scale' and is now 'flip'"),
    ],
)
def test_other_settings_are_refused(copy: Path, digits_folder: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        train_experts(experts_config(digits_folder, copy, **changes))


def test_overwriting_starts_anew(copy: Path, digits_folder: Path) -> None:
    train_experts(experts_config(digits_folder, copy, epochs=1, num_experts=1, overwrite=True))
    assert ExpertBuffer(copy).numbers == [0]
    assert ExpertBuffer(copy).epochs == 1


def test_changed_images_are_refused(copy: Path, digits_folder: Path) -> None:
    description = json.loads((copy / buffer.DESCRIPTION).read_text())
    (copy / buffer.DESCRIPTION).write_text(json.dumps(description | {"data_checksum": "other"}))
    with pytest.raises(UserError, match=r"have changed since; choose another --output-dir"):
        train_experts(experts_config(digits_folder, copy, num_experts=3))
    with pytest.raises(UserError, match=r"no longer those that the experts .* were trained on"):
        ExpertBuffer(copy).sources()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_experts": 0}, "--num-experts is 0; give 1 or more"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan; give more than 0"),
        ({"validation_share": 1.0}, "--validation-share is 1.0; give a share from 0 to less than 1"),
        ({"flatness": "saf", "saf_start": 2}, "--saf-start is 2; give at least --saf-lag, 3"),
        ({"augmentation": "crop_blur"}, "there is no augmentation 'blur'"),
        ({"network": "vgg11"}, "images of 8x6 are too small for vgg11"),
        ({"resolution": "big"}, "'big' is not a size"),
    ],
)
def test_impossible_settings_are_sentences(
    digits_folder: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        train_experts(experts_config(digits_folder, tmp_path / "experts", **changes))
    with pytest.raises(UserError, match=sentence):
        describe(experts_config(digits_folder, tmp_path / "experts", **changes))
    assert not (tmp_path / "experts").exists()


def test_experts_that_diverge_are_named(digits_folder: Path, tmp_path: Path) -> None:
    config = experts_config(digits_folder, tmp_path / "experts", learning_rate=1e30)
    with pytest.raises(UserError, match="expert 0 were no longer finite after epoch 1; give a lower --learning-rate"):
        train_experts(config)


def test_other_files_are_left_alone(digits_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds files that are no experts; choose another"):
        train_experts(experts_config(digits_folder, tmp_path))


def test_a_folder_without_experts_says_how_to_get_some(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(UserError, match=r"holds no experts; train some with: python distill/train.py experts"):
        ExpertBuffer(tmp_path)
    for number in (0, 1):
        expert_file(copy, number).unlink()
    with pytest.raises(UserError, match="no finished expert yet; run the experts command again"):
        ExpertBuffer(copy)


def test_damaged_experts_are_sentences(copy: Path) -> None:
    expert_file(copy, 0).write_bytes(b"nothing of use")
    with pytest.raises(UserError, match=r"expert_00000.safetensors cannot be read .* remove it"):
        ExpertBuffer(copy).theta(0, 1)
    (copy / buffer.DESCRIPTION).write_text("{")
    with pytest.raises(UserError, match=r"buffer.json cannot be read .*; train the experts again"):
        ExpertBuffer(copy)


def test_experts_of_another_architecture_are_refused(copy: Path) -> None:
    description = json.loads((copy / buffer.DESCRIPTION).read_text())
    description["network"]["width"] = 9
    (copy / buffer.DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(UserError, match="of another convnet than this version builds"):
        ExpertBuffer(copy)
    save_file({"theta": torch.zeros(7, 3)}, expert_file(copy, 0))


def test_a_dry_run_tells_the_cost(digits_folder: Path, tmp_path: Path) -> None:
    told = describe(experts_config(digits_folder, tmp_path / "none", flatness="gsam", num_experts=10))
    assert "parameters: 795" in told
    assert "gradients_of_an_expert: 108" in told
    assert "megabytes_on_disk: 0.2" in told
    assert not (tmp_path / "none").exists()
