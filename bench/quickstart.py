"""The figures of a finished quickstart as a results table. What they mean: docs/measuring.md.

workbench quickstart --output runs/quickstart
python bench/quickstart.py runs/quickstart --output docs/results/quickstart.md
"""

import argparse
import json
import statistics
from pathlib import Path

import yaml
from measured import table, write_result

from workbench.dataset_format import read_dataset_info
from workbench.metrics_log import read_metrics


def main() -> None:
    """Read the folder, print the tables, write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished quickstart's folder")
    parser.add_argument("--output", help="markdown file for the tables")
    options = parser.parse_args()
    settings = yaml.safe_load((options.run / "quickstart.yaml").read_text())
    parts = [
        f"`workbench quickstart` on {settings['data']}, seed {settings['seed']}; timings are of a shared machine.",
        "## Time\n\n" + times(options.run),
        "## The generator\n\n" + generator(options.run),
        "## Fidelity\n\n" + fidelity(options.run),
        "## Use for a classifier\n\n" + classifiers(options.run, settings),
    ]
    write_result("Quickstart", __doc__ or "", "\n\n".join(parts), options.output)


def times(run: Path) -> str:
    """Seconds of each stage."""
    seconds = json.loads((run / "seconds.json").read_text())
    rows = [[name, f"{value:.0f}"] for name, value in seconds.items()]
    return table(["stage", "seconds"], [*rows, ["all", f"{sum(seconds.values()):.0f}"]])


def generator(run: Path) -> str:
    """Which one was taken, or the speed and last loss of the one that was trained."""
    if not (run / "generator").exists():
        made_by = read_dataset_info(run / "dataset")["config"]["pipeline"]
        return f"{made_by}, trained before; its card says on what."
    return training(run / "generator")


def training(run: Path) -> str:
    """Speed and last loss of the generator."""
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "loss" in row]
    share = statistics.median(row["overhead_share"] for row in rows if "overhead_share" in row)
    last = statistics.mean(row["loss"] for row in rows[-10:])
    return table(
        ["steps", "loss (mean of the last tenth lines)", "images/s (median)", "share outside forward and backward"],
        [
            [
                rows[-1]["step"],
                f"{last:.4f}",
                f"{statistics.median(r['images_per_second'] for r in rows):.0f}",
                f"{share:.1%}",
            ]
        ],
    )


def fidelity(run: Path) -> str:
    """The measures of each size, with the floor of real images."""
    parts = []
    for result in json.loads((run / "fidelity.json").read_text()):
        rows = [list(map(str, row.values())) for row in result["rows"]]
        parts.append(result["caption"] + "\n\n" + table(["measure", "generated", "real", "best"], rows))
    return "\n\n".join(parts)


def classifiers(run: Path, settings: dict) -> str:
    """Accuracy on real test images, mean and spread over seeds."""
    found: dict[str, list[float]] = {}
    for folder in sorted((run / "classifiers").iterdir()):
        figures = json.loads((folder / "classifier" / "config.json").read_text())["test"]
        found.setdefault(folder.name.rpartition("-")[0].replace("-", " "), []).append(figures["accuracy"])
    rows = [
        [
            name,
            f"{statistics.mean(values):.3f}",
            f"{statistics.stdev(values):.3f}" if len(values) > 1 else "-",
            len(values),
        ]
        for name, values in found.items()
    ]
    about = f"ConvNet of width {settings['classifier_width']}, {settings['classifier_steps']} steps for each."
    return about + "\n\n" + table(["trained on", "accuracy on real test images", "standard deviation", "seeds"], rows)


if __name__ == "__main__":
    main()
