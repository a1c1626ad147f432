"""The adapters of released models on real classes with random weights, opened as the real ones are: by folder.

What such models say means nothing; that they are asked, answer in the right form, and are refused where they cannot be
opened is what is tested.
"""

from pathlib import Path

import pytest
import torch
from tiny_released import (
    WORDS,
    save_blip,
    save_git,
    save_grounding_dino,
    save_language_model,
    save_owl,
    save_sam,
    save_stable_diffusion,
)

from augment_synth import captions, grounding, instruction
from augment_synth.backgrounds import Swaps, open_swapper
from augment_synth.captions import ReleasedCaptioner, open_captioner
from augment_synth.diffusers_tokens import VECTORS, DiffusersTokens
from augment_synth.edit_log import weights_hash
from augment_synth.extractors import LanguageModelExtractor, open_extractor
from augment_synth.features import Features
from augment_synth.grounding import GroundedSegmenter
from augment_synth.instruction import InstructionSwapper
from augment_synth.removal import InpainterRemover, open_remover, shrunk
from workbench.errors import UserError

ANSWER = '{"foreground": ["red ball"], "background": "grass", "alternate": "sand"}'


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 255, (3, 3, 20, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


# ---- captioners ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", [save_blip, save_git])
def test_captioners_answer_in_their_own_words(saved, images: torch.Tensor, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(captions, "MAX_NEW_TOKENS", 5)
    captioner = open_captioner(str(saved(tmp_path / "captioner")), None, "caption")
    assert isinstance(captioner, ReleasedCaptioner)
    assert captioner.component.kind == "real"
    said = captioner.caption(images, range(3))
    assert len(said) == 3
    assert {word for text in said for word in text.split()} <= set(WORDS)
    assert captioner.caption(images[1:2], range(1, 2)) == said[1:2]  # a batch changes nothing


def test_what_is_no_captioner(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be opened as a captioner"):
        open_captioner(str(save_sam(tmp_path / "sam")), None, "caption")


# ---- language models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat", [True, False])
def test_a_language_model_that_answers_in_json(chat: bool, tmp_path: Path) -> None:
    extractor = open_extractor(str(save_language_model(tmp_path / "llm", ANSWER, chat)), {})
    assert isinstance(extractor, LanguageModelExtractor)
    assert extractor.extract([("a dog on grass with a red ball", "dog")]) == [
        Features(("red ball",), "grass", "sand", ANSWER)
    ]
    assert (extractor.retries, extractor.left_to_rules) == (0, 0)


def test_a_language_model_that_answers_in_broken_json(tmp_path: Path) -> None:
    extractor = open_extractor(str(save_language_model(tmp_path / "llm", ANSWER[:-1])), {})
    assert isinstance(extractor, LanguageModelExtractor)
    [found] = extractor.extract([("a dog on sand with a kite", "dog")])
    assert (found.foreground, found.background) == (("kite",), "sand")  # the rules read the caption
    assert (extractor.retries, extractor.left_to_rules) == (1, 1)


def test_what_is_no_language_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be opened as a language model"):
        open_extractor(str(tmp_path), {})


# ---- detectors and SAM -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", [save_grounding_dino, save_owl])
def test_detectors_with_sam(saved, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights find boxes at a threshold of nothing, and nothing at the real one."""
    grounder = GroundedSegmenter.load(str(saved(tmp_path / "detector")), str(save_sam(tmp_path / "sam")))
    assert "SAM" in grounder.component.version
    phrases = [["dog"], [], ["dog", "red ball"]]
    grounder.threshold = 1.0
    assert grounder.ground(images, phrases) == [[None], [], [None, None]]  # misses
    grounder.threshold = 0.0
    monkeypatch.setattr(grounding, "LARGEST_AREA", 1e9)
    found = grounder.ground(images, phrases)
    assert [len(own) for own in found] == [1, 0, 2]
    masks = [mask for own in found for mask in own if mask is not None]
    assert masks
    assert all(mask.shape == images.shape[-2:] and mask.dtype == torch.bool for mask in masks)
    monkeypatch.setattr(grounding, "LARGEST_AREA", -1)  # boxes that are too large are misses too
    assert grounder.ground(images[:1], [["dog"]]) == [[None]]


def test_what_is_no_detector(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be opened as a detector"):
        GroundedSegmenter.load(str(save_sam(tmp_path / "sam")))


# ---- diffusers -------------------------------------------------------------------------------------------------------


def middle(images: torch.Tensor) -> torch.Tensor:
    masks = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
    masks[:, 6:14, 8:20] = True
    return masks


def test_inpainting_fills_the_hole_alone(images: torch.Tensor, tmp_path: Path) -> None:
    remover = open_remover(f"diffusers:{save_stable_diffusion(tmp_path / 'inpaint', 'Inpaint', 9)}")
    assert isinstance(remover, InpainterRemover)
    assert remover.component.kind == "real"
    remover.inpaint.options["num_inference_steps"] = 2
    holes = middle(images)
    made = remover.remove(images[:2], holes[:2], [1, 2])
    known = ~holes[:2, None].expand_as(made)
    assert torch.equal(made[known], images[:2][known])
    assert not torch.equal(made, images[:2])
    assert torch.equal(remover.remove(images[1:2], holes[1:2], [2]), made[1:])


def test_instructions_change_all_but_what_is_kept(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instruction, "STEPS", 2)
    folder = save_stable_diffusion(tmp_path / "edit", "InstructPix2Pix", 8)
    swapper = open_swapper(str(folder), images, middle(images), [None] * 3, 0, "cpu")
    assert isinstance(swapper, InstructionSwapper)
    assert swapper.component.kind == "real"
    assert swapper.can_make("the moon")
    wanted = Swaps(images, middle(images), ["dog"] * 3, ["a", "dog", "b"], [4, 5, 6], [0, 1, 2])
    made = swapper.swap(wanted)
    kept, inside = (mask[:, None].expand_as(made) for mask in (wanted.kept, shrunk(wanted.kept)))
    assert made.shape == images.shape
    assert torch.equal(made[inside], images[inside])
    assert (made[~kept] != images[~kept]).float().mean() > 0.5
    monkeypatch.setattr(instruction, "AT_ONCE", 2)
    assert (swapper.swap(wanted).int() - made.int()).abs().max() <= 1


def test_frames_keep_their_shape_and_are_whole_multiples(images: torch.Tensor, tmp_path: Path) -> None:
    swapper = InstructionSwapper.load(str(save_stable_diffusion(tmp_path / "edit", "InstructPix2Pix", 8)))
    assert swapper._frame(images) == (16, 24)  # 20 x 28 pixels


@pytest.mark.parametrize(
    "opened", [InstructionSwapper.load, lambda name: DiffusersTokens.load(name, (), 2, None, "cpu")]
)
def test_what_is_no_model_of_diffusers(opened, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be opened as"):
        opened(str(save_sam(tmp_path / "sam")))


# ---- textual inversion -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> DiffusersTokens:
    folder = save_stable_diffusion(tmp_path_factory.mktemp("diffusers") / "untrained")
    return DiffusersTokens.load(str(folder), ("dog", "b"), num_inference_steps=2, guidance_scale=None, device="cpu")


def test_only_the_word_learns(learner: DiffusersTokens) -> None:
    modules = (learner.pipe.unet, learner.pipe.text_encoder, learner.pipe.vae)
    before = [weights_hash(module) for module in modules]
    pictures = torch.full((3, 3, *learner.size), 200, dtype=torch.uint8)
    embedding = learner.invert(pictures, label=0, steps=4, seed=0)
    assert embedding.shape == (VECTORS, 16)
    assert not torch.equal(embedding, learner._name(0).repeat(VECTORS, 1))
    assert torch.equal(embedding, learner.invert(pictures, label=0, steps=4, seed=0))
    assert [weights_hash(module) for module in modules] == before


def test_words_of_the_vocabulary_stand_for_themselves(learner: DiffusersTokens) -> None:
    """The embedding of a known word, put in as a new one, gives what the text encoder gives for that word."""
    tokenizer, encoder = learner.pipe.tokenizer, learner.pipe.text_encoder
    ids = tokenizer("dog", padding="max_length", return_tensors="pt").input_ids
    word = encoder.get_input_embeddings().weight[ids[0, 1:2]]
    torch.testing.assert_close(learner.encoded("", word), encoder(ids)[0])
    torch.testing.assert_close(learner.encoded("dog"), encoder(ids)[0])


def test_images_follow_the_word_and_the_seed(learner: DiffusersTokens) -> None:
    word = torch.randn(VECTORS, 16, generator=torch.Generator().manual_seed(1))
    made = learner.sample(0, word, [1, 2, 3])
    assert made.shape == (3, 3, *learner.size)
    assert not torch.equal(made[0], made[1])
    assert (learner.sample(0, word, [2]).int() - made[1:2].int()).abs().max() <= 1
    assert not torch.equal(learner.sample(0, -word, [1, 2, 3]), made)
