"""Captions as tokens: words of a text or given attributes, the vocabulary of a data set, numbers for a network."""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

import torch
from jaxtyping import Int64
from torch import Tensor

from workbench.errors import UserError

_JOINERS = "-'"
_PLAIN_JOINERS = str.maketrans("\u2010\u2011\u2019", "--'")  # the typographic hyphens and apostrophe
_WORD = re.compile(r"[^\W_][^\s'-]*(?:['-][^\W_][^\s'-]*)*")


def tokenize(caption: object) -> tuple[str, ...]:
    """The tokens of a caption, in lower case: the words of a text, or the texts of a list as they are.

    A word is letters and digits of any script, with hyphens and apostrophes inside. None has no tokens.
    Raises UserError for what is neither a text nor a list of texts.
    """
    if caption is None:
        return ()
    if isinstance(caption, str):
        characters = map(_word_character, _plain(caption).translate(_PLAIN_JOINERS))
        return _shared(_WORD.findall("".join(characters)))
    if isinstance(caption, list | tuple):
        return _shared(filter(None, map(_given_token, caption)))
    raise UserError(f"A caption is {caption!r:.80}, neither a text nor a list of texts: give one of these.")


def _shared(tokens: Iterable[str]) -> tuple[str, ...]:
    """The tokens, of which a million images hold each only once in memory."""
    return tuple(map(sys.intern, tokens))


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text.lower())


@cache
def _word_character(character: str) -> str:
    """The character where it may be part of a word, as accents and vowel signs may, else a space."""
    kept = character in _JOINERS or character.isalnum() or unicodedata.category(character).startswith("M")
    return character if kept else " "


def _given_token(item: object) -> str:
    if item is not None and not isinstance(item, str):
        raise UserError(f"A caption's list holds {item!r:.80}, which is no text: write each token as a text.")
    return _plain(item or "").strip()


def vocabulary(token_lists: Iterable[Sequence[str]], max_size: int, min_count: int = 1) -> tuple[str, ...]:
    """The tokens that most images carry, at most `max_size`, each in at least `min_count`; ties alphabetically."""
    counts = Counter(token for tokens in token_lists for token in set(tokens))
    frequent = [token for token, count in counts.items() if count >= min_count]
    return tuple(sorted(frequent, key=lambda token: (-counts[token], token))[:max_size])


def token_ids(
    token_lists: Sequence[Sequence[str]], vocabulary: Sequence[str], max_tokens: int | None = None
) -> Int64[Tensor, "n t"]:
    """Positions in the vocabulary of each image's first `max_tokens` known tokens, each once, padded with -1.

    Unknown tokens are left out. T is `max_tokens`, or without it the most known tokens of any image.
    """
    number = {token: position for position, token in enumerate(vocabulary)}
    known = [list(dict.fromkeys(number[token] for token in tokens if token in number)) for tokens in token_lists]
    longest = max(map(len, known), default=0) if max_tokens is None else max_tokens
    padded = [(ids + [-1] * longest)[:longest] for ids in known]
    return torch.tensor(padded, dtype=torch.int64).reshape(len(known), longest)
