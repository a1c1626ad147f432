"""A new word for an RPE-2D generator of this workbench: one more row for its table of tokens, all else frozen.

The row begins at zero, where it changes nothing, and learns by the generator's own loss.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from augment_synth.components import ComponentKind
from augment_synth.edit_log import weights_hash
from workbench import seeds
from workbench.errors import UserError
from workbench.progress import progress

BATCH, AT_ONCE, LEARNING_RATE = 16, 64, 5e-3
GUIDANCE_SCALE = 1.5
INVERSION_STREAM = 51


class RPE2DTokens:
    """A pipeline that learns tokens for its labels and makes images of them."""

    kind: ComponentKind = "offline_standin"
    editor = "textual inversion of rpe2d"

    def __init__(self, pipe: Any, num_inference_steps: int, guidance_scale: float | None = None) -> None:
        self.pipe, self.num_inference_steps = pipe, num_inference_steps
        self.guidance_scale = GUIDANCE_SCALE if guidance_scale is None else guidance_scale
        self.size: tuple[int, int] = tuple(pipe.native_size)
        self.hash = weights_hash(pipe.transformer)
        pipe.set_progress_bar_config(disable=True)

    @classmethod
    def load(
        cls, name: str, label_names: Sequence[str], num_inference_steps: int, guidance_scale: float | None, device: str
    ) -> "RPE2DTokens":
        """A folder, run or zoo:NAME. Raises `UserError` for other generators, and for one of other labels."""
        from gen.loading import load_generator

        pipe = load_generator(name, device)
        if type(pipe).__name__ != "RPE2DPipeline" or pipe.vae is not None:
            raise UserError(
                f"{name} cannot learn a new token: give an rpe2d generator of pixels, diffusers:NAME, or "
                "--generator direct"
            )
        if tuple(pipe.label_names) != tuple(label_names):
            made, wanted = (", ".join(names) for names in (pipe.label_names, label_names))
            raise UserError(f"{name} makes {made}, not {wanted}: train one on the data")
        return cls(pipe, num_inference_steps, guidance_scale)

    def invert(self, images: UInt8[Tensor, "n 3 h w"], label: int, steps: int, seed: int) -> Float[Tensor, " width"]:
        """The token's embedding."""
        return invert(self.pipe.transformer, images, label, steps, seed)

    def sample(
        self, label: int, embedding: Float[Tensor, " width"], drawn_seeds: Sequence[int]
    ) -> UInt8[Tensor, "n 3 h w"]:
        """Images of the label with its new token, each from its own seed; guidance is towards both."""
        made = []
        with _added(self.pipe.transformer, embedding.to(self.pipe.transformer.device)):
            for first in range(0, len(drawn_seeds), AT_ONCE):
                own = drawn_seeds[first : first + AT_ONCE]
                pictures = self.pipe(
                    class_labels=[label] * len(own), generator=[torch.Generator().manual_seed(seed) for seed in own],
                    num_inference_steps=self.num_inference_steps, guidance_scale=self.guidance_scale, output_type="pt",
                ).images  # fmt: skip
                made.append((pictures.float().cpu() * 255).round().clamp(0, 255).byte())
        return torch.cat(made).expand(-1, 3, -1, -1).contiguous()


def invert(
    transformer: Any, images: UInt8[Tensor, "n 3 h w"], label: int, steps: int, seed: int
) -> Float[Tensor, " width"]:
    """The embedding of a new token that lowers the flow-matching loss on images of a label; the network stays."""
    transformer.eval().requires_grad_(False)
    device = transformer.device
    embedding = nn.Parameter(torch.zeros(_width(transformer), device=device))
    optimizer = torch.optim.AdamW([embedding], LEARNING_RATE, weight_decay=0.0)
    channels = transformer.config.in_channels
    with progress(steps, "textual inversion") as bar:
        for step in range(steps):
            generator = seeds.generator(seed, INVERSION_STREAM, label, step + 1)
            chosen = torch.randint(len(images), (min(BATCH, len(images)),), generator=generator)
            x_0 = (images[chosen].float() / 127.5 - 1).to(device)
            x_0 = x_0 if channels == 3 else x_0.mean(1, keepdim=True)
            flip = torch.rand(len(chosen), generator=generator) < 0.5
            x_0 = torch.where(flip[:, None, None, None].to(device), x_0.flip(3), x_0)
            noise = torch.randn(x_0.shape, generator=generator).to(device)
            time = torch.randn(len(chosen), generator=generator).sigmoid().to(device)
            loss = flow_loss(transformer, embedding, x_0, noise, time, torch.full((len(chosen),), label, device=device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bar.update()
    return embedding.detach().cpu()


def flow_loss(
    transformer: Any,
    embedding: Float[Tensor, " width"],
    x_0: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    time: Float[Tensor, " b"],
    labels: Int64[Tensor, " b"],
) -> Float[Tensor, ""]:
    """As in training: the mean squared error of the velocity at x_t = (1 - t) x_0 + t eps, with the token added."""
    t = time[:, None, None, None]
    with _added(transformer, embedding):
        velocity = transformer((1 - t) * x_0 + t * noise, time * 1000, labels, return_dict=False)[0]
    return F.mse_loss(velocity.float(), noise - x_0)


class _added:
    """While it lasts, an embedding is added to the condition of images with a label, as that of a token is.

    The token's row is kept apart from the table, so that the generator's own files are never changed.
    """

    def __init__(self, transformer: Any, embedding: Float[Tensor, " width"]) -> None:
        self.transformer, self.embedding = transformer, embedding

    def __enter__(self) -> None:
        none = self.transformer.config.num_classes

        def add(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            return output + self.embedding.to(output) * (inputs[0] != none)[:, None]

        self.handle = self.transformer.label_embed.register_forward_hook(add)

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def _width(transformer: Any) -> int:
    return int(transformer.config.num_attention_heads * transformer.config.attention_head_dim)
