"""What the small SAM learns from: images in the network's square frame, and in each the objects that can be asked for.

Letters: n images, s pixels along a side of the frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from explain.segment_config import SegmentConfig
from workbench import seeds
from workbench.datasets import OpenSplit, available_splits, open_split
from workbench.errors import UserError
from workbench.fashion_mnist import LABEL_NAMES
from workbench.image_decoding import outcome_of, pixel_limit, reason_of, tolerate
from workbench.image_files import Encoded, PixelForm, decode_image
from workbench.image_sources import EncodedImages
from workbench.pictures import resize_images
from workbench.planted import planted
from workbench.progress import progress
from workbench.scenes import Scenes, shapes

SCENES = ("scenes", "scenes:planted", "scenes:shapes")
MASK_COLUMNS = ("mask_file_name", "mask")
PADDING = (124, 116, 104)  # segment-anything's mean colour, which it sees as 0
LEAST_PIXELS = 12  # smaller objects are not asked for
CHOICE = 51  # stream of randomness
HELD_OUT_SEED = 1  # added to the seed, of shapes


@dataclass
class Objects:
    """Images and, in each, which object a pixel belongs to (0: none). `ids` lists those that can be asked for."""

    images: UInt8[Tensor, "n 3 s s"]
    segments: UInt8[Tensor, "n s s"]
    ids: Int64[Tensor, "n most"]  # of each image, its own repeated to one length

    @classmethod
    def of(cls, images: UInt8[Tensor, "n 3 s s"], segments: UInt8[Tensor, "n s s"]) -> "Objects":
        """Those images in which an object is large enough."""
        most = int(segments.max()) if len(segments) else 0
        found = torch.zeros(len(segments), most, dtype=torch.bool)
        for k in range(most):
            found[:, k] = (segments == k + 1).sum((1, 2)) >= LEAST_PIXELS
        kept = found.any(1)
        ids = [row.nonzero()[:, 0] + 1 for row in found[kept]]
        longest = max(map(len, ids), default=0)
        repeated = [own.repeat(-(-longest // len(own)))[:longest] for own in ids]
        listed = torch.stack(repeated) if repeated else torch.zeros(0, 0, dtype=torch.int64)
        return cls(images[kept], segments[kept], listed)

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> None:
        """Move everything."""
        self.images, self.segments, self.ids = (x.to(device) for x in (self.images, self.segments, self.ids))

    def shown(
        self, indices: Int64[Tensor, " b"], which: Float[Tensor, " b"], flip: Bool[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b 3 s s"], Bool[Tensor, "b s s"]]:
        """Images in [0, 255] and the mask of one object of each, chosen by a number in [0, 1)."""
        indices = indices.to(self.images.device)
        ids = self.ids[indices].gather(1, (which * self.ids.shape[1]).long()[:, None])
        images, masks = self.images[indices].float(), self.segments[indices] == ids[:, :, None]
        return (
            torch.where(flip[:, None, None, None], images.flip(-1), images),
            torch.where(flip[:, None, None], masks.flip(-1), masks),
        )


@dataclass
class SegmentData:
    """Images to learn from, and held-out ones."""

    train: Objects
    held_out: Objects
    name: str
    notes: tuple[str, ...] = ()


def read_objects(config: SegmentConfig) -> SegmentData:
    """The images that the settings name. Raises UserError for data that cannot be read, or has no masks."""
    side = config.size[0]
    if config.data in SCENES:
        train = _scenes(config, side, config.max_images, "train")
        return SegmentData(train, _scenes(config, side, config.validation_images, "validation"), config.data)
    if config.data.startswith("scenes"):
        raise UserError(f"there are no scenes {config.data!r}; give {', '.join(SCENES)}")
    return _data_set(config, side)


# ---- scenes ----------------------------------------------------------------------------------------------------------


def _scenes(config: SegmentConfig, side: int, count: int, split: str) -> Objects:
    """So many scenes; of both kinds, half of each."""
    kinds = ["planted", "shapes"] if config.data == "scenes" else [config.data.removeprefix("scenes:")]
    shares = [len(part) for part in np.array_split(np.arange(count), len(kinds))]
    drawn = [_draw(kind, range(share), side, config.seed, split) for kind, share in zip(kinds, shares, strict=True)]
    return Objects.of(torch.cat([part.images for part in drawn]), torch.cat([_segments(part) for part in drawn]))


def _draw(kind: str, numbers: Sequence[int], side: int, seed: int, split: str) -> Scenes:
    if kind == "planted":
        return planted(numbers, side, seed=seed, split=split, plant="none", classes=LABEL_NAMES)
    return shapes(numbers, side, seed=seed + (HELD_OUT_SEED if split != "train" else 0))


def _segments(scenes: Scenes) -> UInt8[Tensor, "n s s"]:
    """The item is 1, small objects follow; of pixels that two share, the later has them."""
    segments = scenes.masks.to(torch.uint8)
    for number, masks in enumerate(scenes.distractor_masks.unbind(1), start=2):
        segments[masks] = number
    return segments


# ---- data sets with masks --------------------------------------------------------------------------------------------


def _data_set(config: SegmentConfig, side: int) -> SegmentData:
    """Its own validation or test images are held out, or else a tenth of its training images."""
    splits = available_splits(config.data)
    opened = open_split(config.data, "train", config.classes)
    order = torch.randperm(len(opened.positions), generator=seeds.generator(config.seed, CHOICE)).numpy()
    chosen = order[: config.max_images]
    other = next((name for name in ("validation", "test") if name in splits), None)
    if other:
        held_out = open_split(config.data, other, config.classes)
        held = _read(held_out, np.arange(len(held_out.positions))[: config.validation_images], config, side)
    else:
        count = len(chosen) // 10  # however many are looked at
        held = _read(opened, chosen[:count][: config.validation_images], config, side)
        chosen = chosen[count:]
    train = _read(opened, chosen, config, side)
    if len(train) < 2:
        raise UserError(f"{config.data} has {len(train)} images with a mask to learn from; give at least a few hundred")
    missing = len(chosen) - len(train)
    notes = (f"{missing} images have no mask, or one too small to ask for, and are left out",) if missing else ()
    return SegmentData(train, held, config.data, (*opened.notes, *notes))


def _read(opened: OpenSplit, chosen: np.ndarray, config: SegmentConfig, side: int) -> Objects:
    """The images at these places of a split that have a mask. Raises UserError where more than 1 % are unreadable."""
    places = np.sort(chosen)
    masks = _masks(opened, Path(config.data).expanduser(), config.data)
    source, positions = opened.source, opened.positions[places]
    assert isinstance(source, EncodedImages)  # others have no masks
    images, segments, failures = [], [], []
    decode = partial(decode_image, form=PixelForm(channels=3, max_pixels=config.max_image_pixels))
    with pixel_limit(config.max_image_pixels), progress(len(places), "images", unit="image") as bar:
        for place, name, encoded in zip(places, source.file_names(positions), source.read(positions), strict=True):
            bar.update()
            if (mask := masks[place]) is None:
                continue
            outcome = outcome_of(decode, encoded, name)
            if isinstance(outcome, Exception):
                failures.append((name, reason_of(outcome)))
                continue
            image = torch.tensor(outcome)
            images.append(framed_image(image, side))
            segments.append(framed_mask(_mask(mask, name, image, config.max_image_pixels), side))
    tolerate(failures, len(places))
    if not images:
        return Objects.of(torch.zeros(0, 3, side, side, dtype=torch.uint8), torch.zeros(0, side, side).byte())
    return Objects.of(torch.stack(images), torch.stack(segments))


def _masks(opened: OpenSplit, root: Path, name: str) -> list[Encoded | None]:
    """The mask of each image of a split, in a file or in its cell of a table; None where it has none."""
    source = opened.source
    if not isinstance(source, EncodedImages):
        raise UserError(f"{name} has no masks: give a set with a column mask or mask_file_name, or scenes")
    cells = [_content(cell) for cell in _first_column(source, opened.positions, name)]
    contents = [cell for cell in cells if cell is None or isinstance(cell, bytes)]
    if len(contents) == len(cells):
        return [*contents]
    if not root.is_dir():
        raise UserError(f"{name} only names its masks; put the pictures themselves into that column")
    files = source.file_names(opened.positions)
    told = source.column("file_name", opened.positions)
    return [_beside(root, file, str(own), cell) for file, own, cell in zip(files, told, cells, strict=True)]


def _first_column(source: EncodedImages, positions: np.ndarray, name: str) -> list[object]:
    for column in MASK_COLUMNS:
        try:
            return source.column(column, positions)
        except UserError:
            continue
    raise UserError(
        f"{name} has no masks: name the mask of each image in its metadata.jsonl as mask_file_name, or give "
        f"{', '.join(SCENES)}"
    )


def _content(cell: object) -> object:
    """Of a picture's cell in a table what it holds: the bytes, or where they are."""
    if isinstance(cell, dict) and "bytes" in cell:
        return cell["bytes"] or cell.get("path")
    return cell or None


