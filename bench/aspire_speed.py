"""Speed of ASPIRE's edits: batches against one image at a time, and early stopping against editing everything.

    python bench/aspire_speed.py --folder runs/aspire-speed --output docs/results/aspire_speed.md

Scenes whose background follows the class, with their own captions and masks. Edits and classification take turns on the
same images, in batches as the command makes them and one by one; nothing is written in between; ratios are medians
over turns. Early stopping and the whole grid of edits (every correct image, replacement and placebo of every feature)
judge the same classifier with the same cut-offs: edits until the case of every feature is clear, what is found, and
edits with those of the features found, which are made in full because they are trained on.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as our commands do
from measured import table, write_result

from augment_synth import retraining
from augment_synth.aspire import Discovery, class_probabilities, discover
from augment_synth.debias_config import DebiasConfig
from augment_synth.debias_data import DebiasData
from augment_synth.edit_log import EditRow, StepCache
from augment_synth.edits import Editing, Request
from augment_synth.scoring import CutOffs, ScoredFeature, default_scores
from augment_synth.screening import requests, screen
from workbench.allocator import keep_freed_memory
from workbench.pixel_classifier import PixelClassifier
from workbench.planted import planted

GOAL = 5
Features = set[tuple[int, str, str]]


class Unkept(StepCache):
    """Keeps nothing: what is timed is made."""

    def __init__(self) -> None:
        """Without a folder."""

    def edits(self, key: Mapping[str, Any], make: Callable[[], Sequence[EditRow]]) -> list[EditRow]:
        """Made now."""
        return list(make())


def main() -> None:
    """Measure; print, and write the table where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the classifier and the edits")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--train-images", type=int, default=8000)
    parser.add_argument("--pools", type=int, nargs="+", default=[250, 1000, 4000], help="correct images of a class")
    parser.add_argument("--edits", type=int, default=256, help="timed in each turn")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=200, help="of the classifier")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", help="markdown file for the table")
    options = parser.parse_args()
    keep_freed_memory()
    data = described(options.train_images, options.size)
    config = DebiasConfig(
        data="planted", classifier="erm", output=options.folder, max_images_per_class=max(options.pools),
        max_train_steps=options.steps, device=options.device,
    )  # fmt: skip
    classifier = retraining.trained(config, data.grouped(), options.folder / "erm")
    discovery = discover(config, data, classifier, StepCache(options.folder / "steps"))
    parts = [
        f"{options.train_images} images of {options.size}x{options.size} pixels; batches of {options.edits}.",
        "## One image at a time",
        batch_table(discovery, classifier, config, options),
        "## Early stopping",
        screening_table(discovery, config, options),
    ]
    write_result("Speed of ASPIRE's edits", __doc__ or "", "\n\n".join(parts), options.output)


def described(count: int, size: int) -> DebiasData:
    """Scenes with their captions and masks."""
    scenes = planted(range(count), size)
    return DebiasData(
        images=scenes.images, labels=scenes.labels, label_names=scenes.label_names,
        ids=tuple(map(str, range(count))), captions=scenes.captions, masks=scenes.masks, attributes=None,
        attribute_names=(), notes=(),
    )  # fmt: skip


# ---- batches ---------------------------------------------------------------------------------------------------------


def batch_table(
    discovery: Discovery, classifier: PixelClassifier, config: DebiasConfig, options: argparse.Namespace
) -> str:
    """Images a second of each kind of work, both ways."""
    data, editing = discovery.editing.subject.data, unkept(discovery.editing)
    images = data.images[: options.edits]

    def classify(batch_size: int) -> object:
        return class_probabilities(classifier, images, data.label_names, batch_size)

    works: dict[str, tuple[int, Callable[[], object], Callable[[], object]]] = {
        "classify": (len(images), lambda: classify(config.batch_size), lambda: classify(1))
    }
    for kind in ("object", "background"):
        wanted = wanted_edits(discovery, kind, options.edits)
        works[f"edit and classify, {kind}"] = (
            len(wanted), lambda wanted=wanted: editing.make(wanted),
            lambda wanted=wanted: [editing.make([one]) for one in wanted],
        )  # fmt: skip
    rows = [[name, *compared(*work, options.turns)] for name, work in works.items()]
    return table(["work", "in batches, images/s", "one by one", "ratio", f"at least {GOAL}x"], rows)


def unkept(editing: Editing) -> Editing:
    """The same without a cache."""
    return Editing(
        editing.subject, editing.remover, editing.swapper, editing.classify, Unkept(), editing.identity, editing.seed
    )


def wanted_edits(discovery: Discovery, kind: str, count: int) -> list[Request]:
    """Edits of a kind that can be made, no placebos."""
    found = [
        request
        for candidate in discovery.candidates if candidate.kind == kind
        for request in requests(candidate, candidate.images, placebos=False)
    ]  # fmt: skip
    masks = discovery.editing.subject.object_masks
    made = [r for r in found if kind == "background" or masks[r.position].get(r.phrase) is not None]
    return made[:count]


def compared(count: int, batched: Callable[[], object], single: Callable[[], object], turns: int) -> list[str]:
    """Images a second both ways, and the median of the turns' ratios."""
    batched(), single()
    seconds = [(timed(batched), timed(single)) for _ in range(turns)]
    fast, slow = (statistics.median(column) for column in zip(*seconds, strict=True))
    ratio = statistics.median(one / all_ for all_, one in seconds)
    return [f"{count / fast:.0f}", f"{count / slow:.0f}", f"{ratio:.1f}", "holds" if ratio >= GOAL else "FAILS"]


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# ---- early stopping --------------------------------------------------------------------------------------------------


def screening_table(discovery: Discovery, config: DebiasConfig, options: argparse.Namespace) -> str:
    """For each size of the pool, edits with early stopping and without, and whether the same is found."""
    cutoffs = CutOffs(config.min_support, config.min_flip_rate, config.placebo_ratio)
    rows = []
    for most in options.pools:
        found = [replace(candidate, images=candidate.images[:most]) for candidate in discovery.candidates]
        editing = unkept(discovery.editing)
        stopped = screen(editing, found, cutoffs, most)
        everything = editing.make([r for c in found for r in requests(c, c.images, placebos=True)])
        early, late = (kept(default_scores(made, cutoffs)) for made in (stopped.rows, everything))
        ratio = stopped.grid / stopped.decided
        rows.append([
            most, stopped.grid, stopped.decided, f"{ratio:.1f}", len(stopped.rows), len(late),
            "yes" if early == late else f"no: {len(early - late)} more, {len(late - early)} fewer",
            "holds" if ratio >= GOAL and early == late else "FAILS",
        ])  # fmt: skip
    heads = ["images of a feature, at most", "all edits", "until all is clear", "saved", "and those of what is found"]
    return table(
        [*heads, "features found", "the same ones", f"at least {GOAL}x"], [list(map(str, row)) for row in rows]
    )


def kept(ranking: Sequence[ScoredFeature]) -> Features:
    """The features above the cut-offs."""
    return {(feature.label, feature.kind, feature.name) for feature in ranking if feature.kept}


if __name__ == "__main__":
    main()
