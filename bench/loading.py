"""How fast data sets are read, and how much memory that takes above the images themselves.

    python bench/loading.py fashion-mnist PATH/TO/train.parquet --output docs/results/loading.md

Each measurement is a fresh process: seconds of `load_images` alone, after the imports; memory is the peak resident
size less the resident size after the imports, less the bytes of the images. The median run of three is shown.
Aim: 60,000 Fashion-MNIST images in under 3 s and 300 MB. About 6 s per data set and resolution on two cores.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from measured import write_result

CHILD = """
import json, resource, sys, time
import PIL.Image, psutil, pyarrow.parquet, torch
from workbench.datasets import load_images

name, resolution = json.loads(sys.argv[1])
before = psutil.Process().memory_info().rss
start = time.perf_counter()
images = load_images(name, resolution=resolution)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
stack = images.images if isinstance(images.images, list) else [images.images]
data = sum(tensor.nbytes for tensor in stack)
shape = "x".join(map(str, stack[0].shape)) if len(stack) == 1 else f"{len(stack)} of different sizes"
print(json.dumps({"seconds": seconds, "above": peak - before - data, "data": data, "shape": shape,
                  "threads": torch.get_num_threads(), "notes": images.notes}))
"""


def measure(name: str, resolution: int | None, repeats: int) -> dict:
    """The run of median time among `repeats` fresh processes."""
    command = [sys.executable, "-c", CHILD, json.dumps([name, resolution])]
    runs = [
        json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        for _ in range(repeats)
    ]
    return sorted(runs, key=lambda run: run["seconds"])[repeats // 2]


def row(name: str, resolution: int | None, run: dict) -> str:
    """One line of the table, sizes in megabytes of a million bytes."""
    label = Path(name).name if Path(name).exists() else name
    return (
        f"| `load_images({label!r}, resolution={resolution})` | {run['shape']} | {run['seconds']:.2f} | "
        f"{run['data'] / 1e6:.0f} | {run['above'] / 1e6:.0f} |"
    )


def main() -> None:
    """Measure each data set at its own size and at 32 pixels; print, and write where asked, the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", default=["fashion-mnist"], help="names or paths for load_images")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", help="markdown file to write")
    options = parser.parse_args()

    lines = ["| command | images | seconds | images, MB | peak above, MB |", "|---|---|---|---|---|"]
    for name in options.data:
        for resolution in (None, 32):
            run = measure(name, resolution, options.repeats)
            lines += [row(name, resolution, run)]
            print(lines[-1], *run["notes"], flush=True)
    body = (
        f"{run['threads']} threads. Median of {options.repeats} fresh processes; imports are not counted.\n\n"
        + "\n".join(lines)
    )
    write_result("Loading images", __doc__ or "", body, options.output)


if __name__ == "__main__":
    main()
