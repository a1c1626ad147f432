"""Another background by an instruction in words, as the paper does it: InstructPix2Pix (Brooks et al., 2023).

The model changes the whole frame; what must stay is put back, so that it cannot change the label's object.
"""

from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from augment_synth.backgrounds import Swaps, composed
from augment_synth.components import Component
from workbench.errors import UserError
from workbench.pictures import resize_images

INSTRUCTION = "change the background from {old} to {new}"
STEPS, GUIDANCE, IMAGE_GUIDANCE = 30, 7.5, 1.5  # released: 100 steps
AT_ONCE = 8
MULTIPLE = 8  # of pixels along a side


class InstructionSwapper:
    """Any background that has a name. The placebo asks for the background that is there."""

    def __init__(self, pipe: Any, name: str) -> None:
        self.pipe = pipe
        self.component = Component(
            "swap background", name, "real", f"{type(pipe).__name__}, {STEPS} steps, guidance {GUIDANCE}, of the image "
            f"{IMAGE_GUIDANCE}; label and objects are put back"
        )  # fmt: skip

    @classmethod
    def load(cls, name: str, device: str = "cpu") -> "InstructionSwapper":
        """By folder or hub name. Raises `UserError` where it cannot be had."""
        from diffusers import StableDiffusionInstructPix2PixPipeline

        try:
            pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained(name, use_safetensors=True).to(device)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{name} cannot be opened as an InstructPix2Pix model ({str(error).splitlines()[0]}); give the folder "
                "or hub name of one, such as timbrooks/instruct-pix2pix, or --swapper texture"
            ) from error
        pipe.set_progress_bar_config(disable=True)
        return cls(pipe, name)

    def can_make(self, background: str) -> bool:
        """It takes any words."""
        return True

    def swap(self, wanted: Swaps) -> UInt8[Tensor, "n 3 h w"]:
        """What is kept, in the pictures that the model makes; each from its own seed."""
        starts = range(0, len(wanted.images), AT_ONCE)
        made = torch.cat([self._edited(wanted, slice(start, start + AT_ONCE)) for start in starts])
        return composed(wanted.images, wanted.kept, made)

    def _edited(self, wanted: Swaps, part: slice) -> UInt8[Tensor, "n 3 h w"]:
        images = wanted.images[part]
        words = [
            INSTRUCTION.format(old=old, new=new) for old, new in zip(wanted.old[part], wanted.new[part], strict=True)
        ]
        made = self.pipe(
            prompt=words, image=resize_images(images, self._frame(images)).float() / 255, num_inference_steps=STEPS,
            guidance_scale=GUIDANCE, image_guidance_scale=IMAGE_GUIDANCE, output_type="pt",
            generator=[torch.Generator().manual_seed(seed) for seed in wanted.seeds[part]],
        ).images  # fmt: skip
        pictures = (made.float().cpu() * 255).round().clamp(0, 255).byte()
        return resize_images(pictures, (images.shape[-2], images.shape[-1]))

    def _frame(self, images: UInt8[Tensor, "n 3 h w"]) -> tuple[int, int]:
        """Height and width at which the model works: its own side for the shorter one."""
        native = self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor
        scale = native / min(images.shape[-2:])
        height, width = (max(1, round(side * scale / MULTIPLE)) * MULTIPLE for side in images.shape[-2:])
        return height, width
