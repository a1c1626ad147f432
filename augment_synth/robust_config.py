"""Settings of robust training. Light (no torch), because `--help` reads it."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from workbench.classification_config import ClassifyTrainConfig
from workbench.config import require

RobustMethod = Literal[
    "erm", "group-dro", "jtt", "subg", "suby", "rwg", "rwy", "dfr", "mixup", "cutmix", "randaugment", "keepaugment",
    "maxup", "shape-texture", "advprop",
]  # fmt: skip


@dataclass(kw_only=True)
class RobustConfig(ClassifyTrainConfig):
    """What robust training adds to a classifier's settings: the mix with synthetic images, and each method's own."""

    normalisation: Literal["batch", "instance"] = "batch"
    """Of the convnet. AdvProp and shape-texture training keep a second set of batch statistics."""
    synthetic_share: float = 0.5
    """Share of each batch that is synthetic, on average, where there are synthetic images."""

    dro_step_size: float = 0.01
    """group-dro: step of the groups' weights."""
    dro_adjustment: float = 0.0
    """group-dro: C of the generalisation adjustment C / sqrt(size of the group)."""
    jtt_identification_steps: int = 200
    """jtt: steps of the first classifier, whose errors weigh more for the second."""
    jtt_upweight: float = 20.0
    """jtt: how much more."""
    dfr_redraws: int = 10
    """dfr: balanced subsets whose linear heads are averaged."""
    mixup_alpha: float = 0.2
    """mixup: shares are drawn from Beta(alpha, alpha)."""
    cutmix_alpha: float = 1.0
    """cutmix: the same."""
    randaugment_operations: int = 2
    """randaugment, and keepaugment that pastes: operations for each image."""
    randaugment_magnitude: int = 9
    """Of 31 steps, as torchvision counts."""
    keep_form: Literal["cut", "paste"] = "cut"
    """keepaugment: erase an unimportant square, or paste an important one back after RandAugment."""
    keep_saliency: str = "gradcam"
    """keepaugment: the explanation that says what is important."""
    keep_side: float = 0.5
    """keepaugment: side of the square, as a share of the image's shorter side."""
    keep_quantile: float = 0.6
    """keepaugment: squares below this quantile of importance are unimportant, those above important."""
    keep_warmup_steps: int = 100
    """keepaugment: steps without it, because the maps of an untrained classifier are noise."""
    maxup_copies: int = 4
    """maxup: random copies of each image, of which the worst is learned from."""
    texture_blend: float = 0.5
    """shape-texture: how far an image takes on the other's texture, from 0 to 1."""
    shape_weight: float = 0.8
    """shape-texture: weight of the shape's class; the texture's class has the rest."""
    stylizer_steps: int = 300
    """shape-texture: training steps of the small autoencoder that mixes them."""
    attack_radius: float = 8 / 255
    """advprop: largest change of a pixel in [0, 1]."""
    attack_steps: int = 1
    """advprop: gradient steps of the attack."""

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        require(
            self,
            "jtt_identification_steps dfr_redraws randaugment_operations maxup_copies stylizer_steps attack_steps",
            lambda value: value >= 1, "1 or more",
        )  # fmt: skip
        require(
            self, "synthetic_share keep_quantile texture_blend shape_weight", lambda value: 0 <= value <= 1, "0 to 1"
        )
        require(self, "keep_side", lambda value: 0 < value <= 1, "more than 0, at most 1")
        require(
            self, "dro_step_size mixup_alpha cutmix_alpha attack_radius jtt_upweight", lambda value: value > 0,
            "more than 0",
        )  # fmt: skip
        require(self, "dro_adjustment keep_warmup_steps", lambda value: value >= 0, "0 or more")
        require(self, "randaugment_magnitude", lambda value: 0 <= value <= 30, "0 to 30")


@dataclass(kw_only=True)
class RobustTrainConfig(RobustConfig):
    """Train a small classifier, by a robust method if one is named.

    workbench classify train --data fashion-mnist --output runs/classifier
    workbench classify train --data REAL --extra-data GENERATED --output runs/both
    workbench classify train --data REAL --extra-data GENERATED --method erm --output runs/mixed
    workbench classify train --data path/to/grouped --method group-dro --group-column place --output runs/robust
    """

    method: RobustMethod | None = None
    """How to train. With a method, --extra-data counts as synthetic: --synthetic-share of each batch."""
    group_column: str | None = None
    """Of a method: a column of attributes, which make groups with the classes. Accuracy is told by group then."""

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        require(self, "group_column", lambda value: value is None or self.method is not None, "none, or a --method")
        require(self, "dry_run", lambda value: not value or self.method is None, "left out with --method")

    def plain(self) -> ClassifyTrainConfig:
        """The settings of a training without a method."""
        return ClassifyTrainConfig(**{field.name: getattr(self, field.name) for field in fields(ClassifyTrainConfig)})

    def robust(self) -> RobustConfig:
        """The settings of a method's training."""
        return RobustConfig(**{field.name: getattr(self, field.name) for field in fields(RobustConfig)})


@dataclass(kw_only=True)
class RobustSettings(RobustConfig):
    """Settings for images in memory: `train_robust` says itself where the run is written and what its data are."""

    output_dir: Path = Path("runs/robust")
    data: str = "images in memory"
