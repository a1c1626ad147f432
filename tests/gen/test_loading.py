import json
import shutil

import pytest
from tiny_inpaint_pipelines import tiny_pipeline
from tiny_models import random_pipeline

import gen
from gen.loading import find_pipeline, load_generator, pipeline_checksum
from gen.rpe2d.pipeline import RPE2DPipeline
from workbench.errors import UserError

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(pipeline_folder, tmp_path):
    """A pipeline to be damaged."""
    return shutil.copytree(pipeline_folder, tmp_path / "run" / "pipeline")


def test_a_run_is_opened_like_its_pipeline(copy):
    assert find_pipeline(copy) == find_pipeline(copy.parent) == copy
    assert isinstance(gen.load(copy.parent), RPE2DPipeline)
    assert isinstance(gen.load(str(copy)), RPE2DPipeline)


def test_a_missing_pipeline_is_told_apart_from_an_unfinished_run(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="is not a trained pipeline; give a folder"):
            gen.load(folder)
    (tmp_path / "config.yaml").write_text("recipe: rpe2d")
    with pytest.raises(UserError, match=r"not finished.*training command again"):
        gen.load(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "3", '{"_class_name": []}'])
def test_a_damaged_index_is_one_sentence(copy, content):
    (copy / "model_index.json").write_text(content)
    with pytest.raises(UserError, match=r"model_index.json cannot be read"):
        gen.load(copy)


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", ["pipeline", "OtherPipeline"]])
def test_another_pipeline_is_named(copy, name):
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "_class_name": name}))
    with pytest.raises(UserError, match=r"holds a (Stable|Other).*this command opens RPE2DPipeline"):
        gen.load(copy)


@pytest.mark.parametrize("damage", ["cut", "no weights", "no config", "no component", "other weights"])
def test_damaged_files_are_one_sentence(copy, tmp_path, damage):
    weights = copy / WEIGHTS
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "no config":
        (copy / "transformer" / "config.json").unlink()
    elif damage == "no component":
        shutil.rmtree(copy / "scheduler")
    else:
        random_pipeline(num_layers=1).save_pretrained(tmp_path / "other")
        shutil.copyfile(tmp_path / "other" / WEIGHTS, weights)
    with pytest.raises(UserError, match=r"is damaged: .+; train or copy the pipeline again") as caught:
        gen.load(copy)
    assert "\n" not in str(caught.value)


def test_code_and_pickles_in_the_folder_are_not_touched(copy, tmp_path):
    mark = tmp_path / "executed"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    (copy / "pipeline.py").write_text(code + (copy / "pipeline.py").read_text())
    (copy / "transformer" / "diffusion_pytorch_model.bin").write_bytes(b"not a pickle")
    assert isinstance(gen.load(copy), RPE2DPipeline)
    assert not mark.exists()


def test_a_foreign_class_in_the_index_is_not_run(copy, tmp_path):
    mark = tmp_path / "executed"
    (copy / "transformer" / "stranger.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    index = json.loads((copy / "model_index.json").read_text())
    index["transformer"] = ["stranger", "Model"]
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="is damaged"):
        gen.load(copy)
    assert not mark.exists()


def test_the_checksum_changes_with_weights_and_settings_only(copy, tmp_path):
    settings = copy / "transformer" / "config.json"
    changed = tmp_path / "changed"
    shutil.copytree(copy, changed)
    (changed / "transformer" / "config.json").write_text(settings.read_text().replace("equispaced", "centered"))
    assert pipeline_checksum(changed) != pipeline_checksum(copy)
    assert pipeline_checksum(copy.parent) == pipeline_checksum(copy)
    (copy / "README.md").write_text("a card")
    before = pipeline_checksum(copy)
    random_pipeline(seed=1).save_pretrained(tmp_path / "other")
    assert pipeline_checksum(tmp_path / "other") != before == pipeline_checksum(copy)


def test_a_generator_is_no_inpainter(pipeline_folder, tmp_path):
    assert load_generator(pipeline_folder).label_names
    tiny_pipeline().save_pretrained(tmp_path / "inpainter")
    with pytest.raises(UserError, match="fills holes of pictures: use workbench inpaint"):
        load_generator(tmp_path / "inpainter")
