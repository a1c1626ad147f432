"""From pixels in [0, 1] to the space that networks are trained in, and back; fitted on the real training images."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from distill.config import Preprocessing
from workbench.errors import UserError

Images = Float[Tensor, "n c h w"]

ZCA_EPSILON = 0.1  # added to the eigenvalues, as everywhere in this field
ZCA_LARGEST = 8192  # numbers in an image; the covariance has their square
MOST_FITTED = 8192  # images at a time, for memory


class Transform(ABC):
    """An invertible map of images, held as the tensors that `state` gives."""

    names: ClassVar[tuple[str, ...]]  # of its tensors
    kind: ClassVar[Preprocessing]

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    @classmethod
    @abstractmethod
    def fit(cls, images: Images) -> "Transform":
        """The map for these training images in [0, 1]; computed in float64, kept in float32."""

    @abstractmethod
    def apply(self, images: Images) -> Images:
        """From [0, 1] to training space."""

    @abstractmethod
    def invert(self, images: Images) -> Images:
        """From training space to pixels; not clipped."""

    def state(self) -> dict[str, Tensor]:
        """The tensors by name, for safetensors."""
        return {name: tensor.contiguous() for name, tensor in zip(self.names, self.tensors, strict=True)}

    @staticmethod
    def from_state(state: Mapping[str, Tensor]) -> "Transform":
        """The transform whose `state()` is among these tensors. Raises UserError where none is."""
        for one in TRANSFORMS.values():
            if all(name in state for name in one.names):
                return one(*[state[name] for name in one.names])
        raise UserError(
            f"there is no transform among the tensors {', '.join(state) or '(none)'}; "
            "the file is not of a distilled set or of experts: make it again"
        )


class Standard(Transform):
    """Each channel to mean 0 and standard deviation 1."""

    names = ("mean", "std")
    kind = "standard"

    @classmethod
    def fit(cls, images: Images) -> "Standard":
        """Mean and standard deviation of each channel over all images; a constant channel is left at its scale."""
        channels = images.transpose(0, 1).flatten(1).double()
        std = channels.std(1, correction=0)
        return cls(channels.mean(1).float(), torch.where(std > 1e-6, std, 1).float())

    def apply(self, images: Images) -> Images:
        """From [0, 1] to training space."""
        mean, std = self._for(images)
        return (images - mean) / std

    def invert(self, images: Images) -> Images:
        """From training space to pixels; not clipped."""
        mean, std = self._for(images)
        return images * std + mean

    def _for(self, images: Images) -> list[Tensor]:
        return [tensor.to(images)[:, None, None] for tensor in self.tensors]


class ZCA(Transform):
    """Whitening that changes an image least: z = (x - mu) U (S + 0.1)^(-1/2) U^T, with covariance U S U^T."""

    names = ("zca_mean", "zca_matrix", "zca_inverse")
    kind = "zca"

    @classmethod
    def fit(cls, images: Images) -> "ZCA":
        """Mean and unbiased covariance of all numbers of an image. Raises UserError for too large images."""
        if images[0].numel() > ZCA_LARGEST:
            raise UserError(
                f"ZCA of images of {images[0].numel()} numbers would need a matrix of their square; "
                "give --preprocessing standard, or a smaller --resolution"
            )
        rows = images.flatten(1)
        mean = rows.mean(0, dtype=torch.float64)
        covariance = sum((part.double() - mean).mT @ (part.double() - mean) for part in rows.split(MOST_FITTED))
        values, vectors = torch.linalg.eigh(covariance / (len(rows) - 1))
        scale = (values.clamp(min=0) + ZCA_EPSILON).sqrt()
        return cls(mean.float(), ((vectors / scale) @ vectors.mT).float(), ((vectors * scale) @ vectors.mT).float())

    def apply(self, images: Images) -> Images:
        """From [0, 1] to training space."""
        mean, matrix, _ = (tensor.to(images) for tensor in self.tensors)
        return ((images.flatten(1) - mean) @ matrix).view_as(images)

    def invert(self, images: Images) -> Images:
        """From training space to pixels; not clipped."""
        mean, _, inverse = (tensor.to(images) for tensor in self.tensors)
        return (images.flatten(1) @ inverse + mean).view_as(images)


TRANSFORMS: dict[Preprocessing, type[Transform]] = {"standard": Standard, "zca": ZCA}


def fit(kind: Preprocessing, images: Images) -> Transform:
    """The transform of a kind for these training images in [0, 1]."""
    return TRANSFORMS[kind].fit(images)
