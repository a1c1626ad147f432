"""`workbench explain`: what a classifier looks at in pictures, by several methods, with figures and a page."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from ui.explain_vale import VALE, ValeOptions, open_vale
from workbench.command import parse, polite
from workbench.config import Device, require, to_mapping
from workbench.errors import UserError

if TYPE_CHECKING:
    from explain.vale import ValeExplanation
    from workbench.image_sources import ImageSource
    from workbench.pixel_classifier import PixelClassifier

OPTIONS = ("budget", "explainer", "layer", "num_masks", "num_steps", "seed")  # what methods are told
RESULT, PAGE = "explanation.json", "report.html"
FREE = ("image", "output", "device", "overwrite", "max_image_pixels", "num_images", "batch_size")  # changes no map
Fill = Literal["black", "blur", "mean"]


@dataclass(kw_only=True)
class ExplainConfig(ValeOptions):
    """Show what a classifier looks at in pictures, by one or several methods, and measure how far to trust each map.

    workbench explain photo.jpg --classifier runs/classifier --method gradcam,rise --target top5 --output out
    workbench explain demo-photographs --classifier efficientnet-lite0 --method gradcam,rise,centre --output out
    workbench explain photo.jpg --classifier SPEC --method ttame --explainer runs/ttame --output out
    workbench explain photo.jpg --classifier SPEC --method vale --why-not dog --output out

    Methods: ttame (trained by `workbench train ttame`), gradcam, gradcam++, hirescam, layercam, scorecam, ablationcam,
    eigencam, rise, occlusion, ig, gradientshap, lrp, rollout, shap; the controls random, centre, edges, uniform; and
    vale, which cuts out the region that carries the class, verifies it and puts it into words.

    Writes METHOD-CLASS.npy (values in [0, 1] at the image's size; of vale signed), .png, the image with the brightest
    part alone and without it, explanation.json and report.html, and of vale vale.json and the region's pictures; of
    several pictures, in a folder for each, and the same command goes on where it was.
    """

    image: tyro.conf.Positional[str]
    """A picture, a folder of pictures, or any data set that `--data` of other commands takes."""
    classifier: Annotated[str, tyro.conf.arg(aliases=["--model"])]
    """A trained folder, timm:NAME, transformers:NAME, torchvision:NAME, efficientnet-lite0, or MODULE:FUNCTION."""
    output: Path
    """The folder of the results."""
    method: str = "gradcam,rise"
    """Names with commas between."""
    target: str = "top1"
    """top1, top5, or class names or numbers with commas between."""
    explainer: Path | None = None
    """A trained module of this classifier, for ttame."""
    layer: str | None = None
    """Where class activation maps are taken; the deepest that is a map over the image, unless given."""
    num_masks: int = 1000
    """Of rise: forward passes for each picture."""
    num_steps: int = 32
    """Of integrated gradients."""
    keep: float = 0.15
    """Share of the pixels that counts as a map's brightest part, to be seen alone and removed."""
    fill: Fill = "mean"
    """What takes the place of pixels in these views: the image's mean colour, black, or the image blurred."""
    measure_with: list[Fill] = field(default_factory=lambda: ["blur"])
    """What takes the place of pixels in deletion and insertion; each costs as much again."""
    num_images: int | None = None
    """Only the first so many pictures of a folder."""
    split: str | None = None
    """Of a data set: test where there is one, unless given."""
    batch_size: int = 64
    """Perturbed copies that the classifier sees at a time."""
    max_image_pixels: int = 64_000_000
    """Refuse files with more pixels than this: they may be decompression bombs."""
    seed: int = 0
    device: Device = "auto"
    overwrite: bool = False
    """Replace the results that the output folder holds."""

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        require(self, "num_masks num_steps batch_size", lambda value: value >= 1, "1 or more")
        require(self, "num_images", lambda value: value is None or value >= 1, "1 or more")
        require(self, "keep", lambda value: 0 < value < 1, "a share between 0 and 1")
        require(self, "seed", lambda value: value >= 0, "0 or more")
        self.check_vale()


class Picture(NamedTuple):
    """What to explain, and the folder of its results."""

    name: str
    output: Path
    number: int  # in its data set


def explain(arguments: Sequence[str] | None = None, program: str = "workbench explain") -> None:
    """Read the settings and explain; exits with 2 after a mistake."""
    with polite():
        config = parse(ExplainConfig, arguments, program)
        print(f"Done. Open the report: {explain_all(config)}")


def explain_all(config: ExplainConfig, classifier: PixelClassifier | None = None) -> Path:
    """Explain all pictures that are not explained yet, and write the page; returns its path.

    `classifier` is `config.classifier` where that is open already. Raises UserError for settings that cannot work,
    pictures or a classifier that cannot be had, and an output folder that holds something else.
    """
    config.check()
    from explain.saliency import check_methods

    check_methods(_map_methods(config), _options(config))
    pictures, source = find_pictures(config)
    _check_output(config, pictures)
    settings = {key: value for key, value in to_mapping(config).items() if key not in FREE}
    left = [picture for picture in pictures if not _finished(picture, settings, config.overwrite)]
    page = config.output / PAGE
    if not left and page.exists() and not config.overwrite:
        raise UserError(f"{config.output} has all explanations already; give --overwrite to make them anew")
    from workbench.classifiers import load_classifier
    from workbench.devices import choose_device
    from workbench.files import user_errors_for_disk
    from workbench.progress import progress

    device = choose_device(config.device)
    classifier = classifier or load_classifier(config.classifier, device)
    vale = None
    if left and VALE in words(config.method):
        vale = open_vale(config, classifier, str(device), config.seed)
    with (
        user_errors_for_disk(config.output),
        progress(len(left), "explaining", disable=len(pictures) == 1 and vale is None, unit="picture") as bar,
    ):
        tell = None if vale is None else partial(vale.explain, why_not=config.why_not, report=bar.set_postfix_str)
        for picture in left:
            _explain_picture(config, picture, source, classifier, settings, tell)
            bar.update()
        return _write_page(config, [picture.output for picture in pictures], classifier, settings)


def words(text: str) -> list[str]:
    """What stands between commas; UserError for nothing."""
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise UserError(f"{text!r} names nothing; give names with commas between, such as gradcam,rise")
    return found


def _map_methods(config: ExplainConfig) -> list[str]:
    return [name for name in words(config.method) if name != VALE]


def _options(config: ExplainConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in OPTIONS if getattr(config, name) is not None}


# ---- pictures --------------------------------------------------------------------------------------------------------


def find_pictures(config: ExplainConfig) -> tuple[list[Picture], ImageSource]:
    """The pictures to explain, and what reads them. Raises UserError where there are none."""
    import numpy as np

    from workbench.datasets import available_splits, open_split
    from workbench.image_folders import is_image
    from workbench.image_sources import EncodedImages

    path = Path(config.image).expanduser()
    if path.is_file() and is_image(path):
        source = EncodedImages([path.name], np.array([-1]), (), lambda positions: [path])
        return [Picture(path.stem, config.output, 0)], source
    splits = available_splits(config.image)
    opened = open_split(config.image, config.split or ("test" if "test" in splits else splits[0]))
    positions = opened.positions.tolist()
    names = _folder_names(opened.source.file_names(opened.positions) or [f"image-{number:05d}" for number in positions])
    pictures = [Picture(name, config.output / name, number) for name, number in zip(names, positions, strict=True)]
    return pictures[: config.num_images], opened.source


def _folder_names(files: Sequence[str]) -> list[str]:
    """A folder name for each file: without its ending, unless two would share it."""
    whole = [name.replace("/", "-").replace("\\", "-") for name in files]
    short = [name.rpartition(".")[0] or name for name in whole]
    counts = Counter(short)
    return [stem if counts[stem] == 1 else name for name, stem in zip(whole, short, strict=True)]


def _check_output(config: ExplainConfig, pictures: Sequence[Picture]) -> None:
    """Raise UserError where the folder for several pictures holds the files of one."""
    result, own = config.output / RESULT, config.output in [picture.output for picture in pictures]
    if not own and result.is_file() and "findings" in json.loads(result.read_text()):
        raise UserError(f"{config.output} holds the explanation of one picture; choose another --output for several")


def _finished(picture: Picture, settings: dict[str, Any], overwrite: bool) -> bool:
    """Whether the explanations are there; UserError where the folder holds something else."""
    if not picture.output.exists() or (picture.output.is_dir() and not any(picture.output.iterdir())):
        return False
    result = picture.output / RESULT
    if not result.is_file():
        raise UserError(f"{picture.output} holds files that are no explanations; choose another --output")
    stored = json.loads(result.read_text())["settings"]
    if stored != settings and not overwrite:
        changed = ", ".join(key for key in settings if stored.get(key) != settings[key])
        raise UserError(
            f"{picture.output} holds explanations of other settings ({changed}); give --overwrite to replace them"
        )
    return not overwrite


def _explain_picture(
    config: ExplainConfig,
    picture: Picture,
    source: ImageSource,
    classifier: PixelClassifier,
    settings: dict[str, Any],
    tell: Callable[..., ValeExplanation] | None,
) -> None:
    """All files of one picture, beside and renamed."""
    import shutil

    import numpy as np

    from explain.explanation import Settings, explain_image, write_explanation
    from explain.vale_files import write_vale
    from workbench.files import partial_folder, publish_folder
    from workbench.image_files import PixelForm
    from workbench.launch import command_line, versions

    decoded = source.pixels(np.array([picture.number]), PixelForm(max_pixels=config.max_image_pixels))
    how = Settings(config.keep, config.fill, tuple(config.measure_with), config.batch_size, _options(config))
    name_or_rank = config.target in classifier.label_names or re.fullmatch(r"top\d+", config.target)
    targets = config.target if name_or_rank else words(config.target)  # names may have commas in them
    image = decoded.images[0]
    explanation = explain_image(classifier, image, _map_methods(config), targets, how, picture.name)
    story = None if tell is None else tell(image, targets, name=picture.name)
    record = {
        "classifier": config.classifier, "fingerprint": classifier.fingerprint(), "settings": settings,
        "command": command_line(), "versions": versions(),
    }  # fmt: skip
    partial = partial_folder(picture.output)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if story is not None:
        write_vale(story, partial, record)
    write_explanation(explanation, partial, record)
    publish_folder(partial, picture.output)


# ---- the page --------------------------------------------------------------------------------------------------------


def _write_page(
    config: ExplainConfig, folders: Sequence[Path], classifier: PixelClassifier, settings: dict[str, Any]
) -> Path:
    """The page, and of several pictures what they have in common as JSON."""
    from explain.report import add_explanation, add_overview, overview
    from explain.vale_page import READING as VALE_READING
    from explain.vale_page import add_vale
    from workbench.files import write_atomic
    from workbench.launch import command_line, versions
    from workbench.report import Report

    if config.output not in folders:
        summary = {"settings": settings, "pictures": [folder.name for folder in folders], "methods": overview(folders)}
        write_atomic(config.output / RESULT, json.dumps(summary, indent=1) + "\n")
    report = Report(f"What {config.classifier} looks at")
    vale = VALE in words(config.method)
    if _map_methods(config):
        add_overview(report, folders)
    if vale:
        report.text(VALE_READING)
    for folder in folders:
        add_explanation(report, folder)
        if vale:
            add_vale(report, folder)
    provenance = {"settings": to_mapping(config), "fingerprint": classifier.fingerprint(), "versions": versions()}
    report.heading("Provenance").text(f"`{command_line()}`").details("Settings and versions", provenance)
    return report.write(config.output / PAGE, overwrite=True)
