"""What the stages of inpainting learn from: crops of images in [-1, 1], with others set aside for validation."""

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from gen.crops import closest_crop, draw_boxes, resize_and_crop
from gen.inpaint.config import InpaintConfig
from workbench.datasets import LabelledImages, available_splits, load_images
from workbench.errors import UserError
from workbench.recipe import Draws


class InpaintExamples:
    """A split's images as uint8 pixels beside the model; no labels are needed."""

    def __init__(self, config: InpaintConfig) -> None:
        self.config = config
        data = self._load("train")
        self.name, self.label_names, self.notes = data.name, data.label_names, data.notes
        self.channels = data.channels
        self.images, validation = self._set_aside(data)
        whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(len(validation), 4)
        unflipped = torch.zeros(len(validation), dtype=torch.bool)
        self.validation: Float[Tensor, "m c h w"] = resize_and_crop(validation, whole, unflipped, config.size)

    def _load(self, split: str, channels: int | None = None) -> LabelledImages:
        """Images with enough pixels for the closest crop, but never more than the sources have."""
        c = self.config
        height, width = (round(side * c.crop_max_scale) if c.crop_probability else side for side in c.size)
        return load_images(
            c.data, split, (height, width), c.classes, channels=channels or c.channels, upscale=False,
            max_pixels=c.max_image_pixels,
        )  # fmt: skip

    def _set_aside(self, data: LabelledImages) -> tuple[UInt8[Tensor, "n c sh sw"], UInt8[Tensor, "m c vh vw"]]:
        """Training images, and those for validation: of a split of their own, else taken evenly from the training's."""
        images, count = data.images, self.config.held_out_images
        assert isinstance(images, Tensor)  # one size was asked for
        others = [split for split in ("validation", "test") if split in available_splits(self.config.data)]
        held = self._load(others[0], data.channels).images if others else images
        assert isinstance(held, Tensor)
        chosen = torch.linspace(0, len(held) - 1, min(count, len(held))).long().unique()
        if others:
            return images, held[chosen]
        if len(images) < 2 * len(chosen):
            raise UserError(
                f"{data.name} has {len(images)} images, of which {count} would be set aside for validation; "
                "add images, or give fewer --held-out-images"
            )
        kept = torch.ones(len(images), dtype=torch.bool).index_fill(0, chosen, False)
        return images[kept], images[chosen]

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> None:
        """Move the images."""
        self.images, self.validation = self.images.to(device), self.validation.to(device)

    @property
    def max_scale(self) -> float:
        """Of the closest crop."""
        stored = (self.images.shape[-2], self.images.shape[-1])
        return closest_crop(stored, self.config.size, self.config.crop_max_scale, self.config.crop_max_upsampling)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """A crop and a flip for each image."""
        box = draw_boxes(batch_size, self.config.crop_probability, self.max_scale, generator)
        flip = torch.rand(batch_size, generator=generator, device=generator.device)
        return {"box": box, "flip": (flip < 0.5) & self.config.random_flip}

    def __call__(self, indices: Int64[Tensor, " b"], draws: Draws) -> Float[Tensor, "b c h w"]:
        """The drawn crops of these images."""
        chosen = self.images[indices.to(self.images.device)]
        return resize_and_crop(chosen, draws["box"], draws["flip"], self.config.size)
