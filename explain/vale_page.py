"""The page of VALE's explanations: evidence, candidates, what hiding does, and the words, each with whose they are.

    report = Report("What the classifier looks at")
    add_vale(report, Path("out/cat"))

It reads what `write_vale` wrote. Generated texts are shown as they are, and never without a badge.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from explain.facts import HIDDEN
from explain.report import shown_picture
from explain.vale_files import RESULT
from workbench.report import Report

MEASURED, GENERATED = "measured", "generated text, may be wrong"
READING = """
Read a story from left to right: what speaks for the class (red) and against it (blue), with the points that the
segmenter was given; the segments it offered; the classifier's answer to the region alone and to the picture without it;
the words. **Measured** sentences come from pixels and forward passes alone. **Generated** text comes from a model that
looked at the region; it says how the region looks to that model, and nothing of why the classifier decided.
"""


def add_vale(report: Report, folder: Path) -> None:
    """The story of every class of one image."""
    result = json.loads((folder / RESULT).read_text())
    for finding in result["findings"]:
        facts = finding["facts"]
        report.heading(f"{facts['label']}, {facts['probability']:.1%}: the region", level=3)
        _add_pictures(report, folder, finding)
        report.statement(finding["text"], MEASURED, "measured")
        _add_verification(report, facts)
        if finding["chosen"] is not None:
            kind = "classical segmentation, no learned model" if result["classical_segmentation"] else "segmenter"
            drawn_by = finding["candidates"][finding["chosen"]]["segmenter"]
            report.statement(f"The region was drawn by {drawn_by}.", kind, "model")
        _add_descriptions(report, finding, result["describer"])
        report.details("All of it", finding)


def _add_pictures(report: Report, folder: Path, finding: dict[str, Any]) -> None:
    names, labels = zip(*_panels(finding), strict=True)
    pictures = [shown_picture(folder / name) for name in names]
    report.figure(pictures, f"From the evidence for {finding['label']} to the region", list(labels))


def _panels(finding: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Pictures and what stands below them, from left to right."""
    stem, found, facts = finding["file"], finding["attribution"], finding["facts"]
    yield "picture.png", "the picture"
    yield (
        f"{stem}.png",
        f"for (red) and against (blue) {facts['label']}: {found['evaluations']} passes, {found['seconds']:.1f} s",
    )
    if facts["why_not"]:
        yield f"{stem}-contrast.png", f"for {facts['label']} (red) rather than {facts['why_not']} (blue)"
    for number, one in enumerate(finding["candidates"]):
        yield f"{stem}-candidate-{number}.png", _of_candidate(one, number == finding["chosen"])
    if finding["control"]:
        yield (
            f"{stem}-control.png",
            f"no segmenter, the evidence above half: {_of_candidate(finding['control'], False)}",
        )
    for one in facts["verifications"][:1]:
        hidden = HIDDEN[one["fill"]]
        yield f"{stem}-kept.png", f"the region alone, the rest {hidden}: {one['keep']:.1%}"
        yield f"{stem}-removed.png", f"the region {hidden}: {one['remove']:.1%}"
    if finding["chosen"] is not None:
        yield f"{stem}-region.png", "what was described"


def _of_candidate(candidate: dict[str, Any], chosen: bool) -> str:
    state = "chosen: " if chosen else f"rejected, {candidate['rejected']}: " if candidate["rejected"] else ""
    quality = "" if candidate["quality"] is None else f", segmenter's score {candidate['quality']:.2f}"
    return f"{state}evidence {candidate['evidence']:.2f}, {candidate['area']:.0%} of the picture{quality}"


def _add_verification(report: Report, facts: dict[str, Any]) -> None:
    rows = [
        {
            "class": label, "hidden pixels": HIDDEN[one["fill"]], "whole": one["probability"],
            "region alone": one["keep"], "without it": one["remove"],
            "same shape elsewhere alone": one["control_keep"], "without that": one["control_remove"],
        }
        for label, kind in ((facts["label"], "verifications"), (facts["why_not"], "why_not_verifications"))
        for one in facts[kind]
    ]  # fmt: skip
    if rows:
        report.table(rows, "Probabilities when the region, or all but the region, is hidden: each is a forward pass")


def _add_descriptions(report: Report, finding: dict[str, Any], describer: str) -> None:
    if not finding["descriptions"]:
        report.statement(f"Nobody described the region ({describer}).", "no generated text", "model")
    for one in finding["descriptions"]:
        told = f"told the class {one['label_given']}" if one["label_given"] else "not told the class"
        prompt = f", prompt {one['prompt']}" if one["prompt"] else ""
        text = one["text"] or "(no text)"
        report.statement(text, f"{GENERATED}: {one['author']}, {told}{prompt}", "generated")
        if one["text"] and not one["label_given"]:
            report.text(f"Does this text name {_plain(finding['label'])}? {one['agreement']}.")
        if one["notes"]:
            report.text("\n".join(f"- {_plain(note)}" for note in one["notes"]))
        if one["claims"]:
            report.table(one["claims"], "What the text says that was also measured")


def _plain(text: str) -> str:
    """On one line, and without what `Report.text` would mark."""
    return " ".join(text.replace("`", "'").replace("**", "").split())
