"""`workbench distill`, end to end at a tiny size: what it leaves, goes on with and refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from distill.product import load_distilled, read_distilled
from ui import distill as job
from ui.cli import main
from ui.distill import distill
from ui.distill_config import DistillConfig
from ui.distill_plan import make_plan
from ui.run import config_of
from workbench.errors import UserError
from workbench.verify import verify


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of twenty 16x12 images: bright above, bright below."""
    root = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0)
    for number in range(40):
        picture = pixels.integers(0, 80, (16, 12, 3), dtype=np.uint8)
        below = number % 2
        picture[8 * below : 8 * below + 8] += 150
        folder = root / ("below" if below else "above")
        folder.mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number}.png")
    return root


@pytest.fixture
def config(images: Path, tmp_path: Path) -> DistillConfig:
    return DistillConfig(
        data=str(images), output=tmp_path / "out", images_per_class=2, width=4, num_experts=1, max_train_steps=2,
        num_networks=1, evaluation_epochs=2, augmentation="crop_scale", device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one whole job."""
    output = tmp_path_factory.mktemp("job") / "out"
    words = "--images-per-class 2 --width 4 --num-experts 1 --max-train-steps 2 --num-networks 1 --evaluation-epochs 2"
    main(["distill", str(images), "--output", str(output), *words.split(), "--method", "datm", "--device", "cpu"])
    return output


def test_the_job_leaves_a_product(finished: Path) -> None:
    distilled, metadata = read_distilled(finished)
    assert distilled.images.shape == (4, 3, 16, 12)
    assert distilled.label_names == ("above", "below")
    figures = json.loads((finished / "figures.json").read_text())["figures"]
    assert metadata["figures"] == figures
    assert set(figures) >= {"convnet", "convnet, 8-bit copies", "convnet minus random real images"}
    assert load_distilled(finished).recipe.epochs == 2
    assert verify(finished / "png").ok
    card = (finished / "README.md").read_text()
    assert "| convnet |" in card
    assert "with soft labels" in card
    assert list((finished / "matching" / "samples").glob("*.png"))
    assert set(json.loads((finished / "seconds.json").read_text())) >= {"write it with its pictures and its card"}


def test_a_finished_job_is_left_as_it_is(
    finished: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (finished / "distilled.safetensors").stat().st_mtime_ns
    stored = yaml.safe_load((finished / "distill.yaml").read_text())
    distill(DistillConfig(**stored, output=finished, device="cpu"))
    assert "is complete; nothing to do" in capsys.readouterr().out
    assert (finished / "distilled.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="seed was 0 and is now 1; give the same settings"):
        distill(DistillConfig(**{**stored, "seed": 1}, output=finished, device="cpu"))


def test_an_interrupted_job_goes_on(config: DistillConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*rest: object) -> None:
        raise KeyboardInterrupt

    for stage in ("match", "measure", "publish"):
        with monkeypatch.context() as patch:
            patch.setattr(job, stage, interrupted)
            with pytest.raises(KeyboardInterrupt):
                distill(config)
    parts = [config.output / "experts" / "expert_00000.safetensors", config.output / "matching" / "finished.json"]
    before = [part.stat().st_mtime_ns for part in parts]
    assert not (config.output / "figures.json").exists()
    distill(config)
    assert [part.stat().st_mtime_ns for part in parts] == before
    assert torch.isfinite(read_distilled(config.output)[0].images).all()


def test_overwriting_spares_what_is_not_ours(config: DistillConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config.output.mkdir()
    (config.output / "thesis.txt").write_text("three years")
    with pytest.raises(UserError, match="holds files that are no distillation"):
        distill(config)
    (config.output / "distill.yaml").write_text("seed: 7")
    (config.output / "metadata.json").write_text("{}")
    (config.output / "experts").mkdir()

    def begins(plan: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "train_experts", begins)
    with pytest.raises(KeyboardInterrupt):
        distill(replace(config, overwrite=True))
    assert (config.output / "thesis.txt").read_text() == "three years"
    assert not (config.output / "experts").exists()
    assert not (config.output / "metadata.json").exists()
    assert yaml.safe_load((config.output / "distill.yaml").read_text())["seed"] == 0


def test_a_class_with_too_few_images_is_told_before_any_work(config: DistillConfig) -> None:
    with pytest.raises(UserError, match="the class above has 16 images, fewer than --images-per-class 17"):
        distill(replace(config, images_per_class=17))
    assert not (config.output / "experts").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"images_per_class": 0}, "images-per-class is 0"),
        ({"num_experts": 0}, "num-experts is 0"),
        ({"networks": []}, "networks names none"),
        ({"resolution": "a"}, "'a' is not a size"),
    ],
)
def test_impossible_settings_fail_at_once(config: DistillConfig, changes: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        distill(replace(config, **changes))
    assert not config.output.exists()


def test_recipe_file_of_the_job() -> None:
    made = config_of({"recipe": "distill", "data": "fashion-mnist", "output": "x", "images-per-class": 1})
    assert made == DistillConfig(data="fashion-mnist", output=Path("x"), images_per_class=1)
    with pytest.raises(UserError, match="did you mean 'images_per_class'"):
        config_of({"recipe": "distill", "data": "x", "output": "x", "image_per_class": 1})


@pytest.mark.parametrize("method", ["mtt", "ftd", "datm"])
@pytest.mark.parametrize("effort", ["quick", "full"])
def test_experts_go_as_far_as_matching_follows_them(config: DistillConfig, method: str, effort: str) -> None:
    plan = make_plan(replace(config, method=method, effort=effort))
    row = plan.matching.resolved(config.data, (16, 12), 2)
    last = max(row.max_start_epoch, row.first_max_start_epoch or 0) - 1 + row.expert_epochs
    assert plan.experts.epochs >= last
    assert plan.experts.flatness == ("none" if method == "mtt" else "gsam")
    assert plan.experts.train_batch_size == 32
    assert plan.experts.width == 4
    assert row.max_train_steps == 2
