"""The small captioner: its folder, its loss and its words against transformers' own, what it refuses and withholds."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from colour_blocks import HEIGHT, WIDTH, blocks

from explain.caption_config import CaptionConfig
from explain.captioner import (
    GAP,
    RECORD,
    SPECIAL,
    Caption,
    CaptionDescriber,
    Captioner,
    build_model,
    caption_loss,
    normalised,
    word_ids,
)
from explain.facts import Facts
from explain.region_views import region_views
from workbench.errors import UserError

WORDS = (*SPECIAL, "a", "red", "green", "block")
RECORD_OF_TEST = {
    "data": "blocks",
    "trained_steps": 3,
    "max_words": 5,
    "least_confidence": 0.0,
    "least_word_confidence": 0.0,
}


def tiny(**changes: Any) -> CaptionConfig:
    settings: dict[str, Any] = {
        "output_dir": Path("unused"), "resolution": f"{HEIGHT}x{WIDTH}", "hidden_size": 16, "num_attention_heads": 2,
        "num_encoder_layers": 1, "num_decoder_layers": 1, "max_words": 5, "device": "cpu", "mixed_precision": "no",
    }  # fmt: skip
    return CaptionConfig(**{**settings, **changes})


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Captioner(build_model(tiny(), len(WORDS)), WORDS, dict(RECORD_OF_TEST))


def facts(label: str) -> Facts:
    return Facts(label, 0.9, ((label, 0.9), ("sock", 0.1)), 0.2, "probability", "blur", 10, 0.0)


@torch.no_grad()
def test_captions_are_greedy_and_so_sure(captioner: Captioner) -> None:
    """Word by word from the logits, as far as the end or the longest caption."""
    images = blocks(3)[0]
    for image, found in zip(images, captioner.caption(images), strict=True):
        ids, logs = [1], []
        while ids[-1] != 2 and len(ids) <= 6:
            logits = captioner.model(pixel_values=normalised(image[None]), decoder_input_ids=torch.tensor([ids])).logits
            best = logits[0, -1].log_softmax(-1).max(0)
            ids.append(int(best.indices))
            logs.append(float(best.values))
        assert found.text == " ".join(WORDS[number] for number in ids if number >= len(SPECIAL))
        assert found.confidence == pytest.approx(torch.tensor(logs).mean().exp().item(), rel=1e-4)
        probable = [math.exp(log) for number, log in zip(ids[1:], logs, strict=True) if number >= len(SPECIAL)]
        assert found.probabilities == pytest.approx(probable, rel=1e-4)


@torch.no_grad()
def test_loss_is_the_models_own(captioner: Captioner) -> None:
    images = blocks(2)[0]
    labels = word_ids([("a", "red", "block"), ("a", "sock")], WORDS, 5)
    assert labels.tolist() == [[4, 5, 7, 2], [4, 3, 2, -100]]
    theirs = captioner.model(pixel_values=normalised(images), labels=labels)
    assert caption_loss(captioner.model, images, labels).item() == pytest.approx(theirs.loss.item(), rel=1e-6)
    shifted = torch.tensor([[1, 4, 5, 7], [1, 4, 3, 2]])  # what stands before each word
    logits = captioner.model(pixel_values=normalised(images), decoder_input_ids=shifted).logits
    by_hand = F.cross_entropy(logits.reshape(-1, len(WORDS)), labels.reshape(-1), ignore_index=-100)
    assert caption_loss(captioner.model, images, labels).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_long_captions_are_cut() -> None:
    assert word_ids([("a",) * 9], WORDS, 3).tolist() == [[4, 4, 4, 2]]


def test_round_trip_and_transformers_own_way(captioner: Captioner, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer, VisionEncoderDecoderModel

    captioner.save(tmp_path)
    images = blocks(4, seed=1)[0]
    again = Captioner.load(tmp_path)
    assert again.caption(images) == captioner.caption(images)
    assert again.words == WORDS
    assert again.size == (HEIGHT, WIDTH)
    model, tokenizer = VisionEncoderDecoderModel.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    pixels = AutoImageProcessor.from_pretrained(tmp_path)(list(images.numpy()), return_tensors="pt").pixel_values
    assert torch.allclose(pixels, normalised(images), atol=1e-5)
    written = model.generate(pixels, do_sample=False, max_new_tokens=6)
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    assert texts == [caption.text for caption in captioner.caption(images)]
    assert tokenizer("A red SOCK").input_ids == [4, 5, 3]


def test_untrained_ones_are_refused(captioner: Captioner, tmp_path: Path) -> None:
    captioner.save(tmp_path)
    record = json.loads((tmp_path / RECORD).read_text())
    (tmp_path / RECORD).write_text(json.dumps({**record, "trained_steps": 0}))
    with pytest.raises(UserError, match="not trained"):
        Captioner.load(tmp_path)


def test_a_gap_is_shown_and_said_to_be_one(captioner: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _, masks = blocks(1)
    half = Captioner(captioner.model, WORDS, {**RECORD_OF_TEST, "least_word_confidence": 0.5})
    monkeypatch.setattr(half, "caption", lambda images: [Caption("a red block", 0.7, (0.9, 0.4, 0.9))])
    [said] = CaptionDescriber(half, "small").describe(region_views(images[0], masks[0, 0]), facts("red block"))
    assert said.text == f"a {GAP} block"
    assert any("unsure" in note for note in said.notes)


def test_words_that_are_not_sure_leave_one_gap() -> None:
    caption = Caption("an ankle boot on grass", 0.5, (0.4, 0.3, 0.5, 0.99, 0.98))
    assert caption.sure(0.6) == f"{GAP} on grass"
    assert caption.sure(0.35) == f"an {GAP} boot on grass"
    assert caption.sure(0.0) == caption.text


def test_other_folders_are_refused(captioner: Captioner, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no captioner"):
        Captioner.load(tmp_path)
    captioner.save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="damaged"):
        Captioner.load(tmp_path)


def test_it_withholds_what_it_is_unsure_of(captioner: Captioner) -> None:
    images, _, masks = blocks(1)
    views = region_views(images[0], masks[0, 0])
    [said] = CaptionDescriber(captioner, "small").describe(views, facts("red block"))
    assert said.text == captioner.caption(images)[0].text
    assert "blocks" in said.author
    unsure = Captioner(captioner.model, WORDS, {**RECORD_OF_TEST, "least_confidence": 1.1})
    [silent] = CaptionDescriber(unsure, "small").describe(views, facts("red block"))
    assert silent.text == ""
    assert "withheld" in silent.notes[-1]
    assert not any("no word" in note for note in silent.notes)
    [foreign] = CaptionDescriber(captioner, "small").describe(views, facts("tabby cat"))
    assert any("no word for tabby cat" in note for note in foreign.notes)
