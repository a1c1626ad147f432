"""The latent space of a diffusers VAE: opening one, images to latents of about unit variance, and back.

vae = load_vae("vaes/sd-vae-ft-ema", "cuda")
latents = encode(vae, images, generators)     # images in [-1, 1]
images = decode(vae, latents)
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import ModelMixin
from huggingface_hub.errors import LocalEntryNotFoundError
from jaxtyping import Float
from torch import Tensor

from gen.pipelines import Generators
from workbench.errors import UserError

FAMILIES = ("Autoencoder", "Asymmetric", "VQModel")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
TILE_ABOVE = 1024  # pixels along a side


def load_vae(name: str | Path, device: torch.device | str = "cpu") -> ModelMixin:
    """An image autoencoder of diffusers in fp32, for evaluation: a folder, a pipeline's folder, or a hub name.

    Reads safetensors only, and never code. Raises UserError where there is none, where its files are damaged, and for
    autoencoders of anything else than single images.
    """
    location = _locate(name)
    kind = _class(location, name)
    try:
        vae, report = kind.from_pretrained(
            location, use_safetensors=True, torch_dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise UserError(
            f"the VAE {name} cannot be loaded: {_reason(error)}; give a folder with whole .safetensors weights"
        ) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"the VAE {name} lacks {len(missing)} weights, such as {missing[0]}; copy it again")
    vae.eval().requires_grad_(False)
    _try(vae, name)
    return vae.to(device)


def _locate(name: str | Path) -> str:
    """The folder itself, its `vae` where it is a pipeline's, or a hub name unchanged."""
    for folder in (Path(name), Path(name) / "vae"):
        if (folder / "config.json").is_file():
            return str(folder)
    if HUB_NAME.fullmatch(str(name)) and not Path(name).parent.exists():
        return str(name)
    raise UserError(
        f"there is no VAE in {name}; give a folder that diffusers saved (config.json and .safetensors weights), "
        "or a hub name (owner/name)"
    )


def _class(location: str, name: str | Path) -> Any:
    try:
        kind = str(diffusers.AutoencoderKL.load_config(location).get("_class_name"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"the config.json of the VAE {name} cannot be read: {_reason(error)}; correct the name, or copy it again"
        ) from error
    if not kind.startswith(FAMILIES) or not hasattr(diffusers, kind):
        raise UserError(f"{name} holds a {kind}, not a VAE; give an autoencoder of diffusers, such as AutoencoderKL")
    return getattr(diffusers, kind)


def _reason(error: Exception) -> str:
    """Its first line. diffusers says of a hub that cannot be reached that it lacks the file; its cause says more."""
    cause = error.__context__
    return str(cause if isinstance(cause, LocalEntryNotFoundError) else error).strip().splitlines()[0]


def _try(vae: ModelMixin, name: str | Path) -> None:
    """Autoencoders of video and sound have the same names: see that one image makes the way there and back."""
    try:
        factor = compression_factor(vae)
        image = torch.zeros(1, image_channels(vae), 2 * factor, 3 * factor)
        latents = encode(vae, image, torch.Generator())
        fits = latents.shape == (1, latent_channels(vae), 2, 3) and decode(vae, latents).shape == image.shape
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(_not_for_images(vae, name)) from error
    if not fits:
        raise UserError(_not_for_images(vae, name))


def _not_for_images(vae: ModelMixin, name: str | Path) -> str:
    return (
        f"{name} is an {type(vae).__name__} that does not encode single images to one grid; "
        "give an image autoencoder, such as AutoencoderKL"
    )


# ------------------------------------------------------------------------------------------------ what its config says


def image_channels(vae: ModelMixin) -> int:
    """Channels of the images it takes: 1 or 3."""
    return int(vae.config.get("in_channels", 3))


def latent_channels(vae: ModelMixin) -> int:
    """Channels of its latents."""
    return int(vae.config.get("vq_embed_dim") or vae.config["latent_channels"])


def compression_factor(vae: ModelMixin) -> int:
    """Pixels along each side of one latent pixel."""
    blocks = vae.config.get("down_block_out_channels") or vae.config.get("block_out_channels", ())
    return int(getattr(vae, "spatial_compression_ratio", None) or 2 ** (len(blocks) - 1))


def normalisation(vae: ModelMixin) -> tuple[Float[Tensor, "*c 1 1"], Float[Tensor, "*c 1 1"]]:
    """Shift and scale of (z - shift) * scale, as diffusers' pipelines take them from the config."""
    config = vae.config
    shift = torch.tensor(config.get("latents_mean") or config.get("shift_factor") or 0.0)
    scale = (config.get("scaling_factor") or 1.0) / torch.tensor(config.get("latents_std") or 1.0)
    return shift[..., None, None], scale[..., None, None]


def checksum(vae: ModelMixin) -> str:
    """SHA-256 of what decides its latents: its class, its weights, and its shift and scale."""
    constants = [type(vae).__name__, *(value.flatten().tolist() for value in normalisation(vae))]
    digest = hashlib.sha256(json.dumps(constants).encode())
    for name, weight in sorted(vae.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------ there and back


@torch.no_grad()
def encode(vae: ModelMixin, images: Float[Tensor, "b c ih iw"], generator: Generators) -> Float[Tensor, "b k h w"]:
    """Normalised latents of images in [-1, 1], fp32; where the VAE gives a distribution, a sample of each image's own.

    Both sides are multiples of `compression_factor`. One generator for each image makes the sample independent of the
    batch; generators of the CPU give the same sample on every device.
    """
    posterior = vae.encode(images.to(vae.dtype), return_dict=False)[0]
    latents = posterior if isinstance(posterior, Tensor) else posterior.sample(generator)
    shift, scale = (value.to(latents.device) for value in normalisation(vae))
    return (latents.float() - shift) * scale


@torch.no_grad()
def decode(vae: ModelMixin, latents: Float[Tensor, "b k h w"], chunk_size: int = 8) -> Float[Tensor, "b c ih iw"]:
    """Images of normalised latents, about [-1, 1], fp32: `chunk_size` at a time, and in tiles where they are large."""
    shift, scale = (value.to(latents.device) for value in normalisation(vae))
    raw = (latents.float() / scale + shift).to(vae.dtype)
    with _tiles(vae, max(latents.shape[-2:]) * compression_factor(vae)):
        parts = [vae.decode(part, return_dict=False)[0].float() for part in raw.split(chunk_size)]
    return torch.cat(parts)


@contextmanager
def _tiles(vae: Any, side: int) -> Iterator[None]:
    """Tiling for one call, where the VAE can do it: left on it would change the latents of later encodings."""
    wanted = side > TILE_ABOVE and getattr(vae, "use_tiling", True) is False
    if wanted:
        vae.enable_tiling()
    try:
        yield
    finally:
        if wanted:
            vae.disable_tiling()
