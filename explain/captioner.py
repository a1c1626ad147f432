"""A small captioner: transformers' vision encoder-decoder, with a vocabulary of whole words.

    captioner = Captioner.load("runs/captioner")
    captioner.caption(images)[0].text

Its folder is one that transformers opens: `VisionEncoderDecoderModel.from_pretrained(folder)`, with the tokenizer and
the image processor beside the weights. `captioner.json` says what it learned from. It knows only the words and the kind
of pictures that it learned from, and says nothing where it is less sure than it was on nearly all held-out pictures.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from safetensors import SafetensorError
from torch import Tensor, nn

from explain.caption_config import CaptionConfig
from explain.claims import agreement, claims
from explain.describe import ZOO, Description
from explain.facts import Facts
from explain.quiet import quiet
from explain.region_views import RegionViews
from workbench.errors import UserError
from workbench.files import write_atomic
from workbench.pictures import as_colour, resize_images
from workbench.tokens import tokenize

RECORD = "captioner.json"
RESULT = "captioner"
PAD, BEGIN, END, UNKNOWN = SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
GAP = "…"  # in place of words that are not sure
MEAN, STD = 0.5, 0.5
BATCH = 128


@dataclass(frozen=True)
class Caption:
    """A caption, the geometric mean of the probabilities of its words and its end, and those of its words."""

    text: str
    confidence: float
    probabilities: tuple[float, ...]

    def sure(self, least: float) -> str:
        """The text, with a gap in place of words that are less probable than `least`."""
        words = zip(self.text.split(), self.probabilities, strict=True)
        kept = [word if probability >= least else GAP for word, probability in words]
        return " ".join(word for word, _ in groupby(kept))


class Captioner:
    """A model, its words, and what `captioner.json` says of it."""

    def __init__(self, model: nn.Module, words: Sequence[str], record: dict[str, Any]) -> None:
        self.model, self.words, self.record = model.eval(), tuple(words), record

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> "Captioner":
        """From a folder, or that of a finished run. Raises `UserError` for anything else, and for random weights."""
        found = captioner_folder(folder)
        if found is None:
            raise UserError(f"{folder} holds no captioner; train one with: workbench caption train --output-dir RUN")
        from transformers import PreTrainedTokenizerFast, VisionEncoderDecoderModel

        try:
            record = json.loads((found / RECORD).read_text())
            tokenizer = PreTrainedTokenizerFast.from_pretrained(found, local_files_only=True)
            with quiet():
                model, loading = VisionEncoderDecoderModel.from_pretrained(
                    found, local_files_only=True, use_safetensors=True, output_loading_info=True
                )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{found} is damaged: {str(error).splitlines()[0]}; train or copy it again") from error
        if loading["missing_keys"] or not record.get("trained_steps"):
            raise UserError(f"{found} is not trained, and what it writes means nothing; train it, or give another")
        return cls(model.to(device), tokenizer.convert_ids_to_tokens(range(len(tokenizer))), record)

    def save(self, folder: Path) -> None:
        """Weights, settings, tokenizer, image processor and record, into an existing folder."""
        from transformers import ViTImageProcessor

        with quiet():
            self.model.save_pretrained(folder)  # type: ignore[operator]
        tokenizer_of(self.words).save_pretrained(folder)
        height, width = self.size
        ViTImageProcessor(
            size={"height": height, "width": width}, image_mean=[MEAN] * 3, image_std=[STD] * 3
        ).save_pretrained(folder)
        write_atomic(folder / RECORD, json.dumps(self.record, indent=1) + "\n")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures that it sees."""
        height, width = self.model.config.encoder.image_size  # type: ignore[union-attr]
        return int(height), int(width)

    @torch.no_grad()
    def caption(self, images: UInt8[Tensor, "n c h w"]) -> list[Caption]:
        """What the pictures show, each word the most likely one; the whole picture is squeezed to its size."""
        found: list[Caption] = []
        for part in images.split(BATCH):
            colour = torch.stack([as_colour(image) for image in resize_images(part, self.size)])
            found += self._caption(normalised(colour.to(self.model.device)))  # type: ignore[arg-type]
        return found

    def _caption(self, pixels: Float[Tensor, "n 3 h w"]) -> list[Caption]:
        made = self.model.generate(  # type: ignore[operator]
            pixel_values=pixels, do_sample=False, max_new_tokens=self.record["max_words"] + 1,
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        new = made.sequences[:, 1:]
        logs = torch.stack(made.scores, 1).log_softmax(-1).gather(2, new[..., None])[..., 0]
        counted = new != SPECIAL.index(PAD)
        mean = torch.where(counted, logs, 0).sum(1) / counted.sum(1)
        rows = zip(new.tolist(), mean.exp().tolist(), logs.exp().tolist(), strict=True)
        return [self._written(*row) for row in rows]

    def _written(self, ids: Sequence[int], confidence: float, probabilities: Sequence[float]) -> Caption:
        """Words up to the end, as a text."""
        words = [(self.words[k], p) for k, p in zip(ids, probabilities, strict=True) if k >= len(SPECIAL)]
        return Caption(" ".join(word for word, _ in words), confidence, tuple(p for _, p in words))


def normalised(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """As the encoder takes them: in [-1, 1]."""
    return (images.float() / 255 - MEAN) / STD


def captioner_folder(spec: str | Path) -> Path | None:
    """The folder of a captioner: the given one, that of a finished run, or zoo:NAME; None where there is none."""
    path = ZOO / str(spec).removeprefix("zoo:") if str(spec).startswith("zoo:") else Path(spec)
    found = next((folder for folder in (path, path / RESULT) if (folder / RECORD).is_file()), None)
    if found is None and str(spec).startswith("zoo:"):
        raise UserError(f"there is no {spec}: clone the repository, or train one with workbench caption train")
    return found


# ---- making one ------------------------------------------------------------------------------------------------------


def build_model(config: CaptionConfig, num_words: int) -> nn.Module:
    """An untrained encoder (ViT) and decoder (GPT-2 with cross-attention) for as many words, special ones included."""
    from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    width = config.hidden_size
    encoder = ViTConfig(
        image_size=config.size, patch_size=config.patch_size, hidden_size=width, intermediate_size=4 * width,
        num_hidden_layers=config.num_encoder_layers, num_attention_heads=config.num_attention_heads,
    )  # fmt: skip
    pad, begin, end, _ = range(len(SPECIAL))
    decoder = GPT2Config(
        vocab_size=num_words, n_positions=config.max_words + 2, n_embd=width, n_layer=config.num_decoder_layers,
        n_head=config.num_attention_heads, is_decoder=True, add_cross_attention=True, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, pad_token_id=pad, bos_token_id=begin, eos_token_id=end,
    )  # fmt: skip
    both = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    both.decoder_start_token_id, both.pad_token_id, both.bos_token_id, both.eos_token_id = begin, pad, begin, end
    model = VisionEncoderDecoderModel(both)
    for name, value in (("decoder_start_token_id", begin), ("pad_token_id", pad), ("eos_token_id", end)):
        setattr(model.generation_config, name, value)
    model.encoder.pooler.requires_grad_(False)  # part of the format, used by nobody
    return model


def tokenizer_of(words: Sequence[str]) -> Any:
    """Whole words between spaces, lower case; `words` begin with the special ones."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token=UNKNOWN))
    plain.normalizer, plain.pre_tokenizer = Lowercase(), WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token=PAD, bos_token=BEGIN, eos_token=END, unk_token=UNKNOWN
    )


def word_ids(captions: Sequence[Sequence[str]], words: Sequence[str], max_words: int) -> Int64[Tensor, "n length"]:
    """The words' numbers, at most so many, then the end, then -100, which the loss leaves out."""
    number = {word: position for position, word in enumerate(words)}
    unknown, end = SPECIAL.index(UNKNOWN), SPECIAL.index(END)
    rows = [[number.get(word, unknown) for word in caption[:max_words]] + [end] for caption in captions]
    longest = max(map(len, rows))
    return torch.tensor([row + [-100] * (longest - len(row)) for row in rows])


def caption_loss(
    model: nn.Module, images: UInt8[Tensor, "b 3 h w"], labels: Int64[Tensor, "b length"]
) -> Float[Tensor, ""]:
    """Cross-entropy of each word given those before it and the picture; no word looks at the padding behind it."""
    seen = torch.ones_like(labels)
    logits = model(pixel_values=normalised(images), labels=labels, decoder_attention_mask=seen).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


# ---- as a describer --------------------------------------------------------------------------------------------------


class CaptionDescriber:
    """Captions the whole picture: what it learned from are whole pictures, not regions of them."""

    trained = True

    def __init__(self, captioner: Captioner, name: str) -> None:
        self.captioner = captioner
        self.name = f"{name} (a small captioner, learned from {captioner.record['data']})"

    def describe(self, views: RegionViews, facts: Facts) -> tuple[Description, ...]:
        """One caption, withheld where the captioner is unsure."""
        [caption] = self.captioner.caption(views.whole[None])
        notes = ["it speaks of the whole picture, not of the region alone"]
        if not set(tokenize(facts.label)) <= set(self.captioner.words):
            notes.append(f"it has no word for {facts.label}: pictures like this one are probably strange to it")
        if caption.confidence < self.captioner.record["least_confidence"]:
            notes.append("its caption is withheld: it is less sure of it than of nearly all pictures it was tried on")
            return (Description("", self.name, notes=tuple(notes)),)
        text = caption.sure(self.captioner.record["least_word_confidence"])
        if GAP in text.split():
            notes.append(f"{GAP} stands for words that it is unsure of")
        verdict = agreement(text, facts.label, dict(facts.predictions))
        # a place or a colour would be those of other things in the picture
        checked = tuple(claim for claim in claims(text, facts) if claim.about == "class")
        return (Description(text, self.name, agreement=verdict, claims=checked, notes=tuple(notes)),)
