"""The tables of the inpainting benchmark, and what the claims came to."""

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

from inpaint_toy import CUES
from measured import table

Found = list[dict[str, Any]]
TOY = ("valid", "possible", "modes", *(f"tv_{cue}" for cue in CUES))
FASHION = ("class_agreement_centre", "class_agreement_half", "distinct_classes")
PICTURE = ("hole_psnr_one", "hole_psnr_best", "hole_psnr_mean", "border_error", "pair_l1")
GATE = 0.1  # of the total variation with the true structure: above it, stage 3 hides what stage 1 does


def report(options: argparse.Namespace, found: Found) -> str:
    """All tables, then the claims."""
    measures = (*(TOY if options.task == "toy" else FASHION), *PICTURE)
    rows = list(dict.fromkeys(one["what"] for one in found if one["what"] not in ("stages", "known pixels")))
    parts = [
        f"Preset {options.preset}; steps: {options.vqvae_steps:,} of the VQ-VAE, {options.structure_steps:,} of the "
        f"structure network, {options.texture_steps:,} of each texture arm; {options.images} test images, "
        f"{options.variants} completions of each; seeds {', '.join(map(str, options.seeds))}. Mean and standard "
        "deviation over the seeds.",
        "## Completions over drawn structures",
        table(["", *names(measures)], [[what, *(cell(found, what, name) for name in measures)] for what in rows]),
        "## Over the true structure, and over that of another image",
        structure_table(options, found, [what for what in rows if what.startswith("arm")]),
        "## The stages",
        stage_table(found),
    ]
    return "\n\n".join([*parts, *(claims(found) if options.task == "toy" else [])])


def names(measures: Sequence[str]) -> list[str]:
    """Heads of columns."""
    return [name.replace("_", " ") for name in measures]


def structure_table(options: argparse.Namespace, found: Found, arms: list[str]) -> str:
    """What the structure changes."""
    measures = ("valid", "right", "tv_A", "tv_B", "tv_C") if options.task == "toy" else ("class_agreement",)
    measures = (*measures, "hole_psnr_one")
    columns = [f"{kind}_structure_{name}" for kind in ("true", "shuffled") for name in measures]
    rest = ["attention_self_weight", "attention_entropy"]
    rows = [[what, *(cell(found, what, name) for name in [*columns, *rest])] for what in arms]
    return table(["", *names([*columns, *rest])], rows)


def stage_table(found: Found) -> str:
    """What the levels tell, the bits of a token, and the known pixels."""
    keys = {key: what for what in ("stages", "known pixels") for one in found if one["what"] == what for key in one}
    measures = [key for key in keys if key not in ("what", "seed")]
    return table(["", "found"], [[name.replace("_", " "), cell(found, keys[name], name)] for name in measures])


def claims(found: Found) -> list[str]:
    """What was claimed before, and what was found."""
    diverse, single = "arm diverse", "arm single stage"
    gate = max((mean(found, diverse, f"true_structure_tv_{cue}") for cue in CUES), default=1.0)
    same = max(one["pair_l1_same_structure"] for one in found if one["what"].startswith("arm"))
    lines = [
        verdict("several modes for a hole", mean(found, diverse, "modes") > 1.5, cell(found, diverse, "modes")),
        verdict(
            "more valid completions than a single stage",
            mean(found, diverse, "valid") > mean(found, single, "valid"),
            f"{cell(found, diverse, 'valid')} against {cell(found, single, 'valid')}",
        ),
        verdict(
            f"the texture stage keeps the law of its structures (total variation below {GATE} over true ones)",
            gate < GATE,
            f"{gate:.2f} at most",
        ),
        verdict(
            "the structure matters: another image's makes the hole worse",
            mean(found, diverse, "true_structure_hole_psnr_one")
            > mean(found, diverse, "shuffled_structure_hole_psnr_one"),
            f"{cell(found, diverse, 'true_structure_hole_psnr_one')} dB against "
            f"{cell(found, diverse, 'shuffled_structure_hole_psnr_one')} dB",
        ),
        verdict(
            "equal structures give equal completions",
            same < 1e-4,
            f"largest mean difference {same:.1g}",
        ),
        verdict(
            "known pixels stay as they are",
            mean(found, "known pixels", "largest_change_of_a_known_pixel") == 0,
            cell(found, "known pixels", "largest_change_of_a_known_pixel"),
        ),
    ]
    if gate >= GATE:
        lines.append(
            "- The total variations of drawn structures say little of the structure network here: "
            "the texture stage does not keep the law."
        )
    return ["## Claims", "\n".join(lines)]


def verdict(claim: str, holds: bool, figures: str) -> str:
    """A line."""
    return f"- {claim}: {'holds' if holds else '**does not hold**'} ({figures})"


def values(found: Found, what: str, name: str) -> list[float]:
    """Of all seeds."""
    return [one[name] for one in found if one["what"] == what and name in one]


def mean(found: Found, what: str, name: str) -> float:
    """Over the seeds; not a number without any."""
    some = values(found, what, name)
    return statistics.mean(some) if some else float("nan")


def cell(found: Found, what: str, name: str) -> str:
    """Mean and standard deviation over the seeds; of total variations the mean interval too."""
    some = values(found, what, name)
    if not some:
        return "-"
    spread = f" ± {statistics.stdev(some):.2g}" if len(some) > 1 else ""
    bounds = [mean(found, what, f"{name}_{end}") for end in ("low", "high")]
    interval = f" [{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds[0] == bounds[0] else ""
    return f"{statistics.mean(some):.3g}{spread}{interval}"
