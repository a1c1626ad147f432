"""Training the captioner: what it reads, that it learns, that it stops and goes on, what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from colour_blocks import HEIGHT, NAMES, WIDTH, blocks
from PIL import Image
from safetensors.torch import load_file
from test_captioner import tiny

from explain.caption_data import Captioned, read_captioned
from explain.caption_recipe import CaptionRecipe, caption_figures, least_word_confidence
from explain.captioner import Caption, Captioner
from explain.train import main
from workbench import seeds
from workbench.errors import UserError
from workbench.training import Training


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coloured blocks with a caption each, and one picture without."""
    folder = tmp_path_factory.mktemp("captioned")
    images, colours, _ = blocks(90)
    rows = []
    for number, (image, colour) in enumerate(zip(images, colours[:, 0].tolist(), strict=True)):
        name = f"{number:03d}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / name)
        rows.append({"file_name": name, "text": None if number == 5 else f"A {NAMES[colour]} block."})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def config(data: Path, output: Path, **changes: Any) -> Any:
    settings = {
        "data": str(data), "caption_column": "text", "output_dir": output, "max_train_steps": 4, "train_batch_size": 8,
        "lr_warmup_steps": 1, "validation_steps": 0, "logging_steps": 1, "random_shift": 1, "checkpointing_steps": 2,
    }  # fmt: skip
    return tiny(**{**settings, **changes})


def test_what_it_reads(captioned: Path, tmp_path: Path) -> None:
    train, held_out = read_captioned(config(captioned, tmp_path))
    assert (len(train), len(held_out)) == (81, 8)  # a tenth of the 89 with captions
    assert any("1 pictures without a caption" in note for note in train.notes)
    for image, words in zip(train.images, train.words, strict=True):
        brightest = image.flatten(1).amax(1).argmax()  # the block is 250 in its own colour
        assert words == ("a", NAMES[int(brightest)], "block")
    few, _ = read_captioned(config(captioned, tmp_path, max_images=30))
    assert len(few) == 27


def test_scenes_come_with_their_captions(tmp_path: Path) -> None:
    scenes = config(Path("scenes:planted"), tmp_path, resolution="16x24", max_images=30, validation_images=20)
    train, held_out = read_captioned(scenes)
    assert train.images.shape == (30, 3, 16, 24)
    assert sum("brick" in words for words in train.words) == 10
    assert {words[1] for words in train.words} >= {"sneaker", "bag", "dress"}
    assert len(held_out) == 20


def test_a_step_sees_the_moved_pictures(captioned: Path, tmp_path: Path) -> None:
    recipe = CaptionRecipe(config(captioned, tmp_path, random_flip=True))
    draws = recipe.draw(8, seeds.generator(0, 1), 1)
    assert draws["flip"].any()
    assert draws["shift"].abs().max() == 1
    assert recipe.loss(recipe.model, torch.arange(8), draws)["loss"].item() < 4


def test_muon_trains_the_matrices_of_the_blocks(captioned: Path, tmp_path: Path) -> None:
    recipe = CaptionRecipe(config(captioned, tmp_path, hidden_size=16))
    shapes = sorted(tuple(matrix.shape) for matrix in recipe.hidden_matrices())
    encoder = [(16, 16)] * 4 + [(16, 64), (64, 16)]  # queries, keys, values, output, and two of the MLP
    own = [(16, 48), (16, 16), (16, 64), (64, 16)]  # Conv1D: inputs first
    cross = [(16, 16), (16, 32), (16, 16)]
    assert shapes == sorted(encoder + own + cross)


def test_figures() -> None:
    truth = Captioned(blocks(2)[0], (("a", "red", "block"), ("a", "green", "block")))
    said = [Caption("a red block", 1.0, (1.0,) * 3), Caption("a block", 1.0, (1.0,) * 2)]
    figures = caption_figures(said, truth)
    assert figures == {"exact_match": 0.5, "word_precision": 1.0, "word_recall": pytest.approx(5 / 6), "pictures": 2}


def test_words_are_said_from_the_probability_on_that_is_nearly_always_right() -> None:
    truth = Captioned(blocks(20)[0], (("a", "red", "block"),) * 20)
    said = [Caption("a red block", 1.0, (0.9, 0.5 + 0.01 * k, 0.8)) for k in range(18)]
    said += [Caption("a green block", 1.0, (0.9, 0.6, 0.8)), Caption("a green block", 1.0, (0.9, 0.55, 0.8))]
    # down to 0.56 there is one wrong word, at 0.6, among 53; at 0.55 a second one
    assert least_word_confidence(said, truth) == pytest.approx(0.56)
    wrong = [Caption("no", 1.0, (0.7,))] * 20
    assert least_word_confidence(wrong, truth) == 1.0
    assert least_word_confidence([*said[:10], *wrong[:10]], truth) == pytest.approx(0.8)


