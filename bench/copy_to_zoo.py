"""Put a trained network whose run measured it already into the zoo: its files, and its card with the zoo's name.

python bench/copy_to_zoo.py runs/segmenter/segmenter zoo/small-sam
python bench/copy_to_zoo.py runs/captioner/captioner zoo/small-captioner
"""

import argparse
import shutil
from pathlib import Path

from workbench.files import publish_folder, write_atomic


def main() -> None:
    """Write the folder; an older one of the same name is replaced."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    partial = options.folder.with_name(options.folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(options.trained, partial)
    card = partial / "README.md"
    write_atomic(card, card.read_text().replace("THIS_FOLDER", f"zoo:{options.folder.name}"))
    publish_folder(partial, options.folder)


if __name__ == "__main__":
    main()
