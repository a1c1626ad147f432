"""Settings of the `caption` recipe. Light (no torch), because `--help` reads it."""

from dataclasses import dataclass
from typing import Literal

from workbench.config import TrainingConfig, require
from workbench.errors import UserError

SCENES = "scenes:planted"


@dataclass(kw_only=True)
class CaptionConfig(TrainingConfig):
    """Train a small captioner: it says in words what a picture shows, in the words of the captions it learned from.

    workbench caption train --data scenes:planted --output-dir runs/captioner
    workbench caption train --data path/to/captioned --caption-column text --resolution 96 --output-dir runs/mine
    workbench caption train --data path/to/captioned --init-from zoo:small-captioner --output-dir runs/mine

    The data: any set with captions (metadata.jsonl, parquet, hub), or scenes:planted, made scenes with exact captions.
    """

    data: str = SCENES
    """Captioned pictures: a folder with metadata.jsonl, a parquet file, a hub name, or scenes:planted."""
    caption_column: str = "caption"
    """The column that holds each picture's caption."""
    resolution: str = "64"
    """Side of the pictures in pixels, or HEIGHTxWIDTH; whole multiples of the patch."""
    max_images: int = 8_000
    """Hold at most so many pictures in memory, chosen at random; of scenes, make so many."""
    random_flip: bool = False
    """Mirror half of the pictures: not where captions say left and right."""
    random_shift: int = 4
    """Move pictures by up to so many pixels; 0 for not at all."""

    init_from: str | None = None
    """Start from the weights of this captioner: zoo:small-captioner, or the folder of a run. Words that it has not seen
    begin as noise, and those that the captions here lack are left out."""
    max_words: int = 24
    """Longer captions are cut."""
    vocabulary_size: int = 4_000
    """At most so many words."""
    min_count: int = 2
    """A word of fewer captions is unknown."""
    patch_size: int = 8
    hidden_size: int = 128
    num_attention_heads: int = 4
    num_encoder_layers: int = 4
    num_decoder_layers: int = 2

    train_batch_size: int = 64
    max_train_steps: int = 1500
    optimizer: Literal["adamw", "muon", "sgd"] = "muon"
    """muon trains the matrices of the blocks: on scenes 80 steps did what took AdamW 125, at the same time a step."""
    learning_rate: float = 1e-3
    adam_beta2: float = 0.98
    adam_weight_decay: float = 0.05
    ema_decay: float = 0.998
    validation_images: int = 256
    """Held-out pictures to measure on."""
    validation_steps: int = 500
    """Measure every so many steps; 0 for only at the end."""

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        counts = (
            "max_images max_words vocabulary_size min_count patch_size hidden_size num_attention_heads "
            "num_encoder_layers num_decoder_layers validation_images"
        )
        require(self, counts, lambda value: value >= 1, "1 or more")
        require(self, "random_shift", lambda value: value >= 0, "0 or more")
        require(self, "hidden_size", lambda value: value % self.num_attention_heads == 0, "a multiple of the heads")
        if any(side % self.patch_size for side in self.size):
            raise UserError(f"--resolution is {self.resolution}; give whole multiples of the patch, {self.patch_size}")
