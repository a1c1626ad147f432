"""Where a captioner begins that is not to begin from nothing: the weights of a trained one, of other words."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from explain.captioner import SPECIAL, Captioner
from workbench.errors import UserError

WORDS = "decoder.transformer.wte.weight"  # the rows of the words, which the decoder also ends with
PLACES = "decoder.transformer.wpe.weight"  # as many rows as a caption may have words, and two


@torch.no_grad()
def inherit(model: nn.Module, words: Sequence[str], trained: Captioner, name: str) -> int:
    """Copy what the two networks share, and return how many words, special ones aside, both know.

    Rows of words and places that the trained one lacks stay as they are. Raises `UserError` where other sizes differ.
    """
    if different := _sizes(trained.model) - _sizes(model):
        told = " ".join(f"--{setting} {value}" for setting, value in sorted(different))
        raise UserError(f"a run cannot start from {name}, which was trained with {told}: give the same")
    ours, theirs = (dict(one.named_parameters()) for one in (model, trained.model))
    for part in ours.keys() - {WORDS, PLACES}:
        ours[part].copy_(theirs[part])
    places = min(len(ours[PLACES]), len(theirs[PLACES]))
    ours[PLACES][:places] = theirs[PLACES][:places]
    number = {word: row for row, word in enumerate(trained.words)}
    shared = [row for row, word in enumerate(words) if word in number]
    ours[WORDS][shared] = theirs[WORDS][[number[words[row]] for row in shared]]
    return len(shared) - len(SPECIAL)


def _sizes(model: nn.Module) -> set[tuple[str, str]]:
    """The settings that shape the weights other than those of words and places, as the command line has them."""
    config: Any = model.config
    encoder, decoder = config.encoder, config.decoder
    return {
        ("resolution", "x".join(map(str, encoder.image_size))),
        ("patch-size", str(encoder.patch_size)),
        ("hidden-size", str(encoder.hidden_size)),
        ("num-attention-heads", str(encoder.num_attention_heads)),
        ("num-encoder-layers", str(encoder.num_hidden_layers)),
        ("num-decoder-layers", str(decoder.n_layer)),
    }
