"""What a training step learns from: crops of images, as pixels in [-1, 1] or as latents of a VAE.

Both kinds know their labels, their captions' tokens and the `shape` of a clean example, draw what is random of a batch,
and give its clean examples with their boxes.
"""

from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from diffusers import ModelMixin
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from gen.crops import closest_crop, draw_boxes, flip_boxes, resize_and_crop
from gen.latent_cache import CacheSettings, LatentCache, check_folder, data_identity, identity, remove_latents
from gen.latent_encoding import build_cache, open_images
from gen.latents import compression_factor, latent_channels, load_vae
from gen.rpe2d.config import RPE2DConfig
from workbench import seeds
from workbench.datasets import LabelledImages, load_images, require_classes
from workbench.errors import UserError
from workbench.recipe import Draws

CROP = 1  # stream of randomness

Tokens = tuple[tuple[str, ...], ...] | None
Batch = tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 4"]]  # clean examples and their boxes


@runtime_checkable
class Examples(Protocol):
    """Training images in one form or another."""

    name: str
    label_names: tuple[str, ...]
    labels: Int64[Tensor, " n"]  # -1: none
    tokens: Tokens  # of each image's caption
    kept: Int64[Tensor, " m"]  # the images that can be learned from, of those that labels and tokens count
    notes: tuple[str, ...]
    shape: tuple[int, int, int]  # channels, height, width of a clean example
    vae: ModelMixin | None

    def __len__(self) -> int:
        """Number of images that can be learned from."""

    def to(self, device: torch.device) -> None:
        """Get ready to give examples to a model on this device; all processes call it."""

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """What is random in a batch: crops and flips."""

    def __call__(self, indices: Int64[Tensor, " b"], draws: Draws) -> Batch:
        """Clean examples of these images, and their boxes."""


def open_examples(config: RPE2DConfig) -> Examples:
    """The training images that the settings name. Raises UserError where they cannot be learned from."""
    return PixelExamples(config) if config.vae is None else LatentExamples(config)


class PixelExamples:
    """A split's images as uint8 pixels beside the model: they are small, and then no step waits for a copy."""

    vae = None

    def __init__(self, config: RPE2DConfig) -> None:
        self.config = config
        # Enough pixels for the closest crop, but never more than the sources have.
        height, width = (round(side * config.crop_max_scale) for side in config.size)
        data = load_images(
            config.data,
            "train",
            (height, width),
            config.classes,
            upscale=False,
            max_pixels=config.max_image_pixels,
            caption_column=config.caption_column,
        )
        assert isinstance(data.images, Tensor)  # one size was asked for
        self.images: UInt8[Tensor, "n c sh sw"] = data.images
        self.name, self.label_names, self.labels = data.name, data.label_names, data.labels
        self.tokens, self.notes = data.tokens, data.notes
        self.kept = torch.arange(len(self.images))
        self.shape = (self.images.shape[1], *config.size)
        check_labels(self)
        self._check_size()

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> None:
        """Move the images."""
        self.images = self.images.to(device)

    @property
    def max_scale(self) -> float:
        """Of the closest crop."""
        stored = (self.images.shape[-2], self.images.shape[-1])
        return closest_crop(stored, self.config.size, self.config.crop_max_scale, self.config.crop_max_upsampling)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """A crop and a flip for each image; the box is that of the picture before the flip."""
        boxes = draw_boxes(batch_size, self.config.crop_probability, self.max_scale, generator)
        flip = torch.rand(batch_size, generator=generator, device=generator.device)
        return {"box": boxes, "flip": (flip < 0.5) & self.config.random_flip}

    def __call__(self, indices: Int64[Tensor, " b"], draws: Draws) -> Batch:
        """The drawn crops of these images, and their boxes."""
        chosen = self.images[indices.to(self.images.device)]
        clean = resize_and_crop(chosen, draws["box"], draws["flip"], self.config.size)
        return clean, flip_boxes(draws["box"], draws["flip"])

    def _check_size(self) -> None:
        height, width = self.images.shape[-2:]
        if min(height, width) < self.config.patch_size:
            raise UserError(
                f"the images of {self.name} are at most {height}x{width} pixels, less than a patch of "
                f"{self.config.patch_size}; give larger images, or a smaller --patch-size"
            )


class LatentExamples:
    """Latents of a few crops of each image, encoded once before training and read where they lie on disk."""

    def __init__(self, config: RPE2DConfig) -> None:
        assert config.vae is not None
        self.settings = cache_settings(config)
        self.stream = stream = open_images(self.settings, config.max_image_pixels)
        self.vae = load_vae(config.vae)
        factor = compression_factor(self.vae)
        config.check_patches(factor)
        self.shape = (latent_channels(self.vae), config.size[0] // factor, config.size[1] // factor)
        self.name, self.label_names, self.notes = str(config.data), stream.split.label_names, stream.split.notes
        self.labels = torch.from_numpy(stream.split.labels)
        self.tokens = stream.split.tokens(config.caption_column) if config.caption_column else None
        self.kept = torch.arange(len(stream))  # of the images, those that could be read
        check_labels(self)
        self._look(config)

    def __len__(self) -> int:
        return len(self.kept)

    def to(self, device: torch.device) -> None:
        """Encode what is not encoded yet."""
        self.device = device
        self.vae.to(device)
        if self.outdated:
            remove_latents(self.folder)
        self.cache: LatentCache = build_cache(self.folder, self.settings, self.vae, self.stream)
        self.kept, self.notes = self.cache.positions, self.cache.notes

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Which of its crops each image shows: on the CPU, where they are read, so that no step waits for a device."""
        on_cpu = seeds.generator(generator.initial_seed(), CROP)
        return {"crop": torch.randint(self.settings.crops_per_image, (batch_size,), generator=on_cpu)}

    def __call__(self, indices: Int64[Tensor, " b"], draws: Draws) -> Batch:
        """The drawn crops of these images, and their boxes, on the model's device."""
        latents, boxes, _ = self.cache.read(indices, draws["crop"])
        return latents.to(self.device, non_blocking=True), boxes.to(self.device, non_blocking=True)

    def _look(self, config: RPE2DConfig) -> None:
        """Refuse a folder of other latents before anything is written; a run's own are outdated by `overwrite`."""
        self.folder = config.latent_cache or Path(config.output_dir) / "latents"
        self.outdated = False
        try:
            check_folder(self.folder, identity(self.settings, self.vae) | data_identity(self.stream.split))
        except UserError:
            self.outdated = config.overwrite and config.latent_cache is None
            if not self.outdated:
                raise


def cache_settings(config: RPE2DConfig) -> CacheSettings:
    """What a run's latents are made by; not its seed, so that runs of several seeds share them."""
    return CacheSettings(
        data=str(config.data), classes=config.classes, size=config.size, crops_per_image=config.crops_per_image,
        crop_probability=config.crop_probability, crop_max_scale=config.crop_max_scale,
        crop_max_upsampling=config.crop_max_upsampling, random_flip=config.random_flip,
    )  # fmt: skip


def check_labels(examples: Examples) -> None:
    """Raise UserError unless there is no label at all, or two classes of two images."""
    if examples.label_names:
        known = examples.labels[examples.labels >= 0]
        require_classes(LabelledImages([], known, examples.label_names, examples.name))
