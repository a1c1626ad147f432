"""Put a distilled set into the zoo: the tensors, the metadata, a picture and the card, without the 8-bit copies.

    python bench/make_distilled_zoo.py runs/distilled zoo/distilled/fashion-1

The set is one that `workbench distill` has finished, or that `distill/train.py match` has made and `evaluate` measured
into RUN/figures.json.
"""

import argparse
import json
import shutil
from pathlib import Path

from distill.card import render_card
from distill.export import picture
from distill.product import METADATA, TENSORS, find_distilled, read_distilled
from workbench.files import publish_folder, write_atomic
from workbench.pictures import encode_png


def main() -> None:
    """Write the folder; an older one of the same name is replaced."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    distilled, metadata = read_distilled(options.run)
    metadata["figures"] = json.loads((options.run / "figures.json").read_text())["figures"]
    partial = options.folder.with_name(options.folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copyfile(find_distilled(options.run) / TENSORS, partial / TENSORS)
    write_atomic(partial / "grid.png", encode_png(picture(distilled)))
    card = render_card(metadata).replace("THIS_FOLDER", f"zoo:distilled/{options.folder.name}")
    write_atomic(partial / "README.md", card)
    write_atomic(partial / METADATA, json.dumps(metadata, indent=1) + "\n")
    publish_folder(partial, options.folder)


if __name__ == "__main__":
    main()
