"""What a generated text claims, held against what was measured; and what it must not say at all.

A text of a language model or captioner is untrusted. Its figures and its statements on the classifier are taken out:
these come from measurements alone. Of the rest, what can be checked is checked: the class, the colour, the place.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from explain.facts import COLOURS, GRAYS, Facts
from workbench.tokens import tokenize

Verdict = Literal["yes", "no", "unclear"]

LONGEST = 4  # sentences
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
# figures, and what only a forward pass can say
_NOT_ITS_BUSINESS = re.compile(
    r"\d|%|\b(probab|percent|confiden|likelihood|classif|predict|model|remov|hid(e|ing)|without (it|this|the region))",
    re.IGNORECASE,
)
_PLACES = {"left": "right", "right": "left", "upper": "lower", "lower": "upper", "top": "lower", "bottom": "upper"}


@dataclass(frozen=True)
class Claim:
    """What a text says of one thing, and what was measured."""

    about: Literal["class", "colour", "place"]
    said: str
    measured: str
    agrees: bool


def tidied(text: str, finished: bool = True) -> tuple[str, tuple[str, ...]]:
    """A generated text without figures, statements on the classifier, repetitions and what is too long; and notes.

    Of a text that is not finished the last sentence goes, unless it is the only one. Nothing may be left.
    """
    found = [sentence for sentence in _SENTENCE.split(" ".join(text.split())) if sentence]
    notes = []
    if not finished and found:
        found = found[:-1] or [found[0].rstrip(".") + " ..."]
        notes.append("the text was cut where it became too long")
    own = [sentence for sentence in found if not _NOT_ITS_BUSINESS.search(sentence)]
    if len(own) < len(found):
        notes.append("sentences with figures or on the classifier were left out: these come from measurements alone")
    kept = list(dict.fromkeys(own))
    if len(kept) > LONGEST:
        notes.append(f"only the first {LONGEST} sentences are shown")
    return " ".join(kept[:LONGEST]), tuple(notes)


def agreement(text: str, label: str, others: Iterable[str] = ()) -> Verdict:
    """Whether a text that was not told the label names the class: yes, another class instead, or unclear.

    A label may list several names with commas, as ImageNet's do; a name counts with a plural s too.
    """
    if names_class(text, label):
        return "yes"
    return "no" if any(names_class(text, other) for other in others if other != label) else "unclear"


def names_class(text: str, label: str) -> bool:
    """Whether one of the label's names stands in the text, as whole words in their order."""
    said = [_singular(word) for word in tokenize(text)]
    names = [[_singular(word) for word in tokenize(name)] for name in label.split(",")]
    return any(
        said[start : start + len(name)] == name for name in names if name for start in range(len(said) - len(name) + 1)
    )


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def claims(text: str, facts: Facts) -> tuple[Claim, ...]:
    """What a text says of class, colour and place, each held against the facts; what it does not speak of is not there.

    A colour agrees with the measured mean colour when their last words do: "brown" with "brown", "blue" with "light
    blue". The mean of a region of many colours is none of them, so a colour that differs is a hint, no proof.
    """
    found = []
    verdict = agreement(text, facts.label, (name for name, _ in facts.predictions))
    if verdict != "unclear":
        found.append(Claim("class", _named(text, facts), facts.label, verdict == "yes"))
    if facts.region is None:
        return tuple(found)
    words, measured = set(tokenize(text)), facts.region.colour
    if said := sorted(words & {name.split()[-1] for name in (*COLOURS, *GRAYS)}):
        found.append(Claim("colour", ", ".join(said), measured, measured.split()[-1] in said))
    if said := sorted(words & set(_PLACES)):
        against = {_PLACES[word] for word in said}
        found.append(Claim("place", ", ".join(said), facts.region.place, not against & set(facts.region.place.split())))
    return tuple(found)


def _named(text: str, facts: Facts) -> str:
    return next(name for name in (facts.label, *dict(facts.predictions)) if names_class(text, name))
