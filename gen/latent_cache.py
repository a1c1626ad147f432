"""Latents of an image set on disk: some crops of each image, encoded once, read where they lie.

cache = LatentCache.open("cache/")
latents, boxes, labels = cache.read(indices, crops)

FOLDER/index.json                    counts, settings, the VAE's checksum, label names, statistics; written last
FOLDER/shard-00000.safetensors ...   latents (n, K, c, h, w), boxes (n, K, 4), flips (n, K), labels (n,), positions (n,)

A box is (top, left, height, width) in fractions of the image as the latent shows it: mirrored where `flips` says so.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import ModelMixin
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gen.latents import checksum
from workbench.config import require
from workbench.dataset_format import difference
from workbench.datasets import OpenSplit
from workbench.errors import UserError

FORMAT_VERSION = 1
INDEX_NAME = "index.json"
SHARDS = "shard-*.safetensors"
SHARD_TENSORS = ("latents", "boxes", "labels", "positions", "moments")  # those that are read
USUAL_STD = (0.5, 2.0)

_MEND = "delete it and encode the data again: all other shards are kept"


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """What, besides the VAE, decides the content of a cache."""

    data: str
    split: str = "train"
    classes: Sequence[str] | None = None
    size: tuple[int, int]  # height, width of a crop in pixels
    crops_per_image: int = 4
    crop_probability: float = 0.5  # share of crops that are not the whole image
    crop_max_scale: float = 2.0
    crop_max_upsampling: float = 1.25
    random_flip: bool = False
    seed: int = 0
    dtype: Literal["float16", "bfloat16"] = "float16"
    shard_size: int = 2048  # images

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        require(self, "crops_per_image shard_size", lambda value: value >= 1, "1 or more")
        require(self, "crop_max_scale crop_max_upsampling", lambda value: value >= 1, "1 or more")
        require(self, "crop_probability", lambda value: 0 <= value <= 1, "a share from 0 to 1")


def identity(settings: CacheSettings | None, vae: ModelMixin | None) -> dict[str, Any]:
    """What two caches of these settings and this VAE have in common, as JSON gives it back."""
    known = {} if settings is None else asdict(settings)
    if vae is not None:
        known["vae_checksum"] = checksum(vae)
    return dict(json.loads(json.dumps(known)))


def data_identity(split: OpenSplit) -> dict[str, Any]:
    """What tells the images of one split from those of another, unread: their number, labels and file names."""
    names = split.source.file_names(split.positions)
    listing = json.dumps([names, split.labels.tolist()]).encode()
    checksum_of_listing = hashlib.sha256(listing).hexdigest()
    return {"images": len(split.positions), "label_names": list(split.label_names), "listing": checksum_of_listing}


class LatentCache:
    """A complete cache, read-only: boxes and labels are in memory, latents stay on disk until they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Use `open`, which also compares."""
        self.folder, self.index = folder, read_index(folder)
        shards = [self._open_shard(number) for number in range(len(self.index["counts"]))]
        self._latents = [shard["latents"].view(torch.int16).numpy() for shard in shards]
        self._ends = np.cumsum(self.index["counts"])
        self._dtype: torch.dtype = getattr(torch, self.index["identity"]["dtype"])
        self.boxes: Float[Tensor, "n crops 4"] = torch.cat([shard["boxes"] for shard in shards])
        self.labels: Int64[Tensor, " n"] = torch.cat([shard["labels"] for shard in shards])
        self.positions: Int64[Tensor, " n"] = torch.cat([shard["positions"] for shard in shards])  # in `open_split`

    @classmethod
    def open(
        cls, folder: str | Path, settings: CacheSettings | None = None, vae: ModelMixin | None = None
    ) -> "LatentCache":
        """The cache in `folder`, which must be of these settings and this VAE where they are given.

        Raises UserError where it is of others, naming the difference; and where it is not complete, or damaged.
        """
        cache = cls(Path(folder))
        check_same(folder, cache.index["identity"], identity(settings, vae))
        return cache

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def name(self) -> str:
        """The data set that was encoded."""
        return str(self.index["identity"]["data"])

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels, in order of their numbers."""
        return tuple(self.index["identity"]["label_names"])

    @property
    def crops_per_image(self) -> int:
        """Choices that `read` has for each image."""
        return int(self.index["identity"]["crops_per_image"])

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        channels, height, width = self.index["latent_shape"]
        return channels, height, width

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person must know: of the data, of images left out, and of latents far from unit variance."""
        notes, std = list(self.index["notes"]), self.index["std"]
        if not USUAL_STD[0] <= std <= USUAL_STD[1]:
            notes.append(
                f"The latents of {self.name} have a standard deviation of {std:.2g} after the VAE's own scaling, and "
                "training expects about 1: check scaling_factor in the VAE's config.json."
            )
        return tuple(notes)

    def read(
        self, indices: Int64[Tensor, " b"], crops: Int64[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 4"], Int64[Tensor, " b"]]:
        """Of each image one crop, 0 (all of it) to `crops_per_image` - 1: latents, boxes and labels (-1: none)."""
        indices, crops = indices.cpu(), crops.cpu()
        shards = np.searchsorted(self._ends, indices.numpy(), side="right")
        rows = indices.numpy() - np.array([0, *self._ends])[shards]
        places = zip(shards, rows, crops.numpy(), strict=True)
        latents = np.stack([self._latents[shard][row, crop] for shard, row, crop in places])
        return torch.from_numpy(latents).view(self._dtype).float(), self.boxes[indices, crops], self.labels[indices]

    def _open_shard(self, number: int) -> dict[str, Tensor]:
        path = shard_path(self.folder, number)
        tensors, about = read_shard(path)
        expected = (self.index["counts"][number], self.crops_per_image, *self.latent_shape)
        if about["identity"] != self.index["identity"] or tensors["latents"].shape != expected:
            raise UserError(f"{path} belongs to another cache; {_MEND}")
        return tensors


def check_same(folder: str | Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise UserError where the latents in a folder are not what is wanted."""
    if told := difference({name: stored.get(name) for name in wanted}, wanted):
        raise UserError(
            f"{folder} holds other latents: {told}; give the same data, settings and VAE, or another --latent-cache; "
            "--overwrite makes those in a run's own folder anew"
        )


