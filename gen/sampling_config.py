"""Settings of `workbench sample`. Light (no torch), because `--help` reads it."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from gen.rpe2d.modes import POSITION_MODES
from workbench.config import Device, parse_size, require
from workbench.errors import UserError


@dataclass(kw_only=True)
class SampleConfig:
    """Generate a labelled, documented data set with a trained pipeline.

    workbench sample runs/fashion --size 32 --size 48x32 --num-images 1000 --output data/fashion-generated

    The images are shared evenly by the sizes and, within each, by the labels. Image k is drawn from seed + k: it does
    not depend on the batch size or on how many processes share the work. Interrupted, the same command goes on.
    """

    pipeline: tyro.conf.Positional[str]
    """A trained run's folder, or its pipeline folder."""
    output: Path
    """The data set's folder."""
    num_images: int = 1000
    """Images in total."""
    size: tyro.conf.UseAppendAction[list[str]] = field(default_factory=list)
    """HEIGHTxWIDTH or one number, in pixels; may be given several times. The training size unless given."""
    label: tyro.conf.UseAppendAction[list[str]] = field(default_factory=list)
    """Only this label; may be given several times. All of them unless given."""
    guidance_scale: float | None = None
    """Classifier-free guidance; 1 is off. More is clearer and less varied. 1.5 unless given, and none where an image
    takes one step."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """rpe2d: noise levels where guidance is on; outside it an image costs half."""
    guidance_sigma_range: tuple[float, float] | None = None
    """pixel: noise levels above the first of these, up to the second, where guidance is on; 0.19 1.61 unless given."""
    prompt: str | None = None
    """Attribute tokens that all images are asked for, where the generator learned captions."""
    position_mode: str | None = None
    """How a grid is placed in the trained positions: equispaced, isotropic, centered or random, or a rule such as
    interpolation for sizes beyond them. The generator's own unless given."""
    attention_scale: str = "auto"
    """Factor on the attention logits: auto, entropy or yarn by the number of patches, none, or a number."""
    timestep_shift: str = "auto"
    """Shift of the noise levels: auto by the number of patches, none, or a number."""
    num_inference_steps: int | None = None
    """25 for rpe2d unless given; for pixel, 32 of a diffusion model and 1 of a consistency model."""
    batch_size: int = 64
    shard_size: int = 1000
    """Images in a sub-folder; what is resumed."""
    seed: int = 0
    """Seed of image 0; image k has seed + k, so give independent sets seeds further apart than their images."""
    device: Device = "auto"
    overwrite: bool = False
    """Replace the data set that the output folder holds."""

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        counts = "num_images num_inference_steps batch_size shard_size"
        require(self, counts, lambda value: value is None or value >= 1, "1 or more")
        for size in self.size:
            parse_size(size)
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise UserError(f"--guidance-interval is {low} {high}; give two noise levels from 0 to 1, the lower first")
        low, high = self.guidance_sigma_range or (0.0, 0.0)
        if not 0 <= low <= high:
            raise UserError(f"--guidance-sigma-range is {low} {high}; give two noise levels from 0 up, the lower first")
        if self.position_mode not in (None, *POSITION_MODES):
            raise UserError(f"--position-mode is {self.position_mode}; give one of {', '.join(POSITION_MODES)}")
        self.factor("attention_scale", ("auto", "entropy", "yarn"))
        self.factor("timestep_shift", ("auto",))

    def factor(self, name: str, rules: tuple[str, ...] = ("auto", "entropy", "yarn")) -> float | str | None:
        """A factor as the pipeline takes it. Raises UserError for anything but one of the rules, none or a number."""
        value = getattr(self, name)
        if value in (*rules, "none"):
            return None if value == "none" else str(value)
        try:
            return float(value)
        except ValueError:
            allowed = ", ".join(rules)
            raise UserError(f"--{name.replace('_', '-')} is {value}; give {allowed}, none or a number") from None
