"""Other ways to fill a hole, called as the diverse pipeline is; and `open_inpainter`, which opens any by its name."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image

from gen.inpaint.completion import Completions, Cut, Painted, complete
from gen.inpaint.pictures import MAX_PIXELS, Picture, Source, as_image, read_mask, read_picture
from gen.inpaint.repaint import denoiser_of, repaint
from gen.inpaint.texture import TextureGenerator
from gen.inpaint.texture_losses import completed
from gen.loading import load_pipeline, read_component
from workbench import seeds
from workbench.errors import UserError

Inpainter = Callable[..., Completions]  # (image, mask_image, num_variants=, seed=, invert_mask=, max_image_pixels=)


class Baseline(ABC):
    """Fills holes of pictures of any size."""

    def __call__(
        self,
        image: Source,
        mask_image: Source,
        num_variants: int = 6,
        seed: int = 0,
        invert_mask: bool = False,
        max_image_pixels: int = MAX_PIXELS,
    ) -> Completions:
        """Complete a picture; one without randomness does it once. Raises UserError as the diverse pipeline does."""
        if num_variants < 1:
            raise UserError(f"num_variants is {num_variants}; give 1 or more")
        picture = read_picture(image, max_image_pixels)
        hole = read_mask(mask_image, picture.size, invert_mask, max_image_pixels)
        return self.fill(picture, hole, [seed + k for k in range(num_variants)])

    @abstractmethod
    def fill(self, picture: Picture, hole: Bool[np.ndarray, "h w"], drawn_seeds: list[int]) -> Completions:
        """Completions of a picture, one for each seed, or one in all."""


class Telea(Baseline):
    """OpenCV's classical inpainting (Telea 2004): smooth, at once, always the same."""

    radius = 3.0

    def __init__(self) -> None:
        if find_spec("cv2") is None:
            raise UserError("telea needs OpenCV, which is not installed; run: pip install 'workbench[cv]'")

    def fill(self, picture: Picture, hole: Bool[np.ndarray, "h w"], drawn_seeds: list[int]) -> Completions:
        """Once, from the known pixels within three of each."""
        import cv2

        planes = [cv2.inpaint(plane, hole.astype(np.uint8), self.radius, cv2.INPAINT_TELEA) for plane in picture.pixels]
        pixels = np.where(hole, np.stack(planes), picture.pixels)
        return Completions(images=[as_image(pixels)], seeds=drawn_seeds[:1], notes=list(picture.notes))


class SingleStage(Baseline):
    """A texture generator without structure: one completion, near the mean of all."""

    def __init__(self, texture: TextureGenerator, native_size: tuple[int, int]) -> None:
        if texture.structure is not None:
            raise UserError("this texture generator paints over a structure; open the whole pipeline instead")
        self.texture, self.native_size = texture.eval(), native_size

    def fill(self, picture: Picture, hole: Bool[np.ndarray, "h w"], drawn_seeds: list[int]) -> Completions:
        """Once."""
        channels = self.texture.config.channels
        return complete(picture, hole, self.native_size, channels, lambda cuts: self.paint(cuts, drawn_seeds[:1]))

    @torch.no_grad()
    def paint(self, cuts: list[Cut], drawn_seeds: list[int]) -> Painted:
        """All planes of each region at once."""
        images = []
        for planes, mask in cuts:
            masks = mask.expand(len(planes), -1, -1, -1).to(self.texture.device)
            given = planes.to(self.texture.device)
            images.append(completed(self.texture(given * (1 - masks), masks), given, masks)[None])
        return Painted(drawn_seeds, images)


