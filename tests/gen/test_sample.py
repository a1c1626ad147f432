import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import NAMES, random_pipeline

import gen
from gen.loading import pipeline_checksum
from gen.sample import main, sample
from gen.sampling_config import SampleConfig
from workbench.datasets import load_images
from workbench.errors import UserError
from workbench.records import DatasetWriter, open_image, read_dataset_info, read_rows, verify

SIZES = ["8x12", "12x6"]


def settings(pipeline, output, **changes):
    options = {
        "pipeline": str(pipeline), "output": output, "num_images": 14, "size": SIZES, "num_inference_steps": 2,
        "batch_size": 3, "shard_size": 5, "seed": 40, "device": "cpu",
    }  # fmt: skip
    return SampleConfig(**{**options, **changes})


def words(config):
    """The same settings on the command line."""
    sizes = [word for size in config.size for word in ("--size", size)]
    return [
        config.pipeline, "--output", str(config.output), "--num-images", str(config.num_images), *sizes,
        "--num_inference_steps", str(config.num_inference_steps), "--batch-size", str(config.batch_size),
        "--shard-size", str(config.shard_size), "--seed", str(config.seed), "--device", "cpu",
    ]  # fmt: skip


def pixels(data):
    """Every image as an array, in order."""
    return [np.asarray(open_image(data, row["file_name"])).astype(int) for row in read_rows(data)]


def assert_same_images(first, second):
    for a, b in zip(pixels(first), pixels(second), strict=True):
        np.testing.assert_allclose(a, b, atol=1)  # a grey level: another batch size may round otherwise


@pytest.fixture(scope="module")
def generated(pipeline_folder, tmp_path_factory):
    """14 images of two sizes and three labels, in three shards. Not to be changed."""
    return sample(settings(pipeline_folder, tmp_path_factory.mktemp("sampled") / "DATA"))[0]


# ------------------------------------------------------------------------------------------- what is made


def test_each_image_is_the_one_its_row_describes(generated, pipeline_folder):
    pipe = gen.load(pipeline_folder)
    for number, (row, found) in enumerate(zip(read_rows(generated), pixels(generated), strict=True)):
        assert row["seed"] == 40 + number
        assert row["source"] == "generated"
        assert row["generator"] == f"RPE2DPipeline {pipeline_checksum(pipeline_folder)}"
        assert (row["guidance_scale"], row["num_inference_steps"]) == (1.5, 2)
        assert row["label_name"] == NAMES[row["label"]]
        picture = pipe(
            row["label_name"], row["height"], row["width"], num_inference_steps=row["num_inference_steps"],
            guidance_scale=row["guidance_scale"], generator=torch.Generator().manual_seed(row["seed"]),
        ).images[0]  # fmt: skip
        np.testing.assert_allclose(found, np.asarray(picture).astype(int), atol=1)


def test_images_are_shared_evenly_by_sizes_and_labels(generated):
    rows = read_rows(generated)
    assert len(rows) == 14
    assert Counter((row["height"], row["width"]) for row in rows) == {(8, 12): 7, (12, 6): 7}
    per_cell = Counter((row["height"], row["label"]) for row in rows)
    assert sorted(per_cell.values()) == [2, 2, 2, 2, 3, 3]
    assert [path.name for path in sorted((generated / "train").glob("0*"))] == ["0000", "0001", "0002"]


def test_the_data_set_is_whole_and_says_where_it_comes_from(generated, pipeline_folder):
    report = verify(generated)
    assert report.ok, report.summary()
    info = read_dataset_info(generated)
    assert info["seed"] == 40
    assert info["config"]["size"] == SIZES
    assert info["classes"] == list(NAMES)
    assert str(pipeline_folder) in (generated / "README.md").read_text()
    assert [path.name for path in generated.parent.iterdir()] == ["DATA"]


def test_other_readers_open_it(generated, tmp_path):
    from datasets import load_dataset

    rows, arrays = read_rows(generated), pixels(generated)
    theirs = load_dataset("imagefolder", data_dir=str(generated), split="train", cache_dir=str(tmp_path))
    ours = load_images(generated)
    assert ours.label_names == NAMES
    assert len(theirs) == len(ours) == 14
    for number, (row, array) in enumerate(zip(rows, arrays, strict=True)):
        assert theirs[number]["label"] == ours.labels[number] == row["label"]
        np.testing.assert_array_equal(np.asarray(theirs[number]["image"]), array)
        np.testing.assert_array_equal(ours.images[number][0], array)


def test_colour(tmp_path):
    random_pipeline(in_channels=3).save_pretrained(tmp_path / "pipeline")
    data = sample(settings(tmp_path / "pipeline", tmp_path / "DATA", num_images=2))[0]
    assert [array.shape for array in pixels(data)] == [(8, 12, 3), (12, 6, 3)]


