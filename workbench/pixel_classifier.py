"""Any image classifier as one function: pixels in [0, 1] -> logits, with resizing and normalisation inside.

Every explainer and measure works on `PixelClassifier` alone, so masks and edits always happen in pixel space.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from workbench.errors import UserError

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights of PIL's convert("L")


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of its pixels: resized to `size` (h, w), then `(pixels - mean) / std`.

    `size` None keeps the size of the input; `reversed_channels` feeds blue, green, red. Raises `UserError`
    when `mean` and `std` do not fit each other.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    reversed_channels: bool = False

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise UserError(
                f"mean {self.mean} and std {self.std} cannot normalise pixels: "
                "give one mean and one std above 0 for each channel, for pixels in [0, 1]"
            )


class PixelClassifier(nn.Module):
    """A classifier of float pixels in [0, 1], NCHW, any size, gray or colour; returns logits (B, K).

    `label_names` names the K classes and is empty when nobody named them; `multi_label` says that an image may belong
    to several of them. Differentiable with respect to the pixels; gradients are switched off by the caller, if at all.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        label_names: Sequence[str] = (),
        multi_label: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing
        self.label_names = tuple(label_names)
        self.multi_label = multi_label
        device = next((parameter.device for parameter in network.parameters()), None)
        self.register_buffer("mean", torch.tensor(preprocessing.mean, device=device).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std, device=device).view(-1, 1, 1))

    @classmethod
    def wrap(
        cls,
        model: nn.Module,
        processor_or_weights: Any = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        size: int | tuple[int, int] | None = None,
        multi_label: bool | None = None,
    ) -> "PixelClassifier":
        """Wrap a torch, torchvision, timm or transformers classifier and put it in eval mode.

        Normalisation, size and names come from torchvision weights or a transformers image processor
        (`processor_or_weights`), or from the `pretrained_cfg` of a timm model; what is given explicitly wins.
        The whole image is resized to `size` (h, w), never cropped, so that a saliency map covers all of it.
        A plain module without `mean` and `std` is assumed to take [0, 1] itself, with a warning. `multi_label` is
        what the configuration of a transformers model says, else False. Raises `UserError` when the pieces do not fit.
        """
        preprocessing = _known_preprocessing(model, processor_or_weights)
        if (mean is None) != (std is None):
            raise UserError("only one of mean and std was given: give both, for pixels in [0, 1]")
        if mean is not None and std is not None:
            base = preprocessing or Preprocessing((0.0,), (1.0,))
            preprocessing = replace(base, mean=_as_tuple(mean), std=_as_tuple(std))
        if preprocessing is None:
            warnings.warn(
                f"no normalisation is known for {type(model).__name__}, so it is given pixels in [0, 1] "
                "as they are: pass mean and std to PixelClassifier.wrap",
                stacklevel=2,
            )
            preprocessing = Preprocessing((0.0,), (1.0,))
        if size is not None:
            preprocessing = replace(preprocessing, size=(size, size) if isinstance(size, int) else size)
        names = _known_names(model, processor_or_weights) if class_names is None else class_names
        if multi_label is None:
            problem = getattr(getattr(model, "config", None), "problem_type", None)
            multi_label = problem == "multi_label_classification"
        return cls(model.eval(), _fit_channels(preprocessing, model), names, multi_label)

    @property
    def channels(self) -> int:
        """Channels that the network takes; gray and colour input are converted to it."""
        return len(self.preprocessing.mean)

    def label_name(self, index: int) -> str:
        """Name of a class, "class 7" when nobody named it."""
        return self.label_names[index] if self.label_names else f"class {index}"

    def forward(self, pixels: Shaped[Tensor, "..."]) -> Float[Tensor, "b k"]:
        """Logits (B, K) of float pixels (B, C, H, W) in [0, 1]; raises `UserError` for other input."""
        if not pixels.is_floating_point():
            raise UserError(
                f"a classifier takes float pixels in [0, 1], not {pixels.dtype}: write images.float() / 255"
            )
        if pixels.ndim != 4:
            raise UserError(
                f"a classifier takes pixels of shape (B, C, H, W), not {tuple(pixels.shape)}: "
                "add a batch axis with pixels[None] where it is missing"
            )
        dtype = next((parameter.dtype for parameter in self.network.parameters()), pixels.dtype)
        return self._logits(self.network(self.preprocess(pixels).to(dtype)))

    def probabilities(self, logits: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Probability of each class: of one class among all, or with `multi_label` of each by itself."""
        return logits.sigmoid() if self.multi_label else logits.softmax(-1)

    def preprocess(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b channels height width"]:
        """Pixels in [0, 1] as the network wants them: channels, size and normalisation."""
        wanted = self.preprocessing
        pixels = _convert_channels(pixels, self.channels)
        if wanted.size is not None and tuple(pixels.shape[-2:]) != wanted.size:
            pixels = F.interpolate(pixels, wanted.size, mode=wanted.interpolation, align_corners=False, antialias=True)
        if wanted.reversed_channels:
            pixels = pixels.flip(1)
        return (pixels - self.mean) / self.std

    def shrink(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c height width"]:
        """Pixels in [0, 1] brought down to the network's size along each axis where they are larger, as `preprocess`
        would do it.

        The logits stay what they are, and many changed copies of an image take less time.
        """
        wanted, size = self.preprocessing, (pixels.shape[-2], pixels.shape[-1])
        smaller = size if wanted.size is None else (min(size[0], wanted.size[0]), min(size[1], wanted.size[1]))
        if smaller == size:
            return pixels
        return F.interpolate(pixels, smaller, mode=wanted.interpolation, align_corners=False, antialias=True)

    def fingerprint(self) -> str:
        """16 hexadecimal digits: they change with the preprocessing and any layer's name, shape or weights.

        Up to 32 evenly spread values of each tensor are read, so it is quick for large networks.
        """
        digest = hashlib.sha256(repr(self.preprocessing).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            values = tensor.detach().flatten()[:: max(1, tensor.numel() // 16)].float().cpu()
            digest.update(f"{name} {tuple(tensor.shape)}".encode() + values.numpy().tobytes())
        return digest.hexdigest()[:16]

    def _logits(self, output: Any) -> Tensor:
        logits = getattr(output, "logits", output)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise UserError(f"the model returned {shape} where a classifier returns logits of shape (B, K)")
        if self.label_names and len(self.label_names) != logits.shape[1]:
            raise UserError(
                f"the model returned {logits.shape[1]} logits for {len(self.label_names)} class names: "
                "pass one name for each class as class_names"
            )
        return logits


# What the libraries know about their models


def _known_preprocessing(model: nn.Module, source: Any) -> Preprocessing | None:
    if hasattr(source, "transforms"):
        return _from_torchvision(source.transforms())
    if hasattr(source, "do_rescale"):
        return _from_transformers(source)
    if source is not None:
        raise UserError(
            f"{type(source).__name__} says nothing about pixels: "
            "pass torchvision weights or a transformers image processor, or mean and std"
        )
    configuration = getattr(model, "pretrained_cfg", None)
    return _from_timm(configuration) if configuration else None


def _from_torchvision(transforms: Any) -> Preprocessing:
    height, width = (*transforms.crop_size, *transforms.crop_size)[:2]
    return Preprocessing(
        tuple(transforms.mean),
        tuple(transforms.std),
        (height, width),
        "bicubic" if transforms.interpolation.value == "bicubic" else "bilinear",
    )


def _from_timm(configuration: Mapping[str, Any]) -> Preprocessing:
    _, height, width = configuration["input_size"]
    return Preprocessing(
        tuple(configuration["mean"]),
        tuple(configuration["std"]),
        (height, width),
        "bicubic" if configuration["interpolation"] == "bicubic" else "bilinear",
    )


def _from_transformers(processor: Any) -> Preprocessing:
    """What an image processor does to a black, a white and a red image.

    All of them are affine in the pixels, but the fields that say how differ from one class to the next.
    """
    images = torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    images[1] = 255
    images[2, 0] = 255
    shown = processor(list(images.numpy()), return_tensors="pt")["pixel_values"].double()
    height, width = shown.shape[-2:]
    black, white, red = shown[:, :, height // 2, width // 2]
    scale = white - black
    return Preprocessing(
        tuple(round(value, 6) for value in (-black / scale).tolist()),
        tuple(round(value, 6) for value in (1 / scale).tolist()),
        (height, width) if processor.do_resize else None,
        "bicubic" if int(processor.resample) in (1, 3) else "bilinear",  # PIL: 1 Lanczos, 3 bicubic
        reversed_channels=bool(red[0] == black[0]),
    )


def _known_names(model: nn.Module, source: Any) -> tuple[str, ...]:
    if hasattr(source, "meta"):
        return tuple(source.meta.get("categories", ()))
    id2label = getattr(getattr(model, "config", None), "id2label", None)
    if id2label:
        return tuple(name for _, name in sorted((int(index), name) for index, name in id2label.items()))
    return _timm_names(model)


def _timm_names(model: Any) -> tuple[str, ...]:
    configuration = getattr(model, "pretrained_cfg", None) or {}
    names = configuration.get("label_names") or ()
    if not names and "in1k" in (configuration.get("tag") or ""):
        from timm.data import ImageNetInfo

        names = ImageNetInfo("imagenet-1k").label_descriptions()
    # A head replaced for another task keeps the configuration of the old one.
    return tuple(names) if len(names) == getattr(model, "num_classes", 0) else ()


# Channels


def _fit_channels(preprocessing: Preprocessing, model: nn.Module) -> Preprocessing:
    """Mean and std for as many channels as the first convolution takes, as they are where there is none."""
    mean, std = preprocessing.mean, preprocessing.std
    convolution = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    channels = len(mean) if convolution is None else convolution.in_channels
    if len(mean) == channels:
        return preprocessing
    if len(mean) == 1:
        return replace(preprocessing, mean=mean * channels, std=std * channels)
    if (len(mean), channels) == (3, 1):
        return replace(preprocessing, mean=(_luma(mean),), std=(_luma(std),))
    raise UserError(
        f"mean and std are given for {len(mean)} channels but the model takes {channels}: give {channels} numbers each"
    )


def _convert_channels(pixels: Float[Tensor, "b c h w"], channels: int) -> Float[Tensor, "b channels h w"]:
    given = pixels.shape[1]
    if given == channels:
        return pixels
    if given == 1:
        return pixels.expand(-1, channels, -1, -1)
    if (given, channels) == (3, 1):
        return (pixels * pixels.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    raise UserError(
        f"images of {given} channels cannot be shown to a classifier of {channels}: "
        f"give images of 1 or {channels} channels"
    )


def _luma(values: Sequence[float]) -> float:
    return sum(weight * value for weight, value in zip(LUMA, values, strict=True))


def _as_tuple(values: float | Sequence[float]) -> tuple[float, ...]:
    return (float(values),) if isinstance(values, int | float) else tuple(float(value) for value in values)
