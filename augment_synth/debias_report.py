"""The page of `workbench debias`: what the classifier relies on, with pictures, and what training again changed."""

from collections.abc import Sequence
from typing import Any

import torch

from augment_synth.aspire import Discovery
from augment_synth.debias_config import DebiasConfig
from augment_synth.debias_files import background_shares, pair_rows
from augment_synth.retraining import Comparison
from augment_synth.scoring import ScoredFeature
from augment_synth.synthetic import Synthetic, decoded
from workbench.report import Report

READING = """
A feature is called spurious where editing it away changes correct predictions often (the lower bound of the flip rate
clears the cut-off) and more often than edits that leave it alone (the placebo). Editors change more than they are asked
to, a part of the object itself flips predictions too, and what no caption names cannot be found: look at the pictures
before you train on them, and leave a feature out with `--veto`.
"""
NOTHING = "**No spurious feature was found.** Nothing was edited for training."
STAND_INS = {"real": "released model", "offline_standin": "small stand-in", "data": "the data's own", "person": "given",
             "oracle": "ORACLE: reads the planted truth"}  # fmt: skip


def debias_report(
    config: DebiasConfig,
    discovery: Discovery,
    synthetic: Synthetic,
    comparison: Comparison,
    manifest: dict[str, Any],
) -> Report:
    """The page from top to bottom."""
    report = Report(f"What {config.classifier} relies on in {config.data}")
    names = discovery.editing.subject.data.label_names
    report.text(READING)
    report.table(
        [{"step": c.step, "who": c.name, "kind": STAND_INS[c.kind], "what": c.version} for c in discovery.components],
        "Who did what",
    )
    if discovery.notes:
        report.text("\n".join(f"- {note}" for note in discovery.notes))
    report.heading("Features")
    if not discovery.spurious:
        report.text(NOTHING)
    report.table([feature_row(feature, names) for feature in discovery.ranking], _caption(config))
    for feature in discovery.spurious:
        _add_pairs(report, discovery, feature)
    _add_comparison(report, comparison, synthetic, names)
    report.heading("How it was made")
    report.details("Settings, counts and versions", manifest)
    return report


def _caption(config: DebiasConfig) -> str:
    if config.mode == "paper":
        return "The released formula: sums of flip rates; there is no cut-off and no placebo"
    return (
        f"Every feature that captions name, best first. Kept: lower bound of the flip rate at least "
        f"{config.min_flip_rate}, more than {config.placebo_ratio} times the placebo's"
    )


def feature_row(feature: ScoredFeature, label_names: Sequence[str]) -> dict[str, Any]:
    """A line of the ranking."""
    return {
        "class": label_names[feature.label], "feature": feature.name, "kind": feature.kind,
        "put in its place": feature.replaced_by or None, "edits": feature.edits, "not found": feature.misses,
        "flip rate": feature.flip_rate, "lower bound": feature.lower,
        "placebo": feature.placebo_flip_rate if feature.placebo_edits else None, "mean drop": feature.mean_drop,
        "score": feature.score, "spurious": feature.kept, "why": feature.reason,
    }  # fmt: skip


def _add_pairs(report: Report, discovery: Discovery, feature: ScoredFeature) -> None:
    data = discovery.editing.subject.data
    rows = pair_rows(discovery, feature)
    label = data.label_names[feature.label]
    after = decoded(rows, (data.images.shape[-2], data.images.shape[-1]))
    before = data.images[[row.position for row in rows]]
    pictures = torch.stack([before, after], 1).flatten(0, 1)
    words = [
        text for row in rows
        for text in (f"{label} {row.p_before:.0%}", f"without {row.phrase}: {label} {row.p_after:.0%}")
    ]  # fmt: skip
    report.heading(f"{feature.name}, {label}", level=3)
    report.figure(list(pictures), f"Before and after, with the probability of {label}", words)


def _add_comparison(report: Report, comparison: Comparison, synthetic: Synthetic, label_names: Sequence[str]) -> None:
    report.heading("Trained again")
    report.text(
        f"Method: `{comparison.method}`. Measured on {comparison.measured_on}. {len(synthetic)} synthetic images were "
        "added. The weighted average weighs groups as they are in the training data, as papers on Waterbirds do."
    )
    if any(row["source"] == "generated" and "label_likeness" not in row for row in synthetic.rows):
        report.text("That the generated images show their label nobody confirms: `--semantic-filter` names a model.")
    if synthetic.left_out:
        report.text("Left out: " + ", ".join(f"{count} {name}" for name, count in synthetic.left_out.items()) + ".")
    rows = [
        {"classifier": name, "worst group": table.worst, "average": table.average, "weighted average": table.weighted}
        for name, table in comparison.tables.items()
    ]
    report.table(rows, "Worst group and averages")
    groups = [
        {"group": row.group, "images": row.n, "in training": row.train_n}
        | {name: table.rows[number].accuracy for name, table in comparison.tables.items()}
        for number, row in enumerate(next(iter(comparison.tables.values())).rows)
    ]
    report.table(groups, "Accuracy in each group")
    if comparison.fresh_flips:
        report.table(comparison.fresh_flips, "How often fresh edits of the spurious features flip a right answer")
    if len(synthetic):
        report.table(
            background_shares(synthetic, label_names),
            "Backgrounds of the new images: one for a class alone would be a new cue",
        )
