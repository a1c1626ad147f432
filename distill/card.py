"""The card of a distilled set: what it is, how to train on it, how good it measured, and what to beware of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

Metadata = Mapping[str, Any]

LIMITS = """## Limits

The images were optimised for networks like the one named above, trained by the recipe above. Another network, another
recipe, no augmentation or the 8-bit copy give lower accuracies, and a plain pipeline gives much lower ones. Test images
must go through the transform that is stored with the set.

The set inherits the biases of the images it was made from, and their licence: look it up before you publish it.
Pictures mix many real ones, but may show parts of them recognisably: a set made from private images is private."""


def render_card(metadata: Metadata) -> str:
    """README.md of a set."""
    title = f"{Path(metadata['data']).name}, distilled to {_count(metadata['images_per_class'])} of each class"
    header = {
        "task_categories": ["image-classification"],
        "tags": ["workbench", "dataset-distillation", "synthetic"],
        "pretty_name": title,
    }
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {title}",
        _contents(metadata),
        "![All images, clipped to 8 bits](grid.png)",
        _use(metadata),
        _measured(metadata["figures"]),
        _making(metadata),
        LIMITS,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _contents(metadata: Metadata) -> str:
    names, count = metadata["label_names"], metadata["images_per_class"]
    soft = ", with soft labels" if metadata["labels"] == "logits" else ""
    return (
        f"{_count(len(names) * count)} of {metadata['height']}x{metadata['width']} pixels, {count} for each of "
        f"{len(names)} classes{soft}, made from {metadata['data']}: a fresh network trained on them alone learns to "
        f"classify real images.\n\nClasses: {', '.join(names)}."
    )


def _count(images: int) -> str:
    return f"{images} image" + "s" * (images != 1)


def _use(metadata: Metadata) -> str:
    recipe = metadata["recipe"]
    return f"""## Use

```python
from distill import load_distilled, train_on_distilled

classifier = train_on_distilled("THIS_FOLDER")  # logits = classifier(real_images_in_0_to_1)
dataset, transform, recipe = load_distilled("THIS_FOLDER")  # to train another network by hand
```

By hand: SGD with the learning rate {metadata["step_size"]:.5g}, momentum {recipe["momentum"]:g} and weight decay
{recipe["weight_decay"]:g}, {recipe["epochs"]} epochs in batches of {recipe["batch_size"]} with a tenth of the rate in
the second half, augmented by `distill.augment` with `{recipe["augmentation"]}`.
The tensors are the product; the pictures are 8-bit copies to look at."""


def _measured(figures: Mapping[str, Mapping[str, Any]]) -> str:
    if not figures:
        return "## Measured\n\nIts quality as training data was not measured."
    rows = [f"| {name} | {_percent(one)} | {one['n']} |" for name, one in figures.items()]
    head = "| accuracy on real images | % | networks |\n| --- | --- | --- |\n"
    return "## Measured\n\nMean and standard deviation over fresh networks.\n\n" + head + "\n".join(rows)


def _percent(figure: Mapping[str, Any]) -> str:
    return f"{100 * figure['mean']:.1f} ± {100 * figure['std']:.1f}"


def _making(metadata: Metadata) -> str:
    facts = {"data_checksum": metadata["data_checksum"], "preprocessing": metadata["preprocessing"]}
    text = yaml.safe_dump({**facts, **metadata["settings"]}, sort_keys=False).strip()
    versions = ", ".join(f"{name} {number}" for name, number in metadata["versions"].items())
    return f"## How it was made\n\n```sh\n{metadata['command']}\n```\n\n```yaml\n{text}\n```\n\nVersions: {versions}."
