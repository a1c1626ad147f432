"""ASPIRE on sets with planted spurious features: does it find them, and does training on its images help?

    pip download --no-deps animal-mnist==0.4
    python bench/aspire_planted.py --folder runs/aspire --animals animal_mnist-0.4-py3-none-any.whl \\
        --output docs/results/aspire_planted.md
    python bench/aspire_planted.py --folder runs/aspire --items fashion --plants background --seeds 0 \\
        --methods erm --additions none direct

Four sets of each kind of item: the background follows the class, an object does, both do, or nothing does; with
probability 0.95 in training and 0.5 in testing. The classifier is ERM's. Everything is done as `workbench debias` does
it, with small stand-ins that are trained beforehand on scenes in which nothing goes together: a captioner, a segmenter,
and of each set's own training images a generator. What was planted is read for figures alone, and for the groups that
accuracy is measured by and that group methods are given.

Every method is trained without and with edits (`direct`) and images of the personalised generator (`generated`). The
controls are trained by ERM: as many edits of spurious features as of others and placebos (`as many`: what a generator
makes, or what there is), as many images of the generator without the token, edits alone, edits with their placebos; and
real images with a correlation of 0.5. Figures are kept beside the table as they come (RESULTS.jsonl), and only what is
missing is measured: call again to go on.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as our commands do
from aspire_arms import ADDITIONS, ALONE, BALANCED_SET, BOTH, DIRECT, ERM, FEWER, GENERATED, NONE, OTHERS, PLAIN, Case
from aspire_sets import CLASSES, GENERATOR, settings_of
from aspire_table import Found, aspire_table
from kept import Kept, Settings
from measured import write_result

from augment_synth.robust import METHODS
from workbench.allocator import keep_freed_memory
from workbench.planted import PLANTS

FOR_ALL = (NONE, DIRECT, GENERATED)  # additions that every method is trained with; the others by ERM
DISCOVERY = "discovery"


def main() -> None:
    """Measure what is missing; print, and write the table where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for runs, edits and generators")
    parser.add_argument("--animals", type=Path, help="the wheel of animal-mnist")
    parser.add_argument("--items", nargs="+", default=list(CLASSES), choices=CLASSES)
    parser.add_argument("--plants", nargs="+", default=list(PLANTS), choices=PLANTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--additions", nargs="+", default=list(ADDITIONS), choices=ADDITIONS)
    parser.add_argument("--train-images", type=int, default=2000)
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=600, help="of each classifier")
    parser.add_argument("--width", type=int, default=32, help="channels of the classifiers")
    parser.add_argument("--min-support", type=int, default=20)
    parser.add_argument("--corpus-images", type=int, default=6000, help="that the stand-ins learn from")
    parser.add_argument("--captioner-steps", type=int, default=1500)
    parser.add_argument("--segmenter-steps", type=int, default=1000)
    parser.add_argument("--generator-steps", type=int, default=3000)
    parser.add_argument("--personalisation-steps", type=int, default=500)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--results", type=Path, default=Path("docs/results/aspire_planted.jsonl"))
    parser.add_argument("--output", help="markdown file for the table")
    options = parser.parse_args()
    if "animals" in options.items and not options.animals:
        parser.error("--items animals needs --animals, the wheel of animal-mnist; see --help")
    keep_freed_memory()
    kept, found = Kept(options.results), Found()
    for items in options.items:
        for plant in options.plants:
            for seed in options.seeds:
                measure(Case(items, plant, seed, options), kept, found)
    write_result("ASPIRE on planted sets", __doc__ or "", aspire_table(found), options.output)


def measure(case: Case, kept: Kept, found: Found) -> None:
    """All figures of one set and seed: kept ones, or measured now."""
    place = (case.items, case.plant)
    found.discovery[place].append(figures_of(case, DISCOVERY, NONE, kept))
    for method, addition in arms(case.options.methods, case.options.additions):
        found.accuracy[place][method, addition].append(figures_of(case, method, addition, kept))


def arms(methods: list[str], additions: list[str]) -> list[tuple[str, str]]:
    """Every method with what all are trained with; ERM with the controls too; and the balanced set."""
    pairs = [(method, addition) for method in methods for addition in FOR_ALL if addition in additions]
    controls = [(ERM, addition) for addition in (BOTH, FEWER, OTHERS, PLAIN, ALONE) if addition in additions]
    return [*pairs, *(controls if ERM in methods else ()), (BALANCED_SET, NONE)]


def figures_of(case: Case, method: str, addition: str, kept: Kept) -> dict[str, float]:
    """Kept ones, or measured now."""
    more = settings_of(case.options, GENERATOR) if addition in (GENERATED, PLAIN) else {}
    settings: Settings = {
        "items": case.items, "plant": case.plant, "seed": case.seed, "method": method, "addition": addition,
        **settings_of(case.options), **more,
    }  # fmt: skip
    figures = kept.find(settings)
    if figures is None:
        figures = case.found() if method == DISCOVERY else case.accuracy(method, addition)
        kept.add(settings, figures)
    return figures


if __name__ == "__main__":
    main()
