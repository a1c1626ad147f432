import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import gen
from gen.rpe2d.config import RPE2DConfig
from gen.train import main
from workbench.errors import UserError


@pytest.fixture
def data(tmp_path):
    """Five gray images of 8 x 8 in two classes."""
    for number in range(5):
        folder = tmp_path / "data" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 40 * number, np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "data"


def tiny(data, output):
    """A run of two steps, as words."""
    return [
        "rpe2d", "--data", str(data), "--output-dir", str(output), "--resolution", "8", "--patch-size", "4",
        "--num-layers", "1", "--num_attention_heads", "1", "--attention-head-dim", "8", "--max-positions", "4x3",
        "--train-batch-size", "2", "--max-train-steps", "2", "--validation-steps", "0", "--device", "cpu",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"resolution": "30"}, "--resolution 30 is not made of whole patches of 4 pixels; give multiples of 4"),
        ({"resolution": "32x30"}, "--resolution 32x30 is not made of whole patches"),
        ({"resolution": "2"}, "--resolution 2 is not made of whole patches"),
        ({"resolution": "big"}, "'big' is not a size; write one number such as 32, or HEIGHTxWIDTH"),
        ({"resolution": "0"}, "'0' is not a size"),
        ({"resolution": "32x32x3"}, "'32x32x3' is not a size"),
        ({"resolution": "128"}, "has 32 patches along an axis but --max-positions is 16; give at least 32"),
        ({"resolution": "32x80"}, "has 20 patches .* give at least 20"),
        ({"resolution": "32x80", "max_positions": "20x16"}, "has 20 patches .* --max-positions is 20x16"),
        ({"patch_size": 0}, "--patch-size is 0; give 1 or more"),
        ({"num_layers": 0}, "--num-layers is 0; give 1 or more"),
        ({"num_attention_heads": -1}, "--num-attention-heads is -1; give 1 or more"),
        ({"mlp_ratio": 0.0}, "--mlp-ratio is 0.0; give more than 0"),
        ({"rope_theta": float("nan")}, "--rope-theta is nan; give more than 1"),
        ({"class_dropout_prob": 1.5}, "--class-dropout-prob is 1.5; give a share from 0 to 1"),
        ({"crop_probability": -0.1}, "--crop-probability is -0.1; give a share from 0 to 1"),
        ({"crop_max_scale": 0.5}, "--crop-max-scale is 0.5; give 1 or more"),
        ({"learning_rate": 0.0}, "--learning-rate is 0.0; give more than 0"),
        ({"ema_decay": 1.0}, "--ema-decay is 1.0; give at least 0 and less than 1"),
        ({"max_train_steps": 0}, "--max-train-steps is 0; give 1 or more"),
    ],
)
def test_impossible_settings_are_named(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        RPE2DConfig(output_dir=tmp_path, **changes).check()


def test_height_comes_before_width(tmp_path):
    config = RPE2DConfig(output_dir=tmp_path, resolution="32x48", max_positions="8x12")
    config.check()
    assert (config.size, config.position_range) == ((32, 48), (8, 12))
    with pytest.raises(UserError, match="12 patches"):
        RPE2DConfig(output_dir=tmp_path, resolution="32x48", max_positions="12x8").check()


# ------------------------------------------------------------------------------------------- the command


def test_a_run_from_the_command_line(data, tmp_path, capsys):
    main(tiny(data, tmp_path / "run"))
    assert f"workbench sample {tmp_path / 'run' / 'pipeline'}" in capsys.readouterr().out
    pipe = gen.load(tmp_path / "run")
    assert pipe.label_names == ("cat", "dog")
    assert pipe.transformer.config.max_positions == [4, 3]
    assert pipe("dog", num_inference_steps=1).images[0].size == (8, 8)
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (stored["recipe"], stored["resolution"], stored["global_batch_size"]) == ("rpe2d", "8", 2)


def test_a_dry_run_tells_and_writes_nothing(data, tmp_path, capsys):
    main([*tiny(data, tmp_path / "run"), "--dry-run"])
    told = yaml.safe_load(capsys.readouterr().out)
    assert (told["examples"], told["steps_per_epoch"], told["epochs"]) == (5, 2.5, 0.8)
    assert (told["max_positions"], told["patch_size"]) == ("4x3", 4)
    assert told["parameters"] > 1000
    assert not (tmp_path / "run").exists()


def leave(capsys, words):
    """Exit code and what was printed to the two streams."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    printed = capsys.readouterr()
    return stopped.value.code, printed.out, printed.err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--resolution", "10"], "--resolution 10 is not made of whole patches"),
        (["--data", "no/such/folder"], "no file or folder no/such/folder"),
        (["--classes", "cow", "dog"], "no class 'cow'"),
        (["--attention-head-dim", "6"], "--attention-head-dim is 6"),
        (["--resume-from-checkpoint", "nowhere"], "nowhere is not a complete checkpoint"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(data, tmp_path, capsys, change, sentence):
    code, out, err = leave(capsys, [*tiny(data, tmp_path / "run"), *change])
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sentence in err
    assert not (tmp_path / "run" / "pipeline").exists()


@pytest.mark.parametrize("change", [["--resolutoin", "8"], ["--num-layers", "two"], ["--inference-positions", "up"]])
def test_unknown_words_exit_with_code_2(data, tmp_path, capsys, change):
    code, out, err = leave(capsys, [*tiny(data, tmp_path / "run"), *change])
    assert code == 2
    assert change[0] in out + err
    assert "Traceback" not in out + err
    assert not (tmp_path / "run").exists()


def test_an_output_folder_of_something_else_is_left_alone(data, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    code, _, err = leave(capsys, tiny(data, tmp_path / "run"))
    assert code == 2
    assert "holds files that are not a training run" in err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_the_script_leaves_politely(tmp_path):
    script = Path(gen.__file__).parent / "train.py"
    words = [sys.executable, str(script), "rpe2d", "--resolution", "30", "--output-dir", str(tmp_path / "run")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: --resolution 30")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
