"""Settings of the `segment` recipe. Light (no torch), because `--help` reads it."""

from dataclasses import dataclass

from workbench.config import TrainingConfig, require


@dataclass(kw_only=True)
class SegmentConfig(TrainingConfig):
    """Train a small SAM: from points and boxes to masks, on images whose object masks are known.

    workbench segment train --data scenes --output-dir runs/segmenter
    workbench segment train --data DATA_WITH_MASKS --output-dir runs/segmenter
    workbench segment train --data DATA_WITH_MASKS --init-from zoo:small-sam --output-dir runs/segmenter

    An own small network of segment-anything's classes, trained as Kirillov et al. 2023 (arXiv 2304.02643) train theirs.
    """

    data: str = "scenes"
    """scenes:planted, scenes:shapes, scenes (both), a folder whose metadata.jsonl names each image's mask
    (`mask_file_name` or `mask`), or parquet files or a hub name with the masks' pictures in such a column."""
    max_images: int = 4000
    """Hold at most so many images in memory, chosen at random; of scenes, so many are drawn."""
    random_flip: bool = True
    """Mirror half of the training images."""

    init_from: str | None = None
    """Start from the weights of this small SAM: zoo:small-sam, or the folder of a run. From nothing unless given."""
    resolution: str = "96"
    """Side in pixels of the square in which images are seen, the longer side resized to it."""
    patch_size: int = 8
    """Pixels along a side of the image encoder's patches."""
    encoder_width: int = 128
    encoder_depth: int = 4
    encoder_heads: int = 4
    decoder_width: int = 128
    """Of prompts and of the mask decoder; 8 heads."""

    prompt_rounds: int = 3
    """Predictions for each image and step: after the first, each has a further point where the last one was wrong."""
    box_jitter: float = 0.1
    """Standard deviation of a box's corners, as a share of its sides."""
    focal_weight: float = 20.0
    dice_weight: float = 1.0
    quality_weight: float = 1.0
    """Of the error of the predicted IoU."""

    train_batch_size: int = 32
    max_train_steps: int = 1500
    learning_rate: float = 1e-3
    adam_weight_decay: float = 0.05
    adam_beta2: float = 0.98
    ema_decay: float = 0.999
    validation_images: int = 128
    """Held-out images to measure on; the first eight are shown in samples/."""

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        counts = "max_images patch_size encoder_width encoder_depth encoder_heads decoder_width validation_images"
        require(self, counts, lambda value: value >= 1, "1 or more")
        require(self, "prompt_rounds", lambda value: value >= 2, "2 or more")
        require(self, "box_jitter focal_weight dice_weight quality_weight", lambda value: value >= 0, "0 or more")
        require(self, "encoder_width", lambda value: value % self.encoder_heads == 0, "a multiple of --encoder-heads")
        require(self, "decoder_width", lambda value: value % 16 == 0, "a multiple of 16")
        height, width = self.size
        fits = height == width and height % self.patch_size == 0
        require(self, "resolution", lambda value: fits, "one number, a multiple of --patch-size")
