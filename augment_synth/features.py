"""What else is in a picture, in words: a caption's phrases that are not its label, by rules, and which mean the same.

    rule_features("a bag on grass with a red ball", "Bag")     # foreground ("red ball",), background "grass"

Rules, not a language model: they know prepositions, a list of words for places and textures, and plurals. What they
call a background is only ever a word of that list.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt

from workbench.tokens import tokenize

SAME = 0.7  # cosine of the words' counts from which two phrases are one feature


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SCENES = _words(
    """alley asphalt background bark beach bed bedroom bridge brick bush carpet cave ceiling city cliff cloth cloud
    concrete court desert dirt fabric farm fence field floor foliage forest garden gradient grass gravel ground hill
    house ice indoor jungle kitchen lake land lawn leaf marble meadow mountain mud night ocean outdoor park pasture path
    pavement pebble playground plaza pond pool rain rapid reef river road rock room runway sand sea shore sidewalk sky
    snow soil stadium stage stone storm street studio sunset surface swamp table texture tile track trail tree valley
    wall water wave wood yard"""
)
IRREGULAR = {
    "children": "child", "feet": "foot", "geese": "goose", "knives": "knife", "leaves": "leaf", "lives": "life",
    "men": "man", "mice": "mouse", "oxen": "ox", "people": "person", "shelves": "shelf", "teeth": "tooth",
    "wolves": "wolf", "women": "woman",
}  # fmt: skip
ARTICLES = _words("a an the some another its his her their this that these those there")
COUNTS = _words("one two three four five six several many few")
VERBS = _words(
    """is are was were be being stands standing sits sitting lies lying lays laying walks walking runs running flies
    flying perched parked placed seen shown swims swimming looking wearing holding carrying eating floating hanging
    leaning resting surrounded covered"""
)
PLACES = ("on top of", "in front of", "inside of", "on", "in", "at", "against", "inside", "over", "under", "across")
BESIDE = (
    "next to",
    "close to",
    "with",
    "and",
    "near",
    "beside",
    "by",
    "behind",
    "above",
    "below",
    "holding",
    "wearing",
)
_SEPARATOR = re.compile(rf"\s+(?={'|'.join((*PLACES, *BESIDE))}\s)|\s*[,;.]\s*")
_LEADING = re.compile(rf"^({'|'.join((*PLACES, *BESIDE))})\s+")


@dataclass(frozen=True)
class Features:
    """What a caption names beside the label. `alternate` is a background that could be there instead, if somebody
    proposed one; `raw` is what the extractor said, of the `caption`."""

    foreground: tuple[str, ...] = ()
    background: str | None = None
    alternate: str | None = None
    raw: str = ""
    caption: str = ""


def rule_features(caption: str, label: str, synonyms: Sequence[str] = ()) -> Features:
    """Objects and the background of a caption, by rules; phrases that mean the label (or a synonym) are left out."""
    own = _label_heads((label, *synonyms))
    objects: dict[str, None] = {}
    background = None
    for piece in _SEPARATOR.split(f" {caption.lower()} "):
        phrase = _noun_phrase(_LEADING.sub("", piece.strip()))
        if not phrase or head(phrase) in own:
            continue
        if head(phrase) in SCENES:
            background = background or phrase
        else:
            objects[phrase] = None
    return Features(tuple(objects), background, raw=caption)


def _noun_phrase(text: str) -> str:
    words = [word for word in tokenize(text) if word not in ARTICLES | COUNTS | VERBS]
    return " ".join(words)


def _label_heads(names: Iterable[str]) -> set[str]:
    """Of "T-shirt/top": t-shirt and top; of "ankle boot": boot."""
    alternatives = [part for name in names for part in re.split(r"[/,;|_]", name.lower())]
    return {head(" ".join(tokenize(part))) for part in alternatives if tokenize(part)}


def head(phrase: str) -> str:
    """The noun that a phrase is about, in the singular: its last word."""
    return lemma(phrase.split()[-1])


def lemma(word: str) -> str:
    """The singular of an English noun, by rules."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if re.search(r"(s|x|z|ch|sh)es$", word) and len(word) > 4:
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


# ---- which phrases are one feature -----------------------------------------------------------------------------------


def merged(phrases: Counter[str], same: Callable[[str, str], bool]) -> dict[str, str]:
    """Each phrase's feature, named by its commonest phrase: one joins the first cluster of which it is like a member.

    Greedy, commonest first (the released code's order is that of the data).
    """
    clusters: list[list[str]] = []
    for phrase, _ in sorted(phrases.items(), key=lambda item: (-item[1], item[0])):
        found = next((cluster for cluster in clusters if any(same(phrase, member) for member in cluster)), None)
        if found is None:
            clusters.append([phrase])
        else:
            found.append(phrase)
    return {phrase: cluster[0] for cluster in clusters for phrase in cluster}


def alike(first: str, second: str) -> bool:
    """Whether two phrases share most of their words: the released rule."""
    return cosine(first, second) >= SAME


def same_thing(first: str, second: str) -> bool:
    """Whether two phrases are about the same noun, or share most of their words."""
    return head(first) == head(second) or alike(first, second)


def cosine(first: str, second: str) -> float:
    """Cosine of the counts of the singular words of two phrases."""
    counts = [Counter(map(lemma, phrase.split())) for phrase in (first, second)]
    dot = sum(counts[0][word] * counts[1][word] for word in counts[0])
    norms = [sqrt(sum(count * count for count in words.values())) for words in counts]
    return dot / (norms[0] * norms[1])