def test_the_training_size_and_all_labels_are_the_default(pipeline_folder, tmp_path):
    rows = read_rows(sample(settings(pipeline_folder, tmp_path / "DATA", size=[], num_images=4))[0])
    assert {(row["height"], row["width"]) for row in rows} == {(8, 12)}
    assert [row["label"] for row in rows] == [0, 1, 2, 0]


@pytest.mark.parametrize("label", [["hat", "bag"], ["2", "0"]])
def test_labels_can_be_chosen(pipeline_folder, tmp_path, label):
    """As many labels as sizes: each label still comes in each size."""
    rows = read_rows(sample(settings(pipeline_folder, tmp_path / "DATA", label=label, num_images=8))[0])
    assert Counter((row["label_name"], row["height"]) for row in rows) == {
        (name, height): 2 for name in ("hat", "bag") for height in (8, 12)
    }


# ------------------------------------------------------------------------------------------- what changes no image


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 64, "shard_size": 100}, {"shard_size": 2}])
def test_images_depend_on_neither_batch_nor_shard_size(generated, pipeline_folder, tmp_path, changes):
    assert_same_images(sample(settings(pipeline_folder, tmp_path / "DATA", **changes))[0], generated)


def test_more_images_begin_with_the_same_ones(generated, pipeline_folder, tmp_path):
    more = sample(settings(pipeline_folder, tmp_path / "DATA", num_images=17))[0]
    for a, b in zip(pixels(more), pixels(generated), strict=False):
        np.testing.assert_allclose(a, b, atol=1)


def test_drawn_positions_do_not_depend_on_the_batch(tmp_path):
    random_pipeline(inference_positions="random").save_pretrained(tmp_path / "pipeline")
    one, many = (
        sample(settings(tmp_path / "pipeline", tmp_path / str(size), num_images=6, size=["4x8"], batch_size=size))[0]
        for size in (1, 6)
    )
    assert_same_images(one, many)


def test_the_seed_changes_the_images(generated, pipeline_folder, tmp_path):
    other = sample(settings(pipeline_folder, tmp_path / "DATA", seed=400))[0]
    assert all((a != b).any() for a, b in zip(pixels(other), pixels(generated), strict=True))


def test_two_processes_make_the_same_data_set(generated, pipeline_folder, tmp_path):
    arguments = words(settings(pipeline_folder, tmp_path / "DATA"))
    script = Path(gen.__file__).parent / "sample.py"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(
        [*launch, *arguments], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Done.") == 1
    report = verify(tmp_path / "DATA")
    assert report.ok, report.summary()
    assert read_rows(tmp_path / "DATA")[0].keys() == read_rows(generated)[0].keys()
    assert_same_images(tmp_path / "DATA", generated)


# ------------------------------------------------------------------------------------------- again


def stop_before_shard(monkeypatch, stop):
    """Interrupt as Ctrl-C does when the shard `stop` is about to be written."""
    write = DatasetWriter.write_shard

    def interrupted(self, index, *rest, **options):
        if index == stop:
            raise KeyboardInterrupt
        write(self, index, *rest, **options)

    monkeypatch.setattr(DatasetWriter, "write_shard", interrupted)


def test_an_interrupted_sampling_goes_on(generated, pipeline_folder, tmp_path, monkeypatch, capsys):
    arguments = words(settings(pipeline_folder, tmp_path / "DATA"))
    with monkeypatch.context() as context:
        stop_before_shard(context, 1)
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
    assert stopped.value.code == 130
    assert not (tmp_path / "DATA").exists()
    (first_image,) = (tmp_path / "DATA.partial").rglob("000000.png")
    written = first_image.stat().st_mtime_ns

    main(arguments)
    assert "workbench verify" in capsys.readouterr().out
    assert verify(tmp_path / "DATA").ok
    assert read_rows(tmp_path / "DATA") == read_rows(generated)  # the checksums of the images among it
    assert next((tmp_path / "DATA").rglob("000000.png")).stat().st_mtime_ns == written
    assert [path.name for path in tmp_path.iterdir()] == ["DATA"]


def test_a_shard_that_is_lost_is_made_again(generated, pipeline_folder, tmp_path, monkeypatch):
    config = settings(pipeline_folder, tmp_path / "DATA")
    with monkeypatch.context() as context:
        stop_before_shard(context, 2)
        with pytest.raises(KeyboardInterrupt):
            sample(config)
    (tmp_path / "DATA.partial" / "train" / "0000.jsonl").unlink()
    assert read_rows(sample(config)[0]) == read_rows(generated)


def test_a_second_call_says_that_it_is_done(pipeline_folder, tmp_path, capsys):
    arguments = words(settings(pipeline_folder, tmp_path / "DATA", num_images=2))
    main(arguments)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "DATA").rglob("*")}
    capsys.readouterr()
    main([*arguments, "--batch-size", "1"])
    assert "Done." in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "DATA").rglob("*")} == before


