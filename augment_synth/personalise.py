"""New images without a spurious feature, from a trained RPE-2D generator that learns one new word for them.

Textual inversion (Gal et al., 2022): a new row in the table of tokens, all else frozen, optimised on the edits of one
class with the generator's own loss. The row begins at zero, where it changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from augment_synth.aspire import Discovery
from augment_synth.debias_config import DebiasConfig
from augment_synth.edit_log import EditRow, content_hash
from augment_synth.synthetic import Synthetic, decoded, direct
from workbench import seeds
from workbench.devices import choose_device
from workbench.errors import UserError
from workbench.files import make_folder, sha256_file
from workbench.pictures import resize_images
from workbench.progress import progress

DIRECT = "direct"
BATCH, AT_ONCE, LEARNING_RATE = 16, 64, 5e-3
SHARE, LEAST = 0.25, 100  # images to make of a class: a quarter of its real ones, and so many at least
INVERSION_STREAM, SAMPLE_STREAM = 51, 52


@dataclass(frozen=True)
class Concept:
    """A token that was learned from edits of one class."""

    label: int
    token: str
    embedding: Float[Tensor, " width"]
    removed: str
    edits: int
    sha256: str


def synthetic_images(config: DebiasConfig, discovery: Discovery, edits: Sequence[EditRow], folder: Path) -> Synthetic:
    """What to train on besides the data: the edits, or what a generator makes of them."""
    if config.generator == DIRECT or not edits:
        return direct(discovery, edits)
    from gen.loading import load_generator

    pipe = load_generator(config.generator, str(choose_device(config.device)))
    return generated(config, discovery, edits, pipe, folder)


def generated(
    config: DebiasConfig, discovery: Discovery, edits: Sequence[EditRow], pipe: Any, folder: Path
) -> Synthetic:
    """A new token for each class with edits, learned once and kept in `folder`, and images made with it."""
    data = discovery.editing.subject.data
    _check(pipe, config.generator, data.label_names)
    size = (data.images.shape[-2], data.images.shape[-1])
    images, rows = [], []
    for label in sorted({row.label for row in edits}):
        own = [row for row in edits if row.label == label]
        concept = personalise(pipe, label, own, config.personalisation_steps, config.seed, folder)
        count = max(LEAST, round(SHARE * int((data.labels == label).sum())))
        made = sample(pipe, concept, count, config)
        images.append(resize_images(made, size))
        rows += [_row(concept, config, pipe, number) for number in range(count)]
    return Synthetic(torch.cat(images), rows)


def _check(pipe: Any, name: str, label_names: Sequence[str]) -> None:
    if type(pipe).__name__ != "RPE2DPipeline" or pipe.vae is not None:
        raise UserError(f"{name} cannot learn a new token: give an rpe2d generator of pixels, or --generator direct")
    if tuple(pipe.label_names) != tuple(label_names):
        made, wanted = (", ".join(names) for names in (pipe.label_names, label_names))
        raise UserError(f"{name} makes {made}, not {wanted}: train one on the data")


# ---- learning a token ------------------------------------------------------------------------------------------------


def personalise(pipe: Any, label: int, edits: Sequence[EditRow], steps: int, seed: int, folder: Path) -> Concept:
    """Learn a token from edits of one class, or read it where it was learned from the same ones before."""
    from safetensors.torch import load_file, save_file

    removed = ", ".join(sorted({row.phrase for row in edits}))
    weights = {name: value.cpu().numpy().tobytes() for name, value in pipe.transformer.state_dict().items()}
    key = content_hash([weights, steps, seed, [row.png for row in edits]])
    path = folder / f"token-{label}-{key}.safetensors"
    if not path.exists():
        make_folder(folder)
        pixels = resize_images(decoded(edits, pipe.native_size), pipe.native_size)
        save_file({"embedding": invert(pipe.transformer, pixels, label, steps, seed)}, path)
    return Concept(label, f"<{label}>", load_file(path)["embedding"], removed, len(edits), sha256_file(path))


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


# ---- making images ---------------------------------------------------------------------------------------------------


def sample(pipe: Any, concept: Concept, count: int, config: DebiasConfig) -> UInt8[Tensor, "n 3 h w"]:
    """Images of the label with its new token, each from its own seed; guidance is towards both."""
    pipe.set_progress_bar_config(disable=True)
    made = []
    with _added(pipe.transformer, concept.embedding.to(pipe.transformer.device)):
        for first in range(0, count, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, count))
            generators = [torch.Generator().manual_seed(sample_seed(config.seed, concept.label, k)) for k in numbers]
            pictures = pipe(
                class_labels=[concept.label] * len(numbers), generator=generators, output_type="pt",
                num_inference_steps=config.num_inference_steps, guidance_scale=config.guidance_scale,
            ).images  # fmt: skip
            made.append((pictures.float().cpu() * 255).round().clamp(0, 255).byte())
    return torch.cat(made).expand(-1, 3, -1, -1).contiguous()


def sample_seed(seed: int, label: int, number: int) -> int:
    """Of one image."""
    return seeds.generator(seed, SAMPLE_STREAM, label + 1, number + 1).initial_seed() % 2**31


def _row(concept: Concept, config: DebiasConfig, pipe: Any, number: int) -> dict[str, Any]:
    """Provenance of a generated image."""
    height, width = pipe.native_size
    return {
        "label": concept.label, "source": "generated", "generator": config.generator,
        "seed": sample_seed(config.seed, concept.label, number), "guidance_scale": config.guidance_scale,
        "num_inference_steps": config.num_inference_steps, "generated_height": height, "generated_width": width,
        "concept_token": concept.token, "concept_sha256": concept.sha256, "concept_edits": concept.edits,
        "removed_feature": concept.removed, "replaced_by": None, "background": None,
        "editor": "textual inversion of rpe2d", "editor_kind": "offline_standin",
    }  # fmt: skip
