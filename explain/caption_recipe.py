"""Training the small captioner on the one loop: the words of a caption, each from the picture and those before it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from explain.caption_card import write_card
from explain.caption_config import CaptionConfig
from explain.caption_data import Captioned, read_captioned
from explain.caption_start import inherit
from explain.captioner import RESULT, SPECIAL, Caption, Captioner, build_model, caption_loss, word_ids
from workbench import seeds
from workbench.classification import moved
from workbench.errors import UserError
from workbench.files import write_atomic
from workbench.pictures import encode_png, image_grid
from workbench.recipe import Draws, Recipe
from workbench.tokens import vocabulary

INITIAL = 45  # stream of randomness
BLOCKS = ("ViTLayer", "GPT2Block")
SHOWN = 8  # pictures in samples/
UNSURE = 0.02  # share of held-out pictures whose caption is withheld
WORDS_RIGHT = 0.98  # of those that are not left out


class CaptionRecipe(Recipe):
    """Pictures and captions in memory; the vocabulary is that of the captions learned from."""

    name = "caption"
    result = RESULT
    config: CaptionConfig

    def __init__(self, config: CaptionConfig) -> None:
        config.check()
        self.config = config
        start = Captioner.load(config.init_from) if config.init_from else None
        self.train_data, self.held_out = read_captioned(config)
        known = vocabulary(self.train_data.words, config.vocabulary_size, config.min_count)
        if not known:
            raise UserError(f"no word of the captions is in {config.min_count} of them; give more, or --min-count 1")
        self.words = (*SPECIAL, *known)
        self.images, self.num_examples = self.train_data.images, len(self.train_data)
        self.labels = word_ids(self.train_data.words, self.words, config.max_words)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seeds.generator(config.seed, INITIAL).initial_seed())
            self.model = build_model(config, len(self.words))
        self.notes = (*self.train_data.notes, f"{len(known):,} words are learned")
        if start:
            shared = inherit(self.model, self.words, start, str(config.init_from))
            self.notes = (*self.notes, f"{shared:,} of them begin as {config.init_from} knows them")

    def to(self, device: torch.device) -> None:
        """Keep pictures and words beside the model."""
        self.images, self.labels = self.images.to(device), self.labels.to(device)

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """Shifts and flips of one global batch."""
        device, reach = generator.device, self.config.random_shift
        shift = torch.randint(-reach, reach + 1, (batch_size, 2), generator=generator, device=device)
        flip = torch.rand(batch_size, generator=generator, device=device) < 0.5
        return {"shift": shift, "flip": flip & self.config.random_flip}

    def loss(self, model: nn.Module, indices: Int64[Tensor, " b"], draws: Draws) -> dict[str, Tensor]:
        """Cross-entropy of the captions' words."""
        indices = indices.to(self.images.device)
        images = moved(self.images[indices], draws["shift"], draws["flip"])
        return {"loss": caption_loss(model, images, self.labels[indices])}

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Matrices of the encoder's and the decoder's blocks."""
        blocks = [module for module in self.model.modules() if type(module).__name__ in BLOCKS]
        return [parameter for block in blocks for parameter in block.parameters() if parameter.ndim == 2]

    def validate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Figures on the held-out pictures; some of them with their captions."""
        captions = self._captioner(model, step).caption(self.held_out.images)
        shown = self.held_out.images[:SHOWN]
        write_atomic(folder / f"step-{step:08d}.png", encode_png(image_grid(list(shown), columns=SHOWN)))
        write_atomic(folder / f"step-{step:08d}.txt", "\n".join(caption.text for caption in captions[:SHOWN]) + "\n")
        return {f"validation_{name}": value for name, value in caption_figures(captions, self.held_out).items()}

    def publish(self, model: nn.Module, folder: Path, record: Mapping[str, Any]) -> None:
        """The captioner with its held-out figures and its card."""
        captioner = self._captioner(model, self.config.max_train_steps)
        captions = captioner.caption(self.held_out.images)
        confidences = torch.tensor([caption.confidence for caption in captions])
        captioner.record |= {
            "least_confidence": float(confidences.quantile(UNSURE)),
            "least_word_confidence": least_word_confidence(captions, self.held_out),
            "held_out": caption_figures(captions, self.held_out),
            "pictures": self.num_examples,
            **record,
        }
        captioner.save(folder)
        write_card(folder, captioner, captions[:SHOWN], self.held_out)

    def _captioner(self, model: nn.Module, step: int) -> Captioner:
        record = {"data": self.config.data, "trained_steps": step, "max_words": self.config.max_words}
        return Captioner(model, self.words, record)


def least_word_confidence(captions: list[Caption], truth: Captioned) -> float:
    """The probability from which on words of held-out captions are those of the true ones, nearly all of them."""
    words = sorted(
        ((probability, word in true) for caption, true in zip(captions, truth.words, strict=True)
         for word, probability in zip(caption.text.split(), caption.probabilities, strict=True)), reverse=True,
    )  # fmt: skip
    least, right = 1.0, 0
    for number, (probability, is_right) in enumerate(words, start=1):
        right += is_right
        last_of_its_kind = number == len(words) or words[number][0] < probability
        if last_of_its_kind and right >= WORDS_RIGHT * number:
            least = probability
    return least


def caption_figures(captions: list[Caption], truth: Captioned) -> dict[str, float]:
    """Share of captions that are the true one word for word, and precision and recall of their words, averaged."""
    pairs = [(caption.text.split(), words) for caption, words in zip(captions, truth.words, strict=True)]
    common = [len(set(said) & set(true)) for said, true in pairs]
    return {
        "exact_match": sum(tuple(said) == true for said, true in pairs) / len(pairs),
        "word_precision": sum(c / max(1, len(set(p[0]))) for c, p in zip(common, pairs, strict=True)) / len(pairs),
        "word_recall": sum(c / len(set(p[1])) for c, p in zip(common, pairs, strict=True)) / len(pairs),
        "pictures": len(pairs),
    }
