"""The report of the main job: pictures, curves, tables and provenance on one page."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gen.loading import find_pipeline
from workbench.config import parse_size, to_mapping
from workbench.dataset_format import read_dataset_info
from workbench.datasets import LabelledImages, load_images
from workbench.launch import command_line, versions
from workbench.metrics_log import read_metrics
from workbench.report import Report

if TYPE_CHECKING:
    from ui.quickstart_config import QuickstartConfig

PER_CLASS = 4
PAIRS = 8


def write_report(
    config: QuickstartConfig,
    generator: str,
    dataset: Path,
    measured: Sequence[dict[str, Any]],
    accuracies: dict[str, list[float]],
    seconds: Mapping[str, float],
) -> Path:
    """Write report.html into the output folder; returns its path."""
    report = Report(f"Quickstart: {config.data}")
    real = load_images(config.data, "train", parse_size(config.resolution))
    made = load_images(dataset)
    _summary(report, config, generator, dataset, accuracies)
    _pictures(report, real, made)
    _fidelity(report, measured, made, real)
    _usefulness(report, config, accuracies, real, made)
    _generator(report, config, generator)
    _provenance(report, config, dataset, seconds, real)
    return report.write(config.output / "report.html")


def _summary(
    report: Report, config: QuickstartConfig, generator: str, dataset: Path, accuracies: dict[str, list[float]]
) -> None:
    count = read_dataset_info(dataset)["counts"]["train"]["total"]
    means = {name: statistics.mean(values) for name, values in accuracies.items()}
    told = (
        f"A diffusion transformer was trained on the real images of **{config.data}**"
        if config.source == "train"
        else f"The trained diffusion transformer **{config.source}** was taken"
    )
    report.text(
        f"{told} and generated **{count:,} labelled images** at the sizes {', '.join(config.size)}. They are in "
        f"`{dataset}`, the generator is in `{find_pipeline(generator)}`.\n\n"
        f"A small classifier reaches **{means['real']:.1%}** on real test images when trained on real images, "
        f"**{means['generated']:.1%}** when trained on generated ones only, and **{means['real and generated']:.1%}** "
        "on both together."
    )


def _pictures(report: Report, real: LabelledImages, made: LabelledImages) -> None:
    report.heading("Pictures")
    columns = min(len(real.label_names), 10)
    report.figure(_by_class(real), f"Real training images: {', '.join(real.label_names)}", columns=columns)
    for size in sorted({tuple(image.shape[1:]) for image in made.images}):
        chosen = [k for k, image in enumerate(made.images) if tuple(image.shape[1:]) == size]
        caption = f"Generated at {size[0]}x{size[1]} pixels (the first of each class, not chosen)"
        report.figure(_by_class(made.select(chosen)), caption, columns=columns)


def _by_class(images: LabelledImages) -> list[torch.Tensor]:
    """The first few images of each of the first ten classes, one class a column."""
    chosen = [(images.labels == k).nonzero().flatten()[:PER_CLASS].tolist() for k in range(len(images.label_names))]
    rows = zip_longest(*chosen[:10])
    return [images.images[k] for row in rows for k in row if k is not None]


def _fidelity(report: Report, measured: Sequence[dict[str, Any]], made: LabelledImages, real: LabelledImages) -> None:
    report.heading("How close to real images")
    report.text(
        "The column of real images is the floor: what real training images measure against the same real test images. "
        "Figures of different sizes should not be compared with each other."
    )
    for result in measured:
        report.table(result["rows"], result["caption"])
        for warning in result["warnings"]:
            report.text(warning)
    check = measured[0]["memorisation"]
    if check and check["closest"]:
        pairs = check["closest"][:PAIRS]
        pictures = [
            image for pair in pairs for image in (made.images[pair["generated"]], real.images[pair["training"]])
        ]
        report.figure(pictures, "The generated images closest to a training image, each with that image", columns=8)


def _usefulness(
    report: Report,
    config: QuickstartConfig,
    accuracies: dict[str, list[float]],
    real: LabelledImages,
    made: LabelledImages,
) -> None:
    report.heading("How useful for training a classifier")
    sizes = {"real": len(real), "generated": len(made), "real and generated": len(real) + len(made)}
    rows = [
        {
            "trained on": name,
            "training images": sizes[name],
            "accuracy on real test images": f"{statistics.mean(values):.3f}",
            "spread (standard deviation)": f"{statistics.stdev(values):.3f}" if len(values) > 1 else "-",
            "seeds": len(values),
        }
        for name, values in accuracies.items()
    ]
    report.table(rows, f"ConvNet of width {config.classifier_width}, {config.classifier_steps} steps for each")


def _generator(report: Report, config: QuickstartConfig, generator: str) -> None:
    report.heading("The generator")
    if config.source != "train":
        report.text(
            f"{config.source} was trained before, and may have seen more images than the {config.data} of this job: "
            f"its card, `{find_pipeline(generator) / 'README.md'}`, says which. `workbench quickstart --generator "
            "train` trains one on this job's images alone."
        )
        return
    rows = [row for row in read_metrics(Path(generator).parent / "metrics.jsonl") if "loss" in row]
    report.curve(
        {"loss": [(row["step"], row["loss"]) for row in rows]}, "step", "loss", "Mean squared error of velocity"
    )
    speed = statistics.median(row["images_per_second"] for row in rows)
    text = f"{speed:.0f} images per second (median)."
    if shares := [row["overhead_share"] for row in rows if "overhead_share" in row]:
        text += f" {statistics.median(shares):.1%} of the time was spent outside forward and backward."
    report.text(text)


def _provenance(
    report: Report, config: QuickstartConfig, dataset: Path, seconds: Mapping[str, float], real: LabelledImages
) -> None:
    report.heading("Provenance")
    notes = [*real.notes, *(f"skipped, could not be read: {name}" for name in real.skipped)]
    minutes = sum(seconds.values()) / 60
    report.text(f"Made by `{command_line()}` in {minutes:.1f} minutes on {os.cpu_count()} CPU cores.")
    report.table([{"stage": name, "seconds": f"{value:.0f}"} for name, value in seconds.items()], "Time of each stage")
    if notes:
        report.text("\n".join(f"- {note}" for note in notes))
    report.details("All settings", to_mapping(config))
    report.details("The data set (dataset.json)", read_dataset_info(dataset))
    report.details("Versions", versions())
