"""Does an image show its label? A zero-shot model of transformers (CLIP, SigLIP) weighs it against other texts."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from augment_synth.filters import Likeness
from workbench.errors import UserError

AUTO, NONE = "auto", "none"
DEFAULT = "openai/clip-vit-large-patch14"
POSITIVE = "a photo of a {}"
NEGATIVES = ("a photo of an object", "a photo of a texture", "a photo of an empty place", "a black image", "noise")
AT_ONCE = 64


class ZeroShotLikeness:
    """The share of the label's description in a softmax of it and the likeliest of the others."""

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.model, self.processor, self.name = model.eval(), processor, name

    @classmethod
    def load(cls, name: str, device: str = "cpu") -> "ZeroShotLikeness":
        """By folder or hub name. Raises `UserError` where it cannot be had."""
        from transformers import AutoModelForZeroShotImageClassification, AutoProcessor

        try:
            processor = AutoProcessor.from_pretrained(name)
            model = AutoModelForZeroShotImageClassification.from_pretrained(name, use_safetensors=True).to(device)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{name} cannot be opened as a model of images and texts ({str(error).splitlines()[0]}); give the "
                f"folder or hub name of one, such as {DEFAULT}, or --semantic-filter none"
            ) from error
        return cls(model, processor, name)

    @torch.no_grad()
    def scores(self, images: UInt8[Tensor, "n 3 h w"], labels: Sequence[str]) -> Float[Tensor, " n"]:
        """Of each image, for its label."""
        names = list(dict.fromkeys(labels))
        texts = [*(POSITIVE.format(name.lower()) for name in names), *NEGATIVES]
        own = torch.tensor([names.index(label) for label in labels])
        logits = torch.cat([self._logits(part, texts) for part in images.split(AT_ONCE)])
        rival = logits[:, len(names) :].amax(1)
        return (logits.gather(1, own[:, None])[:, 0] - rival).sigmoid()

    def _logits(self, images: UInt8[Tensor, "n 3 h w"], texts: Sequence[str]) -> Float[Tensor, "n texts"]:
        pictures = [image.permute(1, 2, 0).numpy() for image in images]
        inputs = self.processor(text=list(texts), images=pictures, return_tensors="pt", padding=True)
        return self.model(**inputs.to(self.model.device)).logits_per_image.float().cpu()


def open_likeness(spec: str, device: str = "cpu") -> Likeness | None:
    """auto: CLIP where it is on disk, else none; none; or a folder or hub name."""
    from explain.describe import on_disk

    if spec == NONE or (spec == AUTO and not on_disk(DEFAULT)):
        return None
    return ZeroShotLikeness.load(DEFAULT if spec == AUTO else spec, device)