def check_folder(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Raise UserError where a folder holds anything else than latents of the wanted identity, complete or not."""
    if (folder / INDEX_NAME).exists():
        check_same(folder, read_index(folder)["identity"], wanted)
        return
    for path in sorted(folder.glob("[!.]*")):
        if not path.match(SHARDS):
            raise UserError(f"{folder} holds {path.name}, which is no latents; choose an empty folder")
        check_same(folder, read_shard(path)[1]["identity"], wanted)


def remove_latents(folder: Path) -> None:
    """Remove a cache's files, complete or not; several processes may do so at once."""
    for path in (folder / INDEX_NAME, *folder.glob(SHARDS)):
        path.unlink(missing_ok=True)


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a complete cache. Raises UserError where there is none, or one that this program cannot read."""
    path = folder / INDEX_NAME
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        version = index["format_version"]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{folder} holds no complete latents, for want of {INDEX_NAME}; encode the data again"
        ) from error
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise UserError(f"{path} is damaged; {_MEND}") from error
    if version != FORMAT_VERSION:
        raise UserError(f"{path} has format {version}, not {FORMAT_VERSION}; encode the data into another folder")
    return dict(index)


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / f"shard-{number:05d}.safetensors"


def read_shard(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A shard's tensors, mapped into memory, and what it says of itself. Raises UserError where it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in SHARD_TENSORS}
            return tensors, json.loads(file.metadata()["about"])
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; encode the data again: all other shards are kept") from error
    except (SafetensorError, OSError, ValueError, TypeError, LookupError) as error:
        raise UserError(f"{path} is damaged; {_MEND}") from error
