"""Settings of `workbench debias`. Light (no torch), because `--help` reads it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from augment_synth.robust_config import RobustMethod
from workbench.config import Device, parse_size, require
from workbench.errors import UserError

KINDS = ("object", "background")


@dataclass(kw_only=True)
class DebiasConfig:
    """Find what a classifier wrongly relies on, edit it away, and train again on images without it.

    workbench debias DATA --classifier runs/classifier --output runs/debias
    workbench debias DATA --classifier runs/classifier --edits background:grass object:ball --output runs/given
    workbench debias DATA --classifier runs/classifier --veto "dog:sled" --output runs/reviewed
    """

    data: Annotated[str, tyro.conf.Positional]
    """A data set's name, an image folder, a parquet file, shards, or a hub name: labelled images."""
    classifier: Annotated[str, tyro.conf.arg(aliases=["--model"])]
    """A trained folder, timm:NAME, transformers:NAME, torchvision:NAME, or MODULE:FUNCTION."""
    output: Path
    """The run's folder: features.json, edits.parquet, pairs/, augmented/, classifiers/, manifest.json, report.html."""
    mode: Literal["default", "paper"] = "default"
    """default: placebo edits, Wilson bounds, early stopping, all edits of what is found. paper: the released formula,
    one edit each, flipped ones alone and at most 35 of a class."""
    edits: list[str] | None = None
    """Try these features only: KIND:PHRASE such as background:grass or object:ball."""
    veto: list[str] = field(default_factory=list)
    """Features to leave out, though found: PHRASE, or LABEL:PHRASE. Use it for parts of the object itself."""
    synonyms: list[str] = field(default_factory=list)
    """Words that mean a label, LABEL=WORD: phrases about them are no features."""

    captioner: str = "auto"
    """auto: the data's own captions, else BLIP where it is on disk. column, a captioner's folder, or a hub name."""
    caption_column: str = "caption"
    """The column of the data set's own captions."""
    extractor: str = "rules"
    """What finds phrases in captions: rules, or the folder or hub name of an instruction model."""
    grounder: str = "pointer"
    """What finds objects: pointer (a small network trained on the captions), none, or a detector's folder or hub name
    such as IDEA-Research/grounding-dino-tiny."""
    segmenter: str = "auto"
    """What cuts out the label's object where the data set has no masks, as in workbench explain."""
    pointer_steps: int = 300
    """Training steps of the pointer."""
    remover: str = "pull-push"
    """What fills the place of an object: pull-push, telea, the run of workbench train inpaint, or diffusers:NAME."""
    swapper: str = "texture"
    """What replaces a background: texture (from other training images), or the folder or hub name of an InstructPix2Pix
    model such as timbrooks/instruct-pix2pix."""

    max_images_per_class: int = 500
    """Correctly classified images of a class that are screened."""
    alternates: int = 3
    """Other backgrounds to try for each one."""
    min_support: int = 20
    """Edits that a feature needs to be judged."""
    min_flip_rate: float = 0.10
    """The lower bound of the flip rate must reach this."""
    placebo_ratio: float = 2.0
    """And the flip rate must be more than so many times that of placebo edits."""
    generator: str = "direct"
    """direct: train on the edits themselves. Or what learns one new word for each class from its edits and then makes
    new images: a trained rpe2d generator of these classes (folder, run or zoo:NAME), or diffusers: and the folder or
    hub name of a Stable Diffusion model."""
    personalisation_steps: int = 500
    """Updates of the new word, all else frozen; of Stable Diffusion, 1000 are usual."""
    num_inference_steps: int = 25
    """Of the generator."""
    guidance_scale: float | None = None
    """1.5 of rpe2d and 7.5 of Stable Diffusion unless given."""
    semantic_filter: str = "auto"
    """Says whether new images show their label: the folder or hub name of a CLIP, none, or auto (CLIP where it is on
    disk, else none)."""
    max_label_change: float = 0.02
    """Leave out edits that change the label's own pixels by more than this share of the range."""

    resolution: str | None = None
    """Size at which images are edited and learned from, a side or HEIGHTxWIDTH; the classifier's own unless given."""
    group_column: str | None = None
    """A column of attributes: groups to measure by, and for methods that need them. Discovery never reads it."""
    method: RobustMethod = "erm"
    """How classifiers are trained, without and with the edits."""
    synthetic_share: float = 0.5
    """Share of each batch that is edits."""
    max_train_steps: int = 600
    train_batch_size: int = 128
    learning_rate: float = 2e-3
    width: int = 32
    """Channels of the trained convnet."""

    batch_size: int = 256
    """Images classified or captioned at once."""
    seed: int = 0
    device: Device = "auto"
    overwrite: bool = False
    """Start anew where the output folder already holds a run."""

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        counts = (
            "pointer_steps max_images_per_class alternates min_support max_train_steps train_batch_size batch_size "
            "width personalisation_steps num_inference_steps"
        )
        require(self, counts, lambda value: value >= 1, "1 or more")
        require(self, "min_flip_rate synthetic_share max_label_change", lambda value: 0 <= value <= 1, "0 to 1")
        require(self, "placebo_ratio", lambda value: value >= 1, "1 or more")
        require(self, "seed", lambda value: value >= 0, "0 or more")
        if self.resolution is not None:
            parse_size(self.resolution)
        self.given_features()
        self.label_synonyms()

    def given_features(self) -> tuple[tuple[str, str], ...] | None:
        """Kind and phrase of each of `edits`."""
        if self.edits is None:
            return None
        pairs = [tuple(part.strip().lower() for part in text.partition(":")[::2]) for text in self.edits]
        for text, (kind, phrase) in zip(self.edits, pairs, strict=True):
            if kind not in KINDS or not phrase:
                raise UserError(f"--edits has {text!r}; write object:PHRASE or background:PHRASE")
        return tuple((kind, phrase) for kind, phrase in pairs)

    def label_synonyms(self) -> dict[str, list[str]]:
        """The words of each label."""
        found: dict[str, list[str]] = {}
        for text in self.synonyms:
            label, _, word = text.partition("=")
            if not label or not word:
                raise UserError(f"--synonyms has {text!r}; write LABEL=WORD")
            found.setdefault(label, []).append(word)
        return found