def _beside(root: Path, file: str, told: str, cell: object) -> Path | None:
    """A mask is named as its image is: from the folder of the metadata file."""
    if not cell:
        return None
    if not isinstance(cell, str) or Path(cell).is_absolute() or ".." in Path(cell).parts:
        raise UserError(f"the mask of {file} is given as {cell!r}; name a file inside the data set")
    return root / file.removesuffix(told) / cell


def _mask(mask: Encoded, name: str, image: UInt8[Tensor, "3 h w"], max_pixels: int) -> Bool[Tensor, "h w"]:
    """A gray picture of the image's size, white where the object is."""
    told = f"the mask {mask}" if isinstance(mask, Path) else f"the mask of {name}"
    found = outcome_of(partial(decode_image, form=PixelForm(channels=1, max_pixels=max_pixels)), mask, name)
    if isinstance(found, Exception):
        raise UserError(f"{told} cannot be read ({reason_of(found)}); mend it, or name none in its row")
    pixels = torch.tensor(found)[0]
    if pixels.shape != image.shape[1:]:
        raise UserError(f"{told} is of {tuple(pixels.shape)}, its image of {tuple(image.shape[1:])} pixels")
    return pixels > (127 if pixels.max() > 1 else 0)


# ---- the frame -------------------------------------------------------------------------------------------------------


def framed_image(image: UInt8[Tensor, "3 h w"], side: int) -> UInt8[Tensor, "3 s s"]:
    """The longer side resized to the frame's, the rest below or beside it filled with the mean colour."""
    frame = torch.tensor(PADDING, dtype=torch.uint8).view(3, 1, 1).repeat(1, side, side)
    height, width = _inside(image.shape[1], image.shape[2], side)
    frame[:, :height, :width] = resize_images(image[None], (height, width))[0]
    return frame


def framed_mask(mask: Bool[Tensor, "h w"], side: int) -> UInt8[Tensor, "s s"]:
    """The mask in the same frame."""
    frame = torch.zeros(side, side, dtype=torch.uint8)
    size = _inside(mask.shape[0], mask.shape[1], side)
    frame[: size[0], : size[1]] = F.interpolate(mask[None, None].float(), size, mode="area")[0, 0] >= 0.5
    return frame


def _inside(height: int, width: int, side: int) -> tuple[int, int]:
    scale = side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
