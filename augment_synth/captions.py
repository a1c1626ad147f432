"""Who says what an image shows: the data set's own captions, a released captioner by name, or a small one of ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor

from augment_synth.components import Component
from workbench.errors import UserError

AUTO, OWN = "auto", "column"
DEFAULT = "Salesforce/blip-image-captioning-base"
MAX_NEW_TOKENS = 60
PROMPT = "Describe the objects and the background of this image in one short sentence."


@runtime_checkable
class Captioner(Protocol):
    """Captions of images, a batch at a time. `positions` are theirs in the data set."""

    component: Component

    def caption(self, images: UInt8[Tensor, "n 3 h w"], positions: Sequence[int]) -> list[str]: ...


class OwnCaptions:
    """What the data set says of its images itself."""

    def __init__(self, captions: Sequence[str], column: str) -> None:
        self.captions = captions
        self.component = Component("caption", f"column {column}", "data", "the data set's own captions")

    def caption(self, images: UInt8[Tensor, "n 3 h w"], positions: Sequence[int]) -> list[str]:
        """As they are."""
        return [self.captions[position] for position in positions]


class SmallCaptioner:
    """A captioner of `workbench caption train`; it knows only what it learned."""

    def __init__(self, folder: Path, name: str, device: str) -> None:
        from explain.captioner import Captioner as Trained

        self.captioner = Trained.load(folder, device)
        self.component = Component(
            "caption", name, "offline_standin", f"a small captioner, learned from {self.captioner.record['data']}"
        )

    def caption(self, images: UInt8[Tensor, "n 3 h w"], positions: Sequence[int]) -> list[str]:
        """Its most likely captions."""
        return [caption.text for caption in self.captioner.caption(images)]


class ReleasedCaptioner:
    """An image-to-text model of transformers: BLIP, GIT, Florence-2, or an instruction model with a chat template."""

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.model, self.processor = model.eval(), processor
        self.component = Component("caption", name, "real", type(model).__name__)

    @classmethod
    def load(cls, name: str, device: str = "cpu") -> "ReleasedCaptioner":
        """By folder or hub name. Raises `UserError` where it cannot be had."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            processor = AutoProcessor.from_pretrained(name)
            model = AutoModelForImageTextToText.from_pretrained(name, use_safetensors=True).to(device)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{name} cannot be opened as a captioner ({str(error).splitlines()[0]}); give the folder or hub name "
                f"of one, such as {DEFAULT}, or the folder of workbench caption train"
            ) from error
        return cls(model, processor, name)

    @torch.no_grad()
    def caption(self, images: UInt8[Tensor, "n 3 h w"], positions: Sequence[int]) -> list[str]:
        """One `generate` for the batch, each word the most likely one."""
        pictures = [image.permute(1, 2, 0).numpy() for image in images]
        inputs = self._inputs(pictures).to(self.model.device)
        written = self.model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        if getattr(self.processor, "chat_template", None):
            written = written[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(written, skip_special_tokens=True)]

    def _inputs(self, pictures: Sequence[Any]) -> Any:
        if getattr(self.processor, "chat_template", None):
            from PIL import Image

            question = {"type": "text", "text": PROMPT}
            shown = [{"type": "image", "image": Image.fromarray(picture)} for picture in pictures]
            asked: list[Any] = [[{"role": "user", "content": [picture, question]}] for picture in shown]
            return self.processor.apply_chat_template(
                asked, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", padding=True
            )
        if "Florence" in type(self.model).__name__:
            return self.processor(text=["<CAPTION>"] * len(pictures), images=list(pictures), return_tensors="pt")
        return self.processor(images=list(pictures), return_tensors="pt")


def open_captioner(spec: str, own: Sequence[str] | None, column: str, device: str = "cpu") -> Captioner:
    """auto: the data's own captions, else BLIP where it is on disk; column: the data's own; else a folder or hub name.

    Raises `UserError` where there are no captions and no captioner.
    """
    if spec in (AUTO, OWN) and own is not None:
        return OwnCaptions(own, column)
    if spec == OWN:
        raise UserError(f"the data set has no column {column!r}: name another with --caption-column, or a --captioner")
    if spec == AUTO:
        return _at_hand(column, device)
    from explain.captioner import captioner_folder

    folder = captioner_folder(spec)
    return SmallCaptioner(folder, spec, device) if folder else ReleasedCaptioner.load(spec, device)


def _at_hand(column: str, device: str) -> Captioner:
    from explain.describe import on_disk

    if on_disk(DEFAULT):
        return ReleasedCaptioner.load(DEFAULT, device)
    raise UserError(
        f"the data set has no captions (no column {column!r}) and no captioner is on disk: give --captioner with the "
        f"folder of workbench caption train or a hub name such as {DEFAULT}, --caption-column, or the features to try "
        "as --edits background:grass object:ball"
    )
