"""Describe sonar images for the small segmenter and captioner: a mask by GrabCut, and a caption of class and measures.

    python bench/sonar_described.py sonar-train.parquet sonar-test.parquet --output runs/sonar-described

Writes OUTPUT/train and OUTPUT/test with images, masks and metadata.jsonl. Nobody drew a mask and nobody wrote a
caption: GrabCut separates what lies within the frame from what touches it, mostly the wreck and its shadow; a caption
says the class, and of object and ground what was measured. Ships and planes have masks, sea floors have none.
"""

import argparse
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Bool, UInt8
from PIL import Image

from workbench.progress import progress

NAMES = {0: "plane", 1: "seafloor", 2: "ship"}  # as the set names its classes, and VALE the class of a picture
SEA_FLOOR = 1
SIDE = 256  # pixels along the longer side when an image is cut
FRAME = 0.06  # of a side: background for sure
LARGE = 0.22  # share of the picture
LONG = 2.3  # longer axis over shorter
DARK, BRIGHT = 80, 106  # mean of the ground
ROUGH = 18  # standard deviation of the ground about its local mean
Gray = UInt8[np.ndarray, "h w"]
Mask = Bool[np.ndarray, "h w"]


def main() -> None:
    """Both splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    for split in ("train", "test"):
        describe(getattr(options, split), options.output / split)


def describe(file: Path, folder: Path) -> None:
    """Images, masks and metadata.jsonl of one split."""
    (folder / "masks").mkdir(parents=True)
    rows = pq.read_table(file).to_pylist()
    with progress(len(rows), file.name, unit="image") as bar, (folder / "metadata.jsonl").open("w") as told:
        for number, row in enumerate(rows):
            told.write(json.dumps(described(number, row, folder)) + "\n")
            bar.update()


def described(number: int, row: dict[str, object], folder: Path) -> dict[str, str | None]:
    """One image, written with its mask; its line of the metadata."""
    gray = np.array(Image.open(io.BytesIO(row["image"]["bytes"])).convert("L"))  # type: ignore[index]
    label = int(row["label"])  # type: ignore[call-overload]
    mask = None if label == SEA_FLOOR else object_mask(gray)
    name = f"{number:04d}.png"
    Image.fromarray(gray).save(folder / name)
    if mask is not None:
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / name)
    return {
        "file_name": name,
        "caption": caption(gray, mask, NAMES[label]),
        "mask_file_name": None if mask is None else f"masks/{name}",
    }


def object_mask(gray: Gray) -> Mask:
    """The largest piece of what differs from the picture's frame in brightness, local brightness or local contrast."""
    height, width = gray.shape
    scale = SIDE / max(height, width)
    small = cv2.resize(
        gray, (max(8, round(width * scale)), max(8, round(height * scale))), interpolation=cv2.INTER_AREA
    )
    inner_height, inner_width = small.shape
    frame = (int(inner_width * FRAME), int(inner_height * FRAME))
    box = (*frame, inner_width - 2 * frame[0], inner_height - 2 * frame[1])
    labels, ours, theirs = np.zeros(small.shape, np.uint8), np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(speckle_free(small), labels, box, theirs, ours, 5, cv2.GC_INIT_WITH_RECT)  # odd labels: the object
    found = cv2.resize(pieces_joined(labels % 2), (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(found > 0)


def pieces_joined(mask: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """The largest piece of a mask without what is thin, its gaps closed."""
    opened = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    closed = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    count, pieces, numbers, _ = cv2.connectedComponentsWithStats(closed)
    largest = 1 + numbers[1:, cv2.CC_STAT_AREA].argmax() if count > 1 else 1
    return np.asarray(pieces == largest).astype(np.uint8)


def speckle_free(gray: Gray) -> UInt8[np.ndarray, "h w 3"]:
    """Three channels: brightness without speckle, brightness around, contrast around."""
    around, contrast = surroundings(gray)
    return np.stack([cv2.medianBlur(gray, 7), around, np.clip(3 * contrast, 0, 255)], -1).astype(np.uint8)


def surroundings(gray: Gray) -> tuple[np.ndarray, np.ndarray]:
    """The mean around each pixel, and the standard deviation about it."""
    values = gray.astype(np.float32)
    around = cv2.GaussianBlur(values, (0, 0), 8)
    return around, np.sqrt(cv2.GaussianBlur((values - around) ** 2, (0, 0), 4))


def caption(gray: Gray, mask: Mask | None, name: str) -> str:
    """ "a large long ship on dark rough ground", "a dark rough seafloor" """
    there = mask is not None and mask.any()
    ground = gray[~mask] if there else gray.ravel()  # type: ignore[operator]
    brightness = "dark" if ground.mean() < DARK else "bright" if ground.mean() > BRIGHT else "gray"
    contrast = surroundings(gray)[1]
    texture = "rough" if np.mean(contrast[~mask] if there else contrast) > ROUGH else "smooth"  # type: ignore[operator]
    if mask is None:
        return f"a {brightness} {texture} {name}"
    if not there:
        return f"a {name} on {brightness} {texture} ground"
    size = "large" if mask.mean() > LARGE else "small"
    return f"a {size} {'long' if elongation(mask) > LONG else 'compact'} {name} on {brightness} {texture} ground"


def elongation(mask: Mask) -> float:
    """Ratio of the axes of the ellipse of the mask's second moments."""
    values = np.linalg.eigvalsh(np.cov(np.argwhere(mask).T) + np.eye(2) / 12)
    return float(np.sqrt(values[1] / values[0]))


if __name__ == "__main__":
    main()
