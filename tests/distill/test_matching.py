"""Matching: what an update is, how a run is stopped and gone on with, and what it refuses."""

import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from tiny_runs import match_config, rows, run_matching, spread, write

from distill import augment, initial, matching, students
from distill.buffer import ExpertBuffer
from distill.initial import initial_set, mean_logits
from distill.learned import Learned
from distill.matching import Matching
from distill.presets import hyperparameters
from distill.product import read_distilled
from distill.students import draw_batches, end_of_starts
from distill.unroll import Gradients
from workbench import seeds
from workbench.errors import UserError


def learned(run: Path, step: int = 8) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / "learned.safetensors")


def assert_same_run(first: Path, second: Path) -> None:
    """Bit for bit: what was learned, the log but for times, and the product."""
    assert rows(first) == rows(second)
    for name, tensor in learned(first).items():
        assert torch.equal(tensor, learned(second)[name]), name
    products = [load_file(run / "distilled" / "distilled.safetensors") for run in (first, second)]
    assert all(torch.equal(tensor, products[1][name]) for name, tensor in products[0].items())


# ---- what an update is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ftd", "datm"])
def test_a_run_is_the_method_written_out(experts_folder: Path, tmp_path: Path, method: str) -> None:
    """By autograd through the unroll, torch's own SGD, and an average; two students in each update."""
    config = match_config(
        experts_folder, tmp_path / "run", method=method, max_train_steps=4, starts_per_step=2, validation_steps=0,
        inner_batch_size=4, learning_rate_labels=0.5 if method == "datm" else None, checkpointing_steps=4, seed=5,
        first_max_start_epoch=1 if method == "datm" else None, widening_steps=3,
    )  # fmt: skip
    run = Matching(config)
    run.run(spread, write)
    buffer, row = run.buffer, run.row
    began = initial_set(config, row.labels, buffer, [0, 1], run.sources, torch.device("cpu"))
    images, step_size = began.images.requires_grad_(), torch.tensor(0.05, requires_grad=True)
    labels = began.labels.requires_grad_() if method == "datm" else began.labels
    groups = [{"params": [images], "lr": 10.0, "momentum": 0.5}, {"params": [step_size], "lr": 1e-4, "momentum": 0.5}]
    groups += [{"params": [labels], "lr": 0.5, "momentum": 0.9}] if method == "datm" else []
    optimizer, average = torch.optim.SGD(groups), images.detach().clone()
    for step in range(1, 5):
        losses = []
        for number in (0, 1):
            generator = seeds.generator(5, students.START, step, number)
            expert = int(torch.randint(2, (), generator=generator))
            end = 3 if method == "ftd" else min(1 + 2 * step // 3, 3)
            epoch = int(torch.randint(0, end, (), generator=generator))
            theta = start = buffer.theta(expert, epoch).requires_grad_()
            target = buffer.theta(expert, epoch + 2)
            batches = draw_batches(6, 4, 3, generator)
            draws = [augment.draw("crop_scale", len(batch), (8, 6), generator) for batch in batches]
            for batch, drawn in zip(batches, draws, strict=True):
                logits = buffer.network(theta, augment.apply(images[batch], drawn))
                wanted = labels[batch].softmax(1) if method == "datm" else labels[batch]
                (g,) = torch.autograd.grad(F.cross_entropy(logits, wanted), theta, create_graph=True)
                theta = theta - step_size * g
            losses.append((theta - target).square().sum() / (start - target).square().sum().detach())
        optimizer.zero_grad()
        (sum(losses) / 2).backward()
        optimizer.step()
        average = 0.9 * average + 0.1 * images.detach()
        logged = next(line for line in rows(config.output_dir) if line["step"] == step)
        assert logged["loss"] == pytest.approx(float(sum(losses).detach()) / 2, rel=1e-4)
        assert logged["students_used"] == 2
    found = learned(config.output_dir, 4)
    torch.testing.assert_close(found["value.images"], images.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found["average.images"], average, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found["value.step_size"], step_size.detach(), rtol=1e-4, atol=1e-7)
    if method == "datm":
        torch.testing.assert_close(found["value.labels"], labels.detach(), rtol=1e-3, atol=1e-4)


def test_matching_lowers_its_loss(experts_folder: Path, tmp_path: Path) -> None:
    """By a fifth at least in 60 updates; and the step size is learned with the images."""
    config = match_config(experts_folder, tmp_path / "run", max_train_steps=60, validation_steps=0, synthetic_steps=8)
    run_matching(config)
    losses = [row["loss"] for row in rows(config.output_dir)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    product, metadata = read_distilled(config.output_dir)
    assert product.step_size != 0.05
    assert metadata["settings"]["matching"]["kind"] == "average"


def test_assigned_labels_are_the_targets_outputs(
    experts_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = students.gradients

    def look(network: Any, start: Any, target: Any, images: Any, labels: Any, *rest: Any) -> Gradients:
        seen.append(torch.equal(labels, network(target, images)))
        return original(network, start, target, images, labels, *rest)

    monkeypatch.setattr(students, "gradients", look)
    config = match_config(experts_folder, tmp_path / "run", labels="assigned", max_train_steps=2)
    run_matching(config)
    assert seen == [True, True]
    assert not read_distilled(config.output_dir)[0].labels.is_floating_point()


def test_starts_widen_evenly() -> None:
    row = hyperparameters("datm", "cifar10", 10, "any", (32, 32), 10)
    assert [end_of_starts(row, step) for step in (0, 99, 100, 500, 999, 1000, 5000)] == [10, 10, 11, 15, 19, 20, 20]
    assert end_of_starts(hyperparameters("ftd", "cifar10", 10, "any", (32, 32), 10), 1) == 20


def test_batches_are_passes_over_the_set() -> None:
    batches = draw_batches(5, 2, 7, seeds.generator(0))
    assert [len(batch) for batch in batches] == [2, 2, 1, 2, 2, 1, 2]
    for first in (0, 3):
        assert sorted(torch.cat(batches[first : first + 3]).tolist()) == list(range(5))
    assert [len(batch) for batch in draw_batches(5, 0, 3, seeds.generator(0))] == [5, 5, 5]


def test_the_step_size_stops_at_its_floor() -> None:
    values = {"images": torch.zeros(1), "step_size": torch.tensor(0.01)}
    ours = Learned(values, {"images": 1.0, "step_size": 1.0}, {"images": 0.0, "step_size": 0.0}, 0.0)
    gradients = {"images": torch.ones(1), "step_size": torch.tensor(5.0)}
    assert ours.update(gradients, 1e-4)
    assert float(ours.values["step_size"]) == pytest.approx(1e-4)
    assert not ours.update({**gradients, "step_size": torch.tensor(-0.1)}, 1e-4)
    assert float(ours.values["step_size"]) == pytest.approx(0.1001)
    assert float(ours.values["images"]) == -2


# ---- what the images begin as ----------------------------------------------------------------------------------------


def begin(experts_folder: Path, kind: str, labels: str = "hard", **changes: Any) -> Any:
    config = match_config(experts_folder, Path("unused"), initial=kind, **changes)
    buffer = ExpertBuffer(experts_folder)
    return initial_set(config, labels, buffer, [0, 1], buffer.sources(), torch.device("cpu")), buffer  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["random", "herding", "k-center", "k-means", "correct", "noise"])
def test_images_begin_class_by_class(experts_folder: Path, kind: str) -> None:
    began, buffer = begin(experts_folder, kind)
    assert began.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert began.images.shape == (6, 1, 8, 6)
    real = buffer.transform.apply(buffer.sources().train.images.float() / 255)
    among = [bool((real == image).flatten(1).all(1).any()) for image in began.images]
    assert among == [kind != "noise"] * 6


def test_images_may_begin_as_another_data_set(experts_folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    for k, name in enumerate(("two", "nought", "one")):
        for number in range(3):
            path = tmp_path / "other" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (6, 8), 80 * k).save(path)
    began, buffer = begin(experts_folder, str(tmp_path / "other"))
    pixels = (buffer.transform.invert(began.images)[:, 0, 0, 0] * 255).round().tolist()
    assert pixels == [80, 80, 160, 160, 0, 0]


def test_soft_labels_are_those_of_experts_that_are_right(experts_folder: Path) -> None:
    began, buffer = begin(experts_folder, "correct", "learned")
    assert began.labels.argmax(1).tolist() == [0, 0, 1, 1, 2, 2]
    logits = torch.stack([buffer.network(buffer.theta(number, 6), began.images) for number in (0, 1)])
    right = logits.argmax(2) == began.labels.argmax(1)
    for k in range(6):
        torch.testing.assert_close(began.labels[k], logits[right[:, k], k].mean(0))


def test_an_image_that_no_expert_gets_right_has_a_certain_label(experts_folder: Path) -> None:
    """Where the mean over none would be 0 / 0."""
    began, buffer = begin(experts_folder, "correct")
    wrong = (began.labels + 1) % 3
    logits, right = mean_logits(buffer, [0], began.images, wrong)
    assert not right.any()
    assert logits.argmax(1).tolist() == wrong.tolist()
    assert bool(logits.isfinite().all())
    assert float(logits.softmax(1).amax()) > 0.99


def test_correct_images_come_first_and_wrong_ones_fill_up(
    experts_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the experts got nothing right of class 1."""

    def judge(buffer: Any, judges: Any, images: torch.Tensor, labels: torch.Tensor) -> Any:
        return torch.zeros(len(images), 3), (labels != 1) & (images.flatten(1).mean(1) > 0)

    monkeypatch.setattr(initial, "mean_logits", judge)
    began, _ = begin(experts_folder, "correct")
    bright = began.images.flatten(1).mean(1) > 0
    assert bool(bright[[0, 1, 4, 5]].all())
    assert began.labels.tolist() == [0, 0, 1, 1, 2, 2]


# ---- what is chosen --------------------------------------------------------------------------------------------------


def test_the_best_on_held_out_images_is_published(experts_folder: Path, tmp_path: Path) -> None:
    asked = []

    def score(distilled: Any) -> float:
        facts = distilled.settings["matching"]
        asked.append((facts["step"], facts["kind"]))
        return {(6, "average"): 0.9, (3, "raw"): 0.5}.get(asked[-1], 0.1)

    config = match_config(experts_folder, tmp_path / "run", validation_steps=3)
    Matching(config).run(score, write)
    assert asked == [(step, kind) for step in (3, 6, 8) for kind in ("raw", "average")]
    product, metadata = read_distilled(config.output_dir)
    assert torch.equal(product.images, learned(config.output_dir, 6)["average.images"])
    assert product.step_size == pytest.approx(float(learned(config.output_dir, 6)["value.step_size"]))
    facts = metadata["settings"]["matching"]
    assert (facts["step"], facts["kind"], facts["validation_accuracy"]) == (6, "average", 0.9)
    assert metadata["settings"]["experts"]["mean_sharpness"] > 0
    assert sorted(path.name for path in (config.output_dir / "samples").iterdir()) == [
        f"step-{step:08d}.png" for step in (3, 6, 8)
    ]


# ---- stopping and going on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ftd", "datm"])
@pytest.mark.parametrize("after", [2, 4, 7])
def test_a_stopped_run_goes_on_bit_for_bit(
    experts_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, after: int
) -> None:
    changes = {"method": method, "learning_rate_labels": 0.5 if method == "datm" else None, "logging_steps": 3}
    run_matching(match_config(experts_folder, tmp_path / "whole", **changes))
    original, calls = matching.Students.gradients, 0

    def interrupted(self: Any, *arguments: Any) -> Gradients:
        nonlocal calls
        calls += 1
        if calls == after:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    parts = match_config(experts_folder, tmp_path / "parts", **changes)
    with monkeypatch.context() as patch:
        patch.setattr(matching.Students, "gradients", interrupted)
        with pytest.raises(SystemExit) as stopped:
            run_matching(parts)
    assert stopped.value.code == 143
    assert calls == after
    run_matching(parts)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_killed_run_goes_on_from_its_last_checkpoint(
    experts_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_matching(match_config(experts_folder, tmp_path / "whole"))
    parts = match_config(experts_folder, tmp_path / "parts")
    with monkeypatch.context() as patch:
        patch.setattr(Matching, "_agree", lambda self, step: 1 / (7 - step) and 0)  # dies in update 7, after 3 and 6
        with pytest.raises(ZeroDivisionError):
            run_matching(parts)
    run_matching(parts)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_run_can_be_prolonged_and_not_repeated(experts_folder: Path, tmp_path: Path) -> None:
    run_matching(match_config(experts_folder, tmp_path / "run", max_train_steps=4))
    with pytest.raises(UserError, match="is finished, its result is"):
        run_matching(match_config(experts_folder, tmp_path / "run", max_train_steps=4))
    run_matching(match_config(experts_folder, tmp_path / "run"))
    run_matching(match_config(experts_folder, tmp_path / "whole"))
    assert torch.equal(learned(tmp_path / "run")["value.images"], learned(tmp_path / "whole")["value.images"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images_per_class": 3}, "images_per_class was 2 and is now 3"),
        ({"synthetic_steps": 4}, "synthetic_steps was 3 and is now 4"),
        ({"starts_per_step": 2}, "starts_per_update was 1 and is now 2"),
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"num_experts": 1}, "num_experts was 2 and is now 1"),
    ],
)
def test_other_settings_are_refused(experts_folder: Path, tmp_path: Path, changes: Any, sentence: str) -> None:
    run_matching(match_config(experts_folder, tmp_path / "run", max_train_steps=1))
    with pytest.raises(UserError, match=sentence):
        run_matching(match_config(experts_folder, tmp_path / "run", **changes))


# ---- guards ----------------------------------------------------------------------------------------------------------


def poisoned(loss: float, gradient: float = 0.0) -> Any:
    """A student of this loss, whose every derivative is `gradient`."""

    def gradients(self: Any, values: Any, classes: Any, step: int, number: int) -> Gradients:
        d_images = torch.full_like(values["images"], gradient)
        return Gradients(torch.tensor(loss), d_images, None, torch.full_like(values["step_size"], gradient))

    return gradients


@pytest.mark.parametrize(("loss", "gradient"), [(math.nan, 0.0), (math.inf, 0.0), (2.5, 0.0), (0.5, math.nan)])
def test_useless_students_are_left_out(
    experts_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: float, gradient: float
) -> None:
    """Not finite, or above the threshold; the run gives up after so many in a row, and can go on."""
    config = match_config(experts_folder, tmp_path / "run", max_bad_steps=4, max_train_steps=12)
    original, calls = matching.Students.gradients, 0

    def sometimes(self: Any, *arguments: Any) -> Gradients:
        nonlocal calls
        calls += 1
        bad = calls == 2 or calls > 3
        return poisoned(loss, gradient)(self, *arguments) if bad else original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(matching.Students, "gradients", sometimes)
        with pytest.raises(
            UserError, match=r"4 updates in a row, up to update 7; the last checkpoint is .*step-00000006"
        ):
            run_matching(config)
    skipped = [
        row.get("skipped_updates", 0)
        for row in rows(config.output_dir)
        if "step_size" in row or "skipped_updates" in row
    ]
    assert skipped == [0, 1, 0, 1, 1, 1, 1]
    config.learning_rate_step_size = 1e-5  # what the sentence advises may be changed
    run_matching(config)


def test_a_step_size_held_at_its_floor_is_told(
    experts_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = match_config(experts_folder, tmp_path / "run", max_bad_steps=3, learning_rate_step_size=1.0)
    monkeypatch.setattr(matching.Students, "gradients", poisoned(0.5, 1.0))
    with pytest.raises(
        UserError, match=r"step size was held at --min-step-size 0.0001 3 updates in a row.*lower --lear"
    ):
        run_matching(config)


def test_a_good_student_beside_a_useless_one_still_counts(
    experts_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = matching.Students.gradients

    def half(self: Any, values: Any, classes: Any, step: int, number: int) -> Gradients:
        student = original if number == 0 else poisoned(math.nan)
        return student(self, values, classes, step, number)

    monkeypatch.setattr(matching.Students, "gradients", half)
    run_matching(match_config(experts_folder, tmp_path / "two", starts_per_step=2))
    run_matching(match_config(experts_folder, tmp_path / "one"))
    assert torch.equal(learned(tmp_path / "two")["value.images"], learned(tmp_path / "one")["value.images"])
    assert {row["students_used"] for row in rows(tmp_path / "two") if "loss" in row} == {1}


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"max_start_epoch": 6},
            "starts before epoch 6 and segments of 2 epochs need experts of 7, .* --max-start-epoch 5",
        ),
        ({"expert_epochs": 7}, "need experts of 9, but those in .* have 6"),
        ({"min_start_epoch": 3}, "--min-start-epoch is 3, and starts are to be before epoch 3"),
        (
            {"min_start_epoch": 1, "first_max_start_epoch": 1},
            "--min-start-epoch is 1, and starts are to be before epoch 1",
        ),
        ({"num_experts": 3}, "--num-experts is 3 but .* holds 2; give fewer"),
        ({"images_per_class": 500}, "the class nought has .* images, fewer than --images-per-class 500"),
        ({"initial": "nowhere"}, "There is no file or folder nowhere"),
        ({"synthetic_steps": 0}, "--synthetic-steps is 0; give 1 or more"),
        ({"ema_decay": 1.0}, "--ema-decay is 1.0; give at least 0 and less than 1"),
        ({"threshold": 0.0}, "--threshold is 0.0; give more than 0"),
        ({"images_per_class": 0}, "--images-per-class is 0; give 1 or more"),
    ],
)
def test_impossible_settings_are_sentences(
    experts_folder: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        run_matching(match_config(experts_folder, tmp_path / "run", **changes))


def test_a_checkpoint_of_another_set_is_refused(experts_folder: Path, tmp_path: Path) -> None:
    run_matching(match_config(experts_folder, tmp_path / "other", images_per_class=3, max_train_steps=1))
    checkpoint = str(tmp_path / "other" / "checkpoints" / "step-00000001")
    with pytest.raises(UserError, match="is a checkpoint of another set; give one of this run"):
        run_matching(match_config(experts_folder, tmp_path / "run", resume_from_checkpoint=checkpoint))


def test_a_dry_run_tells_the_cost_and_writes_nothing(experts_folder: Path, tmp_path: Path) -> None:
    told = yaml.safe_load(Matching(match_config(experts_folder, tmp_path / "run", synthetic_steps=99)).describe())
    assert (told["images"], told["parameters"], told["megabytes_of_a_student's_way"]) == (6, 795, 0.3)
    assert told["inner_batch_size"] == 0
    assert not (tmp_path / "run").exists()


def test_memory_of_a_full_disk_is_not_left(
    experts_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    config = match_config(experts_folder, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(matching.checkpoints, "seal", full)
        with pytest.raises(UserError, match="disk that holds somewhere is full"):
            run_matching(config)
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))
    run_matching(config)
    assert json.loads((tmp_path / "run" / "finished.json").read_text()) == {"step": 8}
    shutil.rmtree(tmp_path / "run")
