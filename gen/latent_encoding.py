"""The pass that fills a latent cache: each image read once, its crops encoded, a shard at a time.

vae = load_vae("vaes/sd-vae-ft-ema", "cuda")
cache = build_cache("cache/", CacheSettings(data="photographs/", size=(256, 256)), vae)

Stopped at any moment, the same call goes on where it was; several processes share the shards.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from accelerate import PartialState
from diffusers import ModelMixin
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from gen.crops import closest_crop, draw_boxes, flip_boxes, resize_and_crop
from gen.latent_cache import (
    FORMAT_VERSION,
    INDEX_NAME,
    CacheSettings,
    LatentCache,
    check_folder,
    data_identity,
    identity,
    read_shard,
    shard_path,
)
from gen.latents import compression_factor, encode, image_channels, latent_channels, normalisation
from workbench import seeds
from workbench.datasets import skip_notes
from workbench.errors import UserError
from workbench.files import make_folder, user_errors_for_disk, write_atomic
from workbench.image_stream import ImageBatch, ImageStream, open_stream
from workbench.progress import progress

CROPS = 4  # stream of randomness


def open_images(settings: CacheSettings, max_pixels: int = 64_000_000) -> ImageStream:
    """The images to encode, unread: as large as the closest crop needs, but no larger than the largest source.

    Raises UserError as `open_stream`.
    """
    height, width = (round(side * settings.crop_max_scale) for side in settings.size)
    return open_stream(
        settings.data, settings.split, (height, width), settings.classes, upscale=False, max_pixels=max_pixels
    )


def build_cache(
    folder: str | Path,
    settings: CacheSettings,
    vae: ModelMixin,
    stream: ImageStream | None = None,
    *,
    batch_size: int = 32,
) -> LatentCache:
    """Encode what is missing on the VAE's device, `batch_size` images at a time, and open the cache.

    `stream`: what `open_images` gave for these settings, where it is open already. All processes of a run call this
    together. Raises UserError where the folder holds anything else, or latents of other images, other settings or
    another VAE; for a size that the VAE cannot take; and as `open_images`.
    """
    settings.check()
    folder, state = Path(folder), PartialState(cpu=vae.device.type == "cpu")
    encoder = _Encoder(settings, vae, stream or open_images(settings))
    with user_errors_for_disk(folder):
        make_folder(folder)
        check_folder(folder, encoder.identity)
        missing = [n for n in range(encoder.num_shards) if not shard_path(folder, n).exists()]
        complete = not missing and (folder / INDEX_NAME).exists()
        state.wait_for_everyone()  # all look before one writes
        if not complete:
            mine = missing[state.process_index :: state.num_processes]
            encoder.write(folder, mine, batch_size, silent=not state.is_main_process)
            state.wait_for_everyone()
            if state.is_main_process:
                _write_index(folder, encoder)
    state.wait_for_everyone()
    return LatentCache.open(folder)


class _Encoder:
    """Encodes the images of a stream, the same whoever encodes them, and when."""

    def __init__(self, settings: CacheSettings, vae: ModelMixin, stream: ImageStream) -> None:
        self.settings, self.vae = settings, vae
        self.stream = replace(stream, form=replace(stream.form, channels=image_channels(vae)))
        self.num_shards = -(-len(stream) // settings.shard_size)
        factor, (height, width) = compression_factor(vae), settings.size
        if height % factor or width % factor:
            raise UserError(f"images of {height}x{width} pixels do not fit the VAE; give multiples of {factor}")
        self.latent_shape = (latent_channels(vae), height // factor, width // factor)
        self.identity = identity(settings, vae) | data_identity(stream.split)
        self.max_scale = closest_crop(stream.size, settings.size, settings.crop_max_scale, settings.crop_max_upsampling)

    def write(self, folder: Path, shards: Sequence[int], batch_size: int, silent: bool) -> None:
        """Write these shards, in one pass over the images."""
        plan = {n: self._batches(n, batch_size) for n in shards}
        batches = [batch for shard in plan.values() for batch in shard]
        reader = self.stream.read(batches)
        total, name = sum(map(len, batches)), f"encoding {Path(self.settings.data).name}"
        with progress(total, name, disable=silent, unit="image") as bar:
            for number, shard in plan.items():
                pieces, skipped = [], []
                for asked, batch in zip(shard, islice(reader, len(shard)), strict=True):
                    pieces.append(self._encode(batch))
                    skipped += batch.failures
                    bar.update(len(asked))
                self._write(shard_path(folder, number), pieces, skipped)

    def _batches(self, shard: int, batch_size: int) -> list[np.ndarray]:
        """Positions of a shard's batches; none reaches into the next shard."""
        start = shard * self.settings.shard_size
        stop = min(start + self.settings.shard_size, len(self.stream))
        return [np.arange(first, min(first + batch_size, stop)) for first in range(start, stop, batch_size)]

    def _encode(self, batch: ImageBatch) -> dict[str, Tensor]:
        """All crops of a batch of images."""
        seed, crops = self.settings.seed, self.settings.crops_per_image
        generators = [seeds.generator(seed, CROPS, int(position)) for position in batch.positions]
        boxes = torch.empty(len(generators), crops, 4)
        flips = torch.empty(len(generators), crops, dtype=torch.bool)
        for row, generator in enumerate(generators):
            boxes[row], flips[row] = self._draw(generator)
        return {
            "latents": self._latents(batch.images, boxes, flips, generators),
            "boxes": flip_boxes(boxes.flatten(0, 1), flips.flatten()).unflatten(0, flips.shape),
            "flips": flips,
            "labels": batch.labels,
            "positions": torch.from_numpy(batch.positions),
        }

    def _latents(
        self,
        images: UInt8[Tensor, "b c ih iw"],
        boxes: Float[Tensor, "b crops 4"],
        flips: Bool[Tensor, "b crops"],
        generators: list[torch.Generator],
    ) -> Float[Tensor, "b crops k h w"]:
        """One crop of each image at a time."""
        settings, device = self.settings, self.vae.device
        latents = torch.empty(*flips.shape, *self.latent_shape, dtype=getattr(torch, settings.dtype))
        images, boxes, flips = images.to(device), boxes.to(device), flips.to(device)
        for crop in range(settings.crops_per_image if generators else 0):
            view = resize_and_crop(images, boxes[:, crop], flips[:, crop], settings.size)
            latents[:, crop] = encode(self.vae, view, generators)
        if not latents.isfinite().all():
            raise UserError(
                f"the VAE gives latents of {settings.data} that {settings.dtype} cannot hold; "
                "choose bfloat16, or another VAE"
            )
        return latents

    def _draw(self, generator: torch.Generator) -> tuple[Float[Tensor, "k 4"], Bool[Tensor, " k"]]:
        """Boxes and flips of one image: all of it once, and so many crops that their share is the one asked for."""
        settings, count = self.settings, self.settings.crops_per_image
        probability = min(1.0, settings.crop_probability * count / max(1, count - 1))
        boxes = draw_boxes(count, probability, self.max_scale, generator)
        boxes[0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
        return boxes, (torch.rand(count, generator=generator) < 0.5) & settings.random_flip

    def _write(self, path: Path, pieces: list[dict[str, Tensor]], skipped: list[tuple[str, str]]) -> None:
        tensors = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
        tensors["moments"] = torch.stack([_moments(piece["latents"]) for piece in pieces]).sum(0)
        about = {"identity": self.identity, "skipped": skipped}  # in one entry: safetensors does not keep an order
        write_atomic(path, safetensors.torch.save(tensors, {"about": json.dumps(about)}))


def _moments(latents: Float[Tensor, "n crops c h w"]) -> Float64[Tensor, "2 c"]:
    """Sums of the values of each channel, and of their squares."""
    values = latents.double()
    return torch.stack([values.sum((0, 1, 3, 4)), values.square().sum((0, 1, 3, 4))])


def _write_index(folder: Path, encoder: _Encoder) -> None:
    counts, skipped, moments = [], [], []
    for number in range(encoder.num_shards):
        tensors, about = read_shard(shard_path(folder, number))
        counts.append(len(tensors["labels"]))
        skipped += [(name, reason) for name, reason in about["skipped"]]
        moments.append(tensors["moments"])
    encoder.stream.tolerate(skipped)
    values = sum(counts) * encoder.settings.crops_per_image * math.prod(encoder.latent_shape[1:])
    index = {
        "format_version": FORMAT_VERSION, "identity": encoder.identity, "vae": _describe(encoder.vae),
        "num_images": sum(counts), "counts": counts, "latent_shape": list(encoder.latent_shape),
        **_statistics(torch.stack(moments).sum(0) / values),
        "notes": [*encoder.stream.split.notes, *skip_notes(skipped)], "skipped": skipped,
    }  # fmt: skip
    write_atomic(folder / INDEX_NAME, json.dumps(index, indent=2) + "\n")


def _describe(vae: ModelMixin) -> dict[str, Any]:
    shift, scale = (value.flatten().tolist() for value in normalisation(vae))
    return {"class": type(vae).__name__, "name": vae.config.get("_name_or_path"), "shift": shift, "scale": scale}


def _statistics(means: Float64[Tensor, "2 c"]) -> dict[str, Any]:
    """Mean and standard deviation of each channel of the latents, and of all together, from the means of x and x^2."""
    mean, square = means
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    std = (square.mean() - mean.mean().square()).clamp(min=0).sqrt()
    return {"channel_mean": mean.tolist(), "channel_std": deviation.tolist(), "std": std.item()}
