"""Images that a generator made, or of any other data set: a rival of distilled ones, and where these may begin."""

from pathlib import Path

from torch import Tensor

from workbench.config import Device
from workbench.datasets import LabelledImages, load_images
from workbench.errors import UserError


def other_images(
    source: str, like: LabelledImages, images_per_class: int, work: Path, seed: int = 0, device: Device = "auto"
) -> LabelledImages:
    """Images of the classes, size and channels of `like`, from a data set or from a generator that makes them.

    `source`: a data set's name or folder, or a trained pipeline (a run's folder, or zoo:NAME), which is asked for
    `images_per_class` images, kept in `work`. Raises UserError where there is no such source, or it has other classes.
    """
    assert isinstance(like.images, Tensor)
    size = (like.images.shape[2], like.images.shape[3])
    if is_generator(source):
        source = str(_sample(source, like, size, images_per_class, work / "generated", seed, device))
    return load_images(source, "train", size, like.label_names, channels=like.channels)


def is_generator(source: str) -> bool:
    """Whether a name is that of a trained pipeline rather than of a data set."""
    return source.startswith("zoo:") or any(
        (Path(source) / part / "model_index.json").is_file() for part in ("", "pipeline")
    )


def _sample(
    source: str, like: LabelledImages, size: tuple[int, int], images_per_class: int, output: Path, seed: int,
    device: Device,
) -> Path:  # fmt: skip
    from gen.loading import load_generator
    from gen.sample import sample
    from gen.sampling_config import SampleConfig

    made = load_generator(source).label_names
    if missing := [name for name in like.label_names if name not in made]:
        raise UserError(
            f"{source} does not make {', '.join(missing)} of {like.name}; it makes {', '.join(made) or 'no classes'}: "
            "give another generator, or a data set"
        )
    config = SampleConfig(
        pipeline=source, output=output, num_images=images_per_class * len(like.label_names),
        size=[f"{size[0]}x{size[1]}"], label=list(like.label_names), seed=seed, device=device,
    )  # fmt: skip
    return sample(config)[0]
