"""The training images of the pixel recipes: uint8 beside the model, scaled when a step asks for them."""

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from gen.pixel.config import PixelTrainingConfig
from gen.pixel.scaling import DataScaling
from gen.pixel.views import ViewSettings, make_view
from workbench.datasets import LabelledImages, load_images, require_classes
from workbench.recipe import Draws


class PixelData:
    """Images of the training size, their labels (-1: none), and how their pixels are scaled."""

    def __init__(self, config: PixelTrainingConfig) -> None:
        data = load_images(config.data, "train", config.size, config.classes, max_pixels=config.max_image_pixels)
        assert isinstance(data.images, Tensor)  # one size was asked for
        self.images: UInt8[Tensor, "n c h w"] = data.images
        self.name, self.label_names, self.labels, self.notes = data.name, data.label_names, data.labels, data.notes
        if self.label_names:
            known = self.labels[self.labels >= 0]
            require_classes(LabelledImages([], known, self.label_names, self.name))
        self.scaling = DataScaling.of(self.images)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def to(self, device: torch.device) -> None:
        """Move images and labels."""
        self.images, self.labels = self.images.to(device), self.labels.to(device)

    def clean(self, indices: Int64[Tensor, " b"], flip: Bool[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """These images, mirrored where `flip`, and scaled."""
        images = self.images[indices.to(self.images.device)]
        return self.scaling.scale(torch.where(flip[:, None, None, None], images.flip(-1), images))

    def view(self, indices: Int64[Tensor, " b"], draws: Draws, settings: ViewSettings) -> Float[Tensor, "b c h w"]:
        """The drawn view of each of these images, scaled."""
        images = self.images[indices.to(self.images.device)]
        return self.scaling.normalise(make_view(images, draws, settings, self.shape[1:]))
