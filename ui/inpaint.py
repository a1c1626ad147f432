"""`workbench inpaint`: several completions of each picture, its known pixels untouched."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import tyro

from workbench.command import parse, polite
from workbench.config import Device, to_mapping
from workbench.errors import UserError

if TYPE_CHECKING:
    from gen.inpaint.baselines import Inpainter
    from gen.inpaint.completion import Completions
    from gen.inpaint.sampler import OnRow

RESULT = "variants.json"
DIVERSE = ("num_candidates", "temperature", "top_p", "mode", "like", "keep")  # what only our own pipeline knows
FREE = ("image", "mask", "output", "device", "overwrite", "max_image_pixels")  # changes no picture


@dataclass(kw_only=True)
class InpaintCommandConfig:
    """Fill the holes of pictures of any size, each in several ways; known pixels stay as they are, to the bit.

    workbench inpaint photo.jpg --mask mask.png --output filled
    workbench inpaint photographs --mask masks --num-variants 4 --output filled

    Writes variant-00.png and so on, the structures that they were painted over, and variants.json; of a folder of
    pictures, in a folder for each, and the same command goes on where it was. Variant k depends on seed + k alone.
    """

    image: tyro.conf.Positional[Path]
    """A picture, or a folder of pictures."""
    mask: Path
    """White where to fill, black where pixels are known: one for all pictures, or a folder of masks of their names."""
    output: Path
    """The folder of the results."""
    pipeline: str = "zoo:fashion-inpaint"
    """A trained run of inpaint, its pipeline folder or zoo:NAME; for comparison another generator of ours, a run of
    inpaint-texture --single-stage, telea, or diffusers:NAME."""
    num_variants: int = 6
    """Completions of each picture."""
    num_candidates: int | None = None
    """Draw so many, and keep likely ones that differ from each other."""
    temperature: float = 1.0
    """Of the draws of structures: less is likelier and less varied."""
    top_p: float = 1.0
    """Draw only from the likeliest tokens that together have this probability."""
    mode: Literal["all", "fast"] = "all"
    """fast: take the structure far from the hole from the picture, where the model can."""
    like: Path | None = None
    """An earlier variants.json of this picture and mask: more like one of its variants."""
    like_variant: int = 0
    """The number of that variant."""
    keep: float = 0.5
    """Share of its structure in the hole to keep, from the top."""
    invert_mask: bool = False
    """Black is where to fill."""
    max_image_pixels: int = 64_000_000
    """Refuse files with more pixels than this: they may be decompression bombs."""
    seed: int = 0
    device: Device = "auto"
    overwrite: bool = False
    """Replace the results that the output folder holds."""


class Job(NamedTuple):
    """One picture, its mask, and the folder of its results."""

    image: Path
    mask: Path
    output: Path


def inpaint(arguments: Sequence[str] | None = None, program: str = "workbench inpaint") -> None:
    """Read the settings and fill; exits with 2 after a mistake."""
    with polite():
        config = parse(InpaintCommandConfig, arguments, program)
        for note in fill(config):
            print(f"note: {note}", file=sys.stderr)
        print(f"Done. The completions are in {config.output}")


def fill(config: InpaintCommandConfig, inpainter: Inpainter | None = None, on_row: OnRow | None = None) -> list[str]:
    """Fill all pictures that are not filled yet; returns what a person should know of them, each thing once.

    `inpainter` is `config.pipeline` where that is open already; `on_row` is told of each row that a diverse one has
    drawn, and may raise to stop. Raises UserError for settings that cannot work, a picture or mask that is missing or
    cannot be used, and an output folder that holds something else.
    """
    jobs = plan(config)
    settings = {key: value for key, value in to_mapping(config).items() if key not in FREE}
    left = [job for job in jobs if not _finished(job, settings, config)]
    if not left:
        raise UserError(f"{config.output} has all completions already; give --overwrite to make them anew")
    from diffusers import DiffusionPipeline

    from gen.inpaint.baselines import open_inpainter
    from workbench.devices import choose_device
    from workbench.files import user_errors_for_disk
    from workbench.progress import progress

    inpainter = inpainter or open_inpainter(config.pipeline, str(choose_device(config.device)))
    if isinstance(inpainter, DiffusionPipeline):
        inpainter.set_progress_bar_config(disable=len(left) > 1 or not sys.stderr.isatty())
    options = _options(config, inpainter, on_row)
    with (
        user_errors_for_disk(config.output),
        progress(len(left), "filling", disable=len(jobs) == 1, unit="picture") as bar,
    ):
        notes: dict[str, None] = {}
        for job in left:
            began = time.perf_counter()
            completions = inpainter(job.image, job.mask, **options)
            _write(job, completions, config, settings, time.perf_counter() - began)
            notes |= dict.fromkeys(completions.notes)
            bar.update()
    return list(notes)


def plan(config: InpaintCommandConfig) -> list[Job]:
    """Which pictures to fill, with which masks. Raises UserError where one is missing."""
    if not config.image.is_dir():
        return [Job(config.image, config.mask, config.output)]
    from workbench.image_files import EXTENSIONS

    def pictures(folder: Path) -> list[Path]:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)

    masks = {path.stem: path for path in pictures(config.mask)} if config.mask.is_dir() else None
    jobs = []
    for image in pictures(config.image):
        mask = config.mask if masks is None else masks.get(image.stem)
        if mask is None:
            raise UserError(
                f"{config.mask} holds no mask named {image.stem}; add it, or give one mask for all pictures"
            )
        jobs.append(Job(image, mask, config.output / image.stem))
    if not jobs:
        raise UserError(f"{config.image} holds no pictures; give a picture, or a folder of some")
    if config.like:
        raise UserError("--like is for one picture; give that instead of a folder")
    return jobs


def _finished(job: Job, settings: dict[str, Any], config: InpaintCommandConfig) -> bool:
    """Whether these completions are there; UserError where the folder holds something else."""
    if not job.output.exists() or (job.output.is_dir() and not any(job.output.iterdir())):
        return False
    result = job.output / RESULT
    if not result.is_file():
        raise UserError(f"{job.output} holds files that are no completions; choose another --output")
    stored = json.loads(result.read_text())["settings"]
    if stored != settings and not config.overwrite:
        changed = ", ".join(key for key in settings if stored.get(key) != settings[key])
        raise UserError(
            f"{job.output} holds completions of other settings ({changed}); give --overwrite to replace them"
        )
    return not config.overwrite


def _options(config: InpaintCommandConfig, inpainter: Inpainter, on_row: OnRow | None) -> dict[str, Any]:
    """What the inpainter is called with. Raises UserError for what it does not know."""
    shared = ("num_variants", "seed", "invert_mask", "max_image_pixels")
    options = {name: getattr(config, name) for name in shared}
    if type(inpainter).__name__ == "DiverseInpaintPipeline":
        told = {name: getattr(config, name) for name in DIVERSE}
        return options | told | {"like": _liked(config), "on_row": on_row}
    defaults = {f.name: f.default for f in fields(config)}
    for name in DIVERSE:
        if getattr(config, name) != defaults[name]:
            raise UserError(
                f"--{name.replace('_', '-')} is for pipelines of diverse inpainting, and {config.pipeline} is none; "
                "leave it out"
            )
    return options


def _liked(config: InpaintCommandConfig) -> list[Any] | None:
    """The tokens of the variant that more are wanted of."""
    if config.like is None:
        return None
    import torch

    try:
        variants = json.loads(config.like.read_text())["variants"]
        return [torch.tensor(region) for region in variants[config.like_variant]["tokens"]]
    except (OSError, ValueError, LookupError) as error:
        raise UserError(
            f"{config.like} has no variant {config.like_variant} with tokens ({error}); give a variants.json of this "
            "command, and a number of one of its variants"
        ) from error


def _write(
    job: Job, completions: Completions, config: InpaintCommandConfig, settings: dict[str, Any], seconds: float
) -> None:
    """All files of one picture, beside and renamed."""
    import shutil

    from workbench.files import partial_folder, publish_folder

    partial = partial_folder(job.output)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for kind, images in (("variant", completions.images), ("structure", completions.structures)):
        for number, image in enumerate(images):
            image.save(partial / f"{kind}-{number:02d}.png")
    record = _record(job, completions, config, settings) | {"seconds": round(seconds, 3)}
    (partial / RESULT).write_text(json.dumps(record, indent=1))
    publish_folder(partial, job.output)


def _record(
    job: Job, completions: Completions, config: InpaintCommandConfig, settings: dict[str, Any]
) -> dict[str, Any]:
    """What variants.json says."""
    from workbench.launch import command_line, versions

    variants: list[dict[str, Any]] = []
    for number, seed in enumerate(completions.seeds):
        variant: dict[str, Any] = {"file": f"variant-{number:02d}.png", "seed": seed}
        if completions.log_likelihoods:
            variant["structure"] = f"structure-{number:02d}.png"
            variant["log_likelihood"] = completions.log_likelihoods[number]
            variant["tokens"] = [region.tolist() for region in completions.tokens[number]]
        variants.append(variant)
    width, height = completions.images[0].size
    return {
        "image": job.image.name, "mask": job.mask.name, "height": height, "width": width,
        "selected_from": config.num_candidates, "boxes": [list(box) for box in completions.boxes],
        "notes": completions.notes, "settings": settings, "generator": _checksum(config.pipeline), "variants": variants,
        "command": command_line(), "versions": versions(),
    }  # fmt: skip


def _checksum(pipeline: str) -> str | None:
    """Of the weights, where they are ours and in a pipeline's folder."""
    from gen.loading import find_pipeline, pipeline_checksum

    try:
        find_pipeline(pipeline)
    except UserError:
        return None
    return pipeline_checksum(pipeline)
