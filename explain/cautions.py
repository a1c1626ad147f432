"""What a reader of an explanation must be told, because it limits what the explanation says."""

from collections.abc import Sequence

from explain.candidates import Candidate
from explain.facts import HIDDEN, Facts
from explain.shapley import Attribution

UNCERTAIN, UNLIKELY = 0.5, 0.01
INEXACT = 0.01  # of the sum of a map
UNHIDDEN = 0.5  # of the probability
UNSTABLE = 0.5  # IoU


def cautions(
    facts: Facts, attribution: Attribution, candidates: Sequence[Candidate], chosen: int | None
) -> tuple[str, ...]:
    """Sentences without their full stop; none for an answer that is certain, of a region that carries it."""
    return (*_of_the_answer(facts), *_of_the_map(facts, attribution), *_of_the_region(facts, candidates, chosen))


def _of_the_answer(facts: Facts) -> list[str]:
    first, probability = facts.predictions[0]
    if facts.probability < UNLIKELY:
        return [
            f"the classifier hardly sees {facts.label} here, so this is what would speak for it, not that it is there"
        ]
    if first == facts.label and probability < UNCERTAIN and len(facts.predictions) > 1:
        return [f"the classifier is not certain; explain {facts.predictions[1][0]} as well"]
    return []


def _of_the_map(facts: Facts, attribution: Attribution) -> list[str]:
    told = []
    if attribution.additivity_error > INEXACT:
        told.append(f"the map does not add up to the answer: {attribution.additivity_error:.2g} are missing")
    if facts.base >= UNHIDDEN * facts.probability:
        told.append(
            f"the probability is {facts.base:.1%} even with the whole picture {HIDDEN[facts.fill]}, "
            "and the map explains the difference only"
        )
    return told


def _of_the_region(facts: Facts, candidates: Sequence[Candidate], chosen: int | None) -> list[str]:
    if chosen is None and not candidates:
        return [f"no part of the picture speaks for {facts.label}: hiding any of it does not lower what was measured"]
    if chosen is None:
        reasons = ", ".join(dict.fromkeys(one.rejected for one in candidates if one.rejected))
        return [f"no segment will do, so none is shown{f' ({reasons})' if reasons else ''}"]
    unstable = facts.stability is not None and facts.stability < UNSTABLE
    hangs = ["the region hangs on single points: with one less in the prompt another one is found"] if unstable else []
    return hangs + [
        f"hiding this region ({HIDDEN[one.fill]}) changes no more than hiding regions of its shape elsewhere"
        for one in facts.verifications
        if one.remove >= one.control_remove
    ]
