"""Tokens: what a word is, which tokens a vocabulary holds, what a network is given."""

import unicodedata
from random import Random

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from workbench.errors import UserError
from workbench.tokens import token_ids, tokenize, vocabulary

LETTERS = st.sampled_from("abc")
TOKEN_LISTS = st.lists(st.lists(LETTERS, max_size=6), max_size=6)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A red bag, on grass!", "a red bag on grass"),
        ("Ankle-boot (size 42)\n\t2nd_hand", "ankle-boot size 42 2nd hand"),
        ("don't 'quote' -- the o'clock rock'n'roll- -up", "don't quote the o'clock rock'n'roll up"),
        ("red--bag a-'b", "red bag a b"),
        ("don\u2019t t\u2011shirt wind\u2010up", "don't t-shirt wind-up"),
        (
            "CAF\u00c9 cafe\u0301 \u0391\u0393\u039f\u03a1\u0391 \u0441\u0443\u043c\u043a\u0430",
            "café café \u03b1\u03b3\u03bf\u03c1\u03b1 сумка",
        ),
        ("\u0939\u093f\u0928\u094d\u0926\u0940 \u0925\u0948\u0932\u093e", "हिन्दी थैला"),
        ("a\u2028b\u00a0c\u200bd", "a b c d"),
        ("\u2764\ufe0f bag \U0001f45c", "bag"),
        ("", ""),
        ("?! - ' _", ""),
    ],
)
def test_words_of_a_text(text: str, tokens: str) -> None:
    assert tokenize(text) == tuple(unicodedata.normalize("NFC", tokens).split())


def test_a_list_gives_its_tokens_as_they_are() -> None:
    assert tokenize(["Grass ", "", "T-shirt/top", " ", None, "ankle  boot", "grass"]) == (
        "grass",
        "t-shirt/top",
        "ankle  boot",
        "grass",
    )
    assert tokenize(("Cafe\u0301",)) == tokenize("CAF\u00c9") == ("caf\u00e9",)
    assert tokenize([]) == tokenize(None) == ()


@pytest.mark.parametrize("caption", [7, float("nan"), b"bag", {"bag": True}])
def test_what_is_no_text_is_a_sentence(caption: object) -> None:
    with pytest.raises(UserError, match="neither a text nor a list of texts"):
        tokenize(caption)
    with pytest.raises(UserError, match="which is no text"):
        tokenize(["bag", caption])


@given(st.text())
@example("\u0130\u03a3 \u1e9e")
def test_tokens_are_words_again(text: str) -> None:
    tokens = tokenize(text)
    assert tokenize(" ".join(tokens)) == tokens
    assert all(any(character.isalnum() for character in token) for token in tokens)
    letters = {c for c in unicodedata.normalize("NFC", text.lower()) if c.isalnum()}
    assert {c for token in tokens for c in token if c.isalnum()} == letters


def test_vocabulary_counts_images_and_breaks_ties_alphabetically() -> None:
    token_lists = [["b", "b", "b", "z"], ["a", "z"], ["z", "c"], ["c", "a"], []]
    assert vocabulary(token_lists, 10) == ("z", "a", "c", "b")
    assert vocabulary(token_lists, 2) == ("z", "a")
    assert vocabulary(token_lists, 10, min_count=2) == ("z", "a", "c")
    assert vocabulary([], 10) == ()


@given(TOKEN_LISTS, st.randoms(use_true_random=False))
def test_vocabulary_does_not_depend_on_any_order(token_lists: list[list[str]], random: Random) -> None:
    moved = [random.sample(tokens, len(tokens)) for tokens in random.sample(token_lists, len(token_lists))]
    assert vocabulary(moved, 2) == vocabulary(iter(token_lists), 2)


def test_ids_keep_the_order_once_each_and_leave_out_the_unknown() -> None:
    token_lists = [("c", "x", "a", "c"), (), ("b", "a", "c")]
    assert token_ids(token_lists, ("a", "b", "c"), 4).tolist() == [[2, 0, -1, -1], [-1] * 4, [1, 0, 2, -1]]
    assert token_ids(token_lists, ("a", "b", "c"), 2).tolist() == [[2, 0], [-1, -1], [1, 0]]
    assert token_ids(token_lists, ("a", "b", "c")).tolist() == [[2, 0, -1], [-1] * 3, [1, 0, 2]]
    assert token_ids([("x", "y", "a")], ("a",), 1).tolist() == [[0]]  # the limit counts known tokens


@pytest.mark.parametrize("max_tokens", [None, 0, 3])
def test_nothing_known_is_padding_alone(max_tokens: int | None) -> None:
    for token_lists in ([], [()], [("x",), ("y", "z")]):
        ids = token_ids(token_lists, ("a",), max_tokens)
        assert ids.shape == (len(token_lists), max_tokens or 0)
        assert ids.dtype == torch.int64
        assert (ids == -1).all()


@given(TOKEN_LISTS, st.integers(0, 4))
def test_ids_name_the_tokens(token_lists: list[list[str]], max_tokens: int) -> None:
    known = vocabulary(token_lists, 2)
    for tokens, ids in zip(token_lists, token_ids(token_lists, known, max_tokens).tolist(), strict=True):
        expected = [token for i, token in enumerate(tokens) if token in known and token not in tokens[:i]]
        assert [known[i] for i in ids if i >= 0] == expected[:max_tokens]
        assert ids == sorted(ids, key=lambda number: number < 0)  # padding comes last
