"""A few noise images with every kind of provenance, written as a data set."""

from pathlib import Path
from typing import Any

import numpy as np

from workbench.records import DatasetWriter

NAMES = ("ankle boot", "b|ag\nwith <b>", "Hémd")
IDENTITY = {"pipeline": "abc", "seed": 3}
SHARD = 4


def small_images(count: int, seed: int = 0) -> list[np.ndarray]:
    """Gray 10 x 7 and colour 6 x 9 in turn."""
    random = np.random.default_rng(seed)
    shapes = ((1, 10, 7), (3, 6, 9))
    return [random.integers(0, 256, shapes[i % 2], dtype=np.uint8) for i in range(count)]


def small_rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "label": i % 3,
            "source": "generated",
            "generator": "zoo:small",
            "generator_checksum": "f00d",
            "seed": 2**40 + i,
            "guidance_scale": 2 if i % 2 else 1.5,
            "prompt": f"número {i}\n\t\u2028",
            "soft_label": np.full(3, 1 / 3, dtype=np.float32),
        }
        for i in range(count)
    ]


def write_small_set(output: Path, sizes: dict[str, int] | None = None, **options: Any) -> Path:
    """A complete set with `sizes` images in each split, in shards of four."""
    writer = DatasetWriter(output, NAMES, IDENTITY, shard_size=SHARD, num_threads=2, **options)
    for split, count in (sizes or {"train": 10, "test": 3}).items():
        images, rows = small_images(count), small_rows(count)
        for shard in writer.missing_shards(count, split):
            part = slice(shard * SHARD, (shard + 1) * SHARD)
            writer.write_shard(shard, images[part], rows[part], split)
    return writer.finish({"description": "Noise."}, command="workbench sample", seed=3)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
