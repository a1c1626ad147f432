"""The chain of stages, as one recipe."""

import shutil

import pytest
import torch
import yaml
from pixel_runs import PROJECTOR, TINY, consistency, train_on_two, weights, write_images

import gen
from gen.pixel.config import ConsistencyConfig, DiffusionConfig, PixelConfig, PretrainingConfig
from gen.pixel.recipe import stages_of
from gen.train import main, train
from workbench.checkpoints import latest
from workbench.errors import UserError

SHORT = {**TINY, "max_train_steps": 1, "validation_images": 3}
STAGES = ("encoder", "diffusion", "consistency")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "images")


def chain(data, output, **changes):
    return PixelConfig(data=str(data), output_dir=output, preset="smoke", **{**SHORT, **changes})


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "chain"
    train(chain(data, folder))
    return folder


def test_each_goal_has_its_stages(data, tmp_path):
    steps = {"pretraining_steps": 5, "consistency_steps": 7}
    kinds = {
        "one-step": [PretrainingConfig, DiffusionConfig, ConsistencyConfig],
        "diffusion": [PretrainingConfig, DiffusionConfig],
        "one-step-from-encoder": [PretrainingConfig, ConsistencyConfig],
    }
    for goal, wanted in kinds.items():
        configs = [stage.config for stage in stages_of(chain(data, tmp_path, goal=goal, **steps))]
        assert [type(config) for config in configs] == wanted
        assert configs[0].max_train_steps == 5
        assert configs[1].init_from == str(tmp_path / "encoder")
        assert all(config.patch_size == 4 and config.ema_decay == kind.ema_decay for config, kind in
                   zip(configs, wanted, strict=True))  # fmt: skip
    one_step, paper = (stages_of(chain(data, tmp_path, goal=goal, **steps))[-1].config for goal in
                       ("one-step", "one-step-from-encoder"))  # fmt: skip
    assert (one_step.init_from, one_step.guide, one_step.max_train_steps) == (str(tmp_path / "diffusion"), None, 7)
    assert (paper.init_from, paper.guide) == (str(tmp_path / "encoder"), str(tmp_path / "encoder"))


def test_pretraining_can_be_left_out(data, tmp_path):
    first, second = stages_of(chain(data, tmp_path, pretraining_steps=0))
    assert (type(first.config), first.config.init_from) == (DiffusionConfig, None)
    assert type(second.config) is ConsistencyConfig


def test_the_result_is_the_last_stage_s(run):
    assert [(run / name).is_dir() for name in STAGES] == [True] * 3
    result, last = weights(run), weights(run / "consistency")
    assert all(torch.equal(result[name], last[name]) for name in last)
    pipe = gen.load(run)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("emu").images[0].size == (12, 8)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert (settings["recipe"], settings["goal"]) == ("pixel", "one-step")


def test_a_stopped_chain_goes_on(data, run, tmp_path):
    """What was finished is not trained again; what was not begins from it."""
    shutil.copytree(run / "encoder", tmp_path / "run" / "encoder")
    shutil.copyfile(run / "config.yaml", tmp_path / "run" / "config.yaml")
    stored = latest(tmp_path / "run" / "encoder" / "checkpoints").stat().st_mtime_ns
    train(chain(data, tmp_path / "run"))
    assert latest(tmp_path / "run" / "encoder" / "checkpoints").stat().st_mtime_ns == stored
    expected = weights(run)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(tmp_path / "run").items())


def test_a_finished_chain_and_other_settings_are_refused(data, run):
    with pytest.raises(UserError, match="is finished"):
        train(chain(data, run))
    with pytest.raises(UserError, match="goal was 'one-step' and is now 'diffusion'"):
        train(chain(data, run, goal="diffusion"))


def test_anew_begins_with_the_first_stage(data, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    train(chain(data, tmp_path / "run", overwrite=True, seed=1))
    for folder in ("", "consistency"):
        assert not torch.equal(
            weights(run / folder)["encoder.pos_embed"], weights(tmp_path / "run" / folder)["encoder.pos_embed"]
        )
    assert not torch.equal(*(weights(place / "encoder")["encoder.pos_embed"] for place in (run, tmp_path / "run")))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"goal": "one-step-from-encoder", "pretraining_steps": 0}, "needs an encoder; give --pretraining-steps 1"),
        ({"pretraining_steps": -1}, "--pretraining-steps is -1; give 0 or more"),
        ({"diffusion_steps": 0}, "--diffusion-steps is 0; give 1 or more"),
        ({"resume_from_checkpoint": "somewhere"}, "belongs to one stage"),
        ({"resolution": "9x12"}, "--resolution 9x12 is not made of whole patches"),
        ({"gradient_accumulation_steps": 2}, "all images of a step are compared"),
    ],
)
def test_impossible_settings_are_named_before_any_work(data, tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        train(chain(data, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_lists_the_stages_and_writes_nothing(data, tmp_path, capsys):
    train(chain(data, tmp_path / "run", dry_run=True))
    told = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [settings["output_dir"] for settings in told] == [str(tmp_path / "run" / name) for name in STAGES]
    assert not (tmp_path / "run").exists()


def test_the_paper_s_road(data, tmp_path):
    options = {**TINY, "max_train_steps": 1, "validation_images": 0, "goal": "one-step-from-encoder"}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if name != "random_flip"]
    main(["pixel", "--data", str(data), "--output-dir", str(tmp_path / "run"), "--preset", "smoke", *words])
    assert not (tmp_path / "run" / "diffusion").exists()
    settings = yaml.safe_load((tmp_path / "run" / "consistency" / "config.yaml").read_text())
    assert settings["guide"] == settings["init_from"] == str(tmp_path / "run" / "encoder")
    assert PROJECTOR.keys() <= yaml.safe_load((tmp_path / "run" / "encoder" / "config.yaml").read_text()).keys()
    assert consistency(data, tmp_path).guide is None


def test_two_processes_train_all_stages(data, run, tmp_path):
    assert train_on_two(chain(data, tmp_path / "run", train_batch_size=3)) == [0, 0]
    expected = weights(run)
    for name, weight in weights(tmp_path / "run").items():
        torch.testing.assert_close(weight, expected[name], atol=5e-5, rtol=1e-3, msg=name)