@pytest.mark.parametrize(
    "changes", [{"seed": 41}, {"guidance_scale": 3.0}, {"num_images": 3}, {"size": ["8"]}, {"label": ["bag"]}]
)
def test_other_settings_do_not_touch_a_finished_set(generated, pipeline_folder, changes):
    before = (generated / "dataset.json").read_bytes()
    with pytest.raises(UserError, match=f"other settings.*{next(iter(changes))} was"):
        sample(settings(pipeline_folder, generated, **changes))
    assert (generated / "dataset.json").read_bytes() == before
    assert verify(generated).ok


def test_another_generator_does_not_touch_a_finished_set(generated, tmp_path):
    random_pipeline(seed=1).save_pretrained(tmp_path / "pipeline")
    with pytest.raises(UserError, match=r"other settings.*generator was"):
        sample(settings(tmp_path / "pipeline", generated))


def test_overwrite_replaces_a_finished_set(pipeline_folder, tmp_path):
    sample(settings(pipeline_folder, tmp_path / "DATA", num_images=3))
    data = sample(settings(pipeline_folder, tmp_path / "DATA", num_images=2, seed=7, overwrite=True))[0]
    assert [row["seed"] for row in read_rows(data)] == [7, 8]
    assert verify(data).ok


# ------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"size": ["8", "20x12"]}, "10 patches .* trained on 9 positions"),
        ({"size": ["8x13"]}, "8x13 pixels .* whole 2-pixel patches"),
        ({"size": ["eight"]}, "'eight' is not a size"),
        ({"label": ["shoe"]}, "unknown label 'shoe'; choose from: bag, coat, hat"),
        ({"label": ["3"]}, "unknown label 3; choose from: bag, coat, hat"),
        ({"num_images": 0}, "--num-images is 0; give 1 or more"),
        ({"num_inference_steps": 0}, "--num-inference-steps is 0; give 1 or more"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"shard_size": 0}, "--shard-size is 0"),
        ({"pipeline": "no/such/folder"}, "no/such/folder is not a trained pipeline"),
    ],
)
def test_what_cannot_be_made_is_refused_before_any_work(pipeline_folder, tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        sample(settings(**{"pipeline": pipeline_folder, "output": tmp_path / "DATA", **changes}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there_is_refused(pipeline_folder, tmp_path):
    with pytest.raises(UserError, match="--device cuda is not available here"):
        sample(settings(pipeline_folder, tmp_path / "DATA", device="cuda"))
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_of_something_else_is_left_alone(pipeline_folder, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="not a data set of the workbench"):
            sample(settings(pipeline_folder, tmp_path, overwrite=overwrite))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_mistakes_are_one_sentence_and_exit_code_2(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(json.dumps({"recipe": "rpe2d"}))
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), "--output", str(tmp_path / "DATA"), "--device", "cpu"])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert "not finished" in printed.err


def test_a_pipeline_without_labels(tmp_path):
    random_pipeline(num_classes=0, id2label=None).save_pretrained(tmp_path / "pipeline")
    sample(settings(tmp_path / "pipeline", tmp_path / "data"))
    assert verify(tmp_path / "data").ok
    data = load_images(tmp_path / "data")
    assert data.labels.unique().tolist() == [-1]
    assert data.label_names == ()


def test_how_an_image_was_asked_for_is_written_down(tmp_path):
    random_pipeline(token_names=("grass", "red hat")).save_pretrained(tmp_path / "pipeline")
    asked = settings(
        tmp_path / "pipeline", tmp_path / "DATA", num_images=2, size=["24x32"], prompt="red hat", position_mode="yarn",
        guidance_interval=(0.2, 0.9), timestep_shift="2", shard_size=2,
    )  # fmt: skip
    for row in read_rows(sample(asked)[0]):
        assert (row["prompt"], row["position_mode"], row["guidance_interval"]) == ("red hat", "yarn", [0.2, 0.9])
        assert row["timestep_shift"] == 2
        assert row["attention_scale"] == pytest.approx((0.1 * np.log(12 / 9) + 1) ** 2, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompt": "sea"}, "unknown token 'sea'.* trained without captions"),
        ({"position_mode": "yran"}, "--position-mode is yran; give one of equispaced"),
        ({"guidance_interval": (1.0, 0.0)}, "--guidance-interval is 1.0 0.0"),
        ({"attention_scale": "much"}, "--attention-scale is much; give auto, entropy, yarn, none or a number"),
        ({"timestep_shift": "0"}, "timestep_shift is 0.0; give a number above 0"),
    ],
)
def test_impossible_wishes_are_a_sentence_before_any_work(pipeline_folder, tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        sample(settings(pipeline_folder, tmp_path / "DATA", **changes))
    assert not (tmp_path / "DATA").exists()