def test_it_learns_and_its_folder_speaks(captioned: Path, tmp_path: Path) -> None:
    settings = config(
        captioned, tmp_path / "run", max_train_steps=80, learning_rate=6e-3, ema_decay=0.9, train_batch_size=16
    )
    folder = Training(CaptionRecipe(settings)).train()
    captioner = Captioner.load(tmp_path / "run")
    images, colours, _ = blocks(40, seed=9)
    said = [caption.text for caption in captioner.caption(images)]
    right = [text == f"a {NAMES[colour]} block" for text, colour in zip(said, colours[:, 0].tolist(), strict=True)]
    assert sum(right) >= 36
    assert captioner.record["trained_steps"] == 80
    assert 0 < captioner.record["least_confidence"] <= 1
    assert "workbench explain" in (folder / "README.md").read_text()
    assert captioner.size == (HEIGHT, WIDTH)


def test_a_run_begins_from_another_of_other_words(captioned: Path, tmp_path: Path) -> None:
    Training(CaptionRecipe(config(captioned, tmp_path / "first"))).train()
    first = Captioner.load(tmp_path / "first")
    renamed = shutil.copytree(captioned, tmp_path / "renamed")
    described = (renamed / "metadata.jsonl").read_text()
    (renamed / "metadata.jsonl").write_text(described.replace("A red block", "One small red brick"))
    second = CaptionRecipe(config(renamed, tmp_path / "second", init_from=str(tmp_path / "first"), max_words=7))
    fresh = CaptionRecipe(config(renamed, tmp_path / "fresh", max_words=7))
    begun, trained, noise = (dict(m.named_parameters()) for m in (second.model, first.model, fresh.model))
    rows, places = "decoder.transformer.wte.weight", "decoder.transformer.wpe.weight"
    for row, word in enumerate(second.words):
        origin = trained[rows][first.words.index(word)] if word in first.words else noise[rows][row]
        assert torch.equal(begun[rows][row], origin), word
    assert {"one", "small", "brick"} <= set(second.words) - set(first.words)
    assert torch.equal(begun[places], torch.cat([trained[places], noise[places][7:]]))
    assert all(torch.equal(begun[name], trained[name]) for name in begun.keys() - {rows, places})
    assert f"{len(first.words) - 4} of them begin as" in second.notes[-1]


def test_what_a_run_cannot_begin_from(captioned: Path, tmp_path: Path) -> None:
    Training(CaptionRecipe(config(captioned, tmp_path / "first"))).train()
    other = config(captioned, tmp_path / "run", init_from=str(tmp_path / "first"), num_attention_heads=4, hidden_size=8)
    with pytest.raises(UserError, match="--hidden-size 16 --num-attention-heads 2: give the same"):
        CaptionRecipe(other)
    with pytest.raises(UserError, match="holds no captioner"):
        CaptionRecipe(config(captioned, tmp_path / "run", init_from=str(captioned)))


def test_stopped_and_gone_on_with_it_is_the_same_run(captioned: Path, tmp_path: Path) -> None:
    Training(CaptionRecipe(config(captioned, tmp_path / "whole"))).train()
    run = tmp_path / "stopped"
    Training(CaptionRecipe(config(captioned, run))).train()
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    shutil.rmtree(run / "captioner")
    (run / "finished.json").unlink()
    Training(CaptionRecipe(config(captioned, run))).train()
    whole, again = (load_file(tmp_path / name / "captioner" / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(whole[key], again[key]) for key in whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"caption_column": "words"}, "words"),
        ({"resolution": "20"}, "multiples of the patch"),
        ({"hidden_size": 15}, "multiple of the heads"),
        ({"min_count": 500}, "--min-count"),
    ],
)
def test_mistakes_are_one_sentence(captioned: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CaptionRecipe(config(captioned, tmp_path, **changes))


def test_the_command_says_how_large_the_work_is(
    captioned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["caption", "--data", str(captioned), "--caption-column", "text", "--output-dir", str(tmp_path / "run")]
    main([*words, "--resolution", "24x32", "--dry-run"])
    assert "recipe: caption" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