class RePaint(Baseline):
    """A generator of this workbench that knows nothing of holes; see `repaint.py`."""

    def __init__(self, pipe: Any, **options: int) -> None:
        self.denoiser, self.device, self.options = denoiser_of(pipe), pipe.device, options

    def fill(self, picture: Picture, hole: Bool[np.ndarray, "h w"], drawn_seeds: list[int]) -> Completions:
        """One from each seed."""
        native_size, channels = self.denoiser.native_size, self.denoiser.channels
        return complete(picture, hole, native_size, channels, lambda cuts: self.paint(cuts, drawn_seeds))

    def paint(self, cuts: list[Cut], drawn_seeds: list[int]) -> Painted:
        """All variants of a region at once."""
        count, images = len(drawn_seeds), []
        for number, (planes, mask) in enumerate(cuts):
            given = planes.to(self.device).repeat(count, 1, 1, 1)
            generators = [seeds.generator(seed, number) for seed in drawn_seeds for _ in planes]
            masks = mask.to(self.device).expand(len(given), -1, -1, -1)
            painted = repaint(self.denoiser, given, masks, generators, **self.options)
            images.append(completed(painted.clamp(-1, 1), given, masks).unflatten(0, (count, -1)))
        return Painted(drawn_seeds, images)


class DiffusersInpainter(Baseline):
    """Any inpainting model that diffusers opens, from a folder or the hub."""

    def __init__(self, name: str, device: str = "cpu", prompt: str = "", **options: Any) -> None:
        from diffusers import AutoPipelineForInpainting

        try:
            self.pipe = AutoPipelineForInpainting.from_pretrained(name, use_safetensors=True).to(device)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{name} cannot be opened as an inpainting model of diffusers ({str(error).splitlines()[0]}); "
                "give the folder or hub name of one"
            ) from error
        self.options = {"prompt": prompt, **options}
        self.pipe.set_progress_bar_config(disable=True)

    @property
    def native_size(self) -> tuple[int, int]:
        """Height and width that the model was made for."""
        network = getattr(self.pipe, "unet", None) or self.pipe.transformer
        side = network.config.sample_size * self.pipe.vae_scale_factor
        return side, side

    def fill(self, picture: Picture, hole: Bool[np.ndarray, "h w"], drawn_seeds: list[int]) -> Completions:
        """One from each seed."""
        return complete(picture, hole, self.native_size, 3, lambda cuts: self.paint(cuts, drawn_seeds))

    def paint(self, cuts: list[Cut], drawn_seeds: list[int]) -> Painted:
        """One variant at a time: these models are large."""
        height, width = self.native_size
        images = []
        for number, (planes, mask) in enumerate(cuts):
            given = as_image(((planes[0] + 1) * 127.5).round().byte().numpy())
            hole = Image.fromarray((mask[0, 0] * 255).byte().numpy())
            variants = [
                self.pipe(
                    image=given, mask_image=hole, height=height, width=width, output_type="pt",
                    generator=seeds.generator(seed, number), **self.options,
                ).images.float().cpu() * 2 - 1
                for seed in drawn_seeds
            ]  # fmt: skip
            images.append(completed(torch.stack(variants), planes, mask))
        return Painted(drawn_seeds, images)


def open_inpainter(spec: str, device: str = "cpu") -> Inpainter:
    """Whatever fills holes: a trained pipeline's run, folder or zoo:NAME; telea; or diffusers:NAME.

    Of our generators that were not trained for holes, RePaint asks. Raises UserError for anything else.
    """
    if spec == "telea":
        return Telea()
    if spec.startswith("diffusers:"):
        return DiffusersInpainter(spec.removeprefix("diffusers:"), device)
    if single := _single_stage(spec, device):
        return single
    pipe = load_pipeline(spec, device)
    if type(pipe).__name__ == "DiverseInpaintPipeline":
        return pipe
    return RePaint(pipe)


def _single_stage(spec: str, device: str) -> SingleStage | None:
    """A run of `inpaint-texture --no-structure`, or its result."""
    for folder in (Path(spec), Path(spec) / "texture"):
        if (folder / "config.json").is_file() and not (folder.parent / "model_index.json").exists():
            texture = read_component(TextureGenerator, folder, device)
            return SingleStage(texture, tuple(texture.config.sample_size))
    return None
