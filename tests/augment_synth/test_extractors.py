"""Answers of a language model: JSON wherever it stands, asked once more, else the rules."""

from collections.abc import Iterator

import pytest

from augment_synth.extractors import LanguageModelExtractor, RuleExtractor, parsed
from augment_synth.features import Features

GOOD = '{"foreground": ["Coke can", "coke can"], "background": "bed", "alternate": "playground"}'


def test_json_within_words() -> None:
    found = parsed(f"Sure! ```json\n{GOOD}\n``` Anything else?")
    assert found is not None
    assert (found.foreground, found.background, found.alternate) == (("coke can",), "bed", "playground")


@pytest.mark.parametrize(
    "said", ["", "no", "{", '{"foreground": "ball"}', '{"foreground": [1]}', '{"foreground": [], "background": 3}']
)
def test_broken_answers(said: str) -> None:
    assert parsed(said) is None


def test_no_background() -> None:
    found = parsed('{"foreground": [], "background": "", "alternate": null}')
    assert found is not None
    assert (found.background, found.alternate) == (None, None)


def asked(answers: Iterator[str]) -> LanguageModelExtractor:
    return LanguageModelExtractor(lambda prompt: next(answers), RuleExtractor(), "scripted")


def test_one_retry_then_the_rules() -> None:
    extractor = asked(iter(["nonsense", GOOD]))
    assert extractor.extract([("a dog", "dog")])[0].background == "bed"
    assert (extractor.retries, extractor.left_to_rules) == (1, 0)
    extractor = asked(iter(["nonsense", "{"]))
    assert extractor.extract([("a dog on grass", "dog")]) == [Features((), "grass", raw="a dog on grass")]
    assert (extractor.retries, extractor.left_to_rules) == (1, 1)


def test_equal_pairs_are_asked_once() -> None:
    extractor = asked(iter([GOOD]))
    assert len(extractor.extract([("a dog", "dog")] * 3)) == 3
