"""Phrases of captions by rules, and which of them are one feature."""

from collections import Counter

import pytest

from augment_synth.features import alike, cosine, lemma, merged, rule_features, same_thing


@pytest.mark.parametrize(
    ("caption", "label", "objects", "background"),
    [
        ("a bag on grass with a ball and a cup", "Bag", ("ball", "cup"), "grass"),
        ("an ankle boot on gravel with a ball, a kite and a cup", "Ankle boot", ("ball", "kite", "cup"), "gravel"),
        ("a bag on brick", "Bag", (), "brick"),
        ("two ducks swimming in water in front of tall trees", "duck", (), "water"),
        ("A woman wearing a plaid kilt standing in the forest.", "kilt", ("woman",), "forest"),
        ("a dog lying on a bed next to a coke can", "dog", ("coke can",), "bed"),
        ("a t-shirt on a wooden table", "T-shirt/top", (), "wooden table"),
        ("a dog with a red ball", "ball", ("dog",), None),
        ("", "Bag", (), None),
    ],
)
def test_captions(caption: str, label: str, objects: tuple[str, ...], background: str | None) -> None:
    found = rule_features(caption, label)
    assert (found.foreground, found.background) == (objects, background)
    assert found.raw == caption


def test_synonyms_of_the_label_are_no_features() -> None:
    assert rule_features("a mallard on a lake", "duck").foreground == ("mallard",)
    assert rule_features("a mallard on a lake", "duck", ("mallard",)).foreground == ()


@pytest.mark.parametrize(
    ("plural", "singular"),
    [("boxes", "box"), ("berries", "berry"), ("dogs", "dog"), ("grass", "grass"), ("people", "person"), ("bus", "bus")],
)
def test_lemma(plural: str, singular: str) -> None:
    assert lemma(plural) == singular


def test_cosine_counts_words() -> None:
    assert cosine("red balls", "red ball") == pytest.approx(1)
    assert cosine("red ball", "ball") == pytest.approx(2**-0.5)
    assert cosine("red ball", "blue cup") == 0


def test_merging() -> None:
    phrases = Counter({"ball": 5, "small red ball": 2, "red ball": 1, "cup": 4})
    assert merged(phrases, same_thing) == {"ball": "ball", "small red ball": "ball", "red ball": "ball", "cup": "cup"}
    # as released: cosine alone, with any member of the cluster: small red ball meets the cluster too early to join it
    assert merged(phrases, alike)["red ball"] == "ball"
    assert merged(phrases, alike)["small red ball"] == "small red ball"
