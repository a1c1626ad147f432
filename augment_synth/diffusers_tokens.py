"""A new word for a text-to-image model of diffusers (Stable Diffusion): four embeddings in its prompt, all else frozen.

Textual inversion (Gal et al., 2022). The words' embeddings take the place of as many in the encoded prompt; the
tokenizer and the table of embeddings are never changed, so that several words do not get into each other's way.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from augment_synth.components import ComponentKind
from augment_synth.edit_log import weights_hash
from workbench import seeds
from workbench.errors import UserError
from workbench.progress import progress

PROMPT = "a photo of"  # and then the word
VECTORS, BATCH, AT_ONCE = 4, 4, 8
LEARNING_RATE, GUIDANCE_SCALE = 2e-3, 7.5
INVERSION_STREAM, LATENT_STREAM = 53, 54


class DiffusersTokens:
    """A StableDiffusionPipeline that learns words for labels and makes images of them."""

    kind: ComponentKind = "real"

    def __init__(
        self, pipe: Any, label_names: Sequence[str], num_inference_steps: int, guidance_scale: float | None = None
    ) -> None:
        self.pipe, self.label_names, self.num_inference_steps = pipe, label_names, num_inference_steps
        self.guidance_scale = GUIDANCE_SCALE if guidance_scale is None else guidance_scale
        self.editor = f"textual inversion of {type(pipe).__name__}"
        side = pipe.unet.config.sample_size * pipe.vae_scale_factor
        self.size: tuple[int, int] = (side, side)
        self.hash = weights_hash(pipe.unet)
        for module in (pipe.unet, pipe.vae, pipe.text_encoder):
            module.eval().requires_grad_(False)
        pipe.set_progress_bar_config(disable=True)

    @classmethod
    def load(
        cls, name: str, label_names: Sequence[str], num_inference_steps: int, guidance_scale: float | None, device: str
    ) -> "DiffusersTokens":
        """By folder or hub name. Raises `UserError` where it cannot be had, or is another kind of model."""
        from diffusers import StableDiffusionPipeline

        try:
            pipe = StableDiffusionPipeline.from_pretrained(name, use_safetensors=True).to(device)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{name} cannot be opened as a Stable Diffusion model ({str(error).splitlines()[0]}); give "
                "diffusers: and the folder or hub name of one, an rpe2d generator, or --generator direct"
            ) from error
        return cls(pipe, label_names, num_inference_steps, guidance_scale)

    def invert(
        self, images: UInt8[Tensor, "n 3 h w"], label: int, steps: int, seed: int
    ) -> Float[Tensor, "vectors width"]:
        """The word's embeddings, from those of the label's own name, by the model's own loss."""
        from diffusers import DDPMScheduler

        scheduler = DDPMScheduler.from_config(self.pipe.scheduler.config)
        latents = self._latents(images, seed)
        embedding = nn.Parameter(self._name(label).repeat(VECTORS, 1))
        optimizer = torch.optim.AdamW([embedding], LEARNING_RATE)
        with progress(steps, "textual inversion") as bar:
            for step in range(steps):
                generator = seeds.generator(seed, INVERSION_STREAM, label, step + 1)
                chosen = torch.randint(len(latents), (min(BATCH, len(latents)),), generator=generator)
                noise = torch.randn(latents[chosen].shape, generator=generator).to(latents.device)
                time = torch.randint(scheduler.config.num_train_timesteps, (len(chosen),), generator=generator)
                loss = self._loss(embedding, latents[chosen], noise, time.to(latents.device), scheduler)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                bar.update()
        return embedding.detach().cpu()

    def sample(
        self, label: int, embedding: Float[Tensor, "vectors width"], drawn_seeds: Sequence[int]
    ) -> UInt8[Tensor, "n 3 h w"]:
        """Images of the word, each from its own seed."""
        made = []
        with torch.no_grad():
            wanted, nothing = self.encoded(PROMPT, embedding.to(self.pipe.device)), self.encoded("")
        for first in range(0, len(drawn_seeds), AT_ONCE):
            own = drawn_seeds[first : first + AT_ONCE]
            pictures = self.pipe(
                prompt_embeds=wanted.expand(len(own), -1, -1), negative_prompt_embeds=nothing.expand(len(own), -1, -1),
                generator=[torch.Generator().manual_seed(seed) for seed in own], guidance_scale=self.guidance_scale,
                num_inference_steps=self.num_inference_steps, output_type="pt",
            ).images  # fmt: skip
            made.append((pictures.float().cpu() * 255).round().clamp(0, 255).byte())
        return torch.cat(made)

    def encoded(
        self, words: str, embedding: Float[Tensor, "vectors width"] | None = None
    ) -> Float[Tensor, "1 length width"]:
        """What the text encoder makes of words, followed by the new word where there is one."""
        tokenizer, encoder = self.pipe.tokenizer, self.pipe.text_encoder
        count, length = 0 if embedding is None else len(embedding), tokenizer.model_max_length
        known = tokenizer(words, add_special_tokens=False).input_ids[: length - count - 2]
        first, filler = 1 + len(known), tokenizer.eos_token_id
        ids = [tokenizer.bos_token_id, *known, *[filler] * count, tokenizer.eos_token_id]
        ids += [tokenizer.pad_token_id] * (length - len(ids))
        if embedding is None:
            return encoder(torch.tensor([ids], device=encoder.device))[0]

        def put(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return torch.cat([output[:, :first], embedding[None].to(output), output[:, first + count :]], 1)

        handle = encoder.get_input_embeddings().register_forward_hook(put)
        try:
            return encoder(torch.tensor([ids], device=encoder.device))[0]
        finally:
            handle.remove()

    def _name(self, label: int) -> Float[Tensor, "1 width"]:
        """The mean embedding of the label's name."""
        tokens = self.pipe.tokenizer(self.label_names[label].lower(), add_special_tokens=False).input_ids
        return self.pipe.text_encoder.get_input_embeddings().weight[tokens].float().mean(0, keepdim=True)

    @torch.no_grad()
    def _latents(self, images: UInt8[Tensor, "n 3 h w"], seed: int) -> Float[Tensor, "m c rows columns"]:
        """Of the images and their mirror images, encoded once."""
        vae, generator = self.pipe.vae, seeds.generator(seed, LATENT_STREAM)
        pixels = torch.cat([images, images.flip(3)]).split(AT_ONCE)
        found = []
        for part in pixels:
            spread = vae.encode((part.float() / 127.5 - 1).to(vae.device, vae.dtype)).latent_dist
            noise = torch.randn(spread.mean.shape, generator=generator).to(spread.mean)
            found.append((spread.mean + spread.std * noise) * vae.config.scaling_factor)
        return torch.cat(found)

    def _loss(self, embedding: Tensor, latents: Tensor, noise: Tensor, time: Tensor, scheduler: Any) -> Tensor:
        noisy = scheduler.add_noise(latents, noise, time)
        states = self.encoded(PROMPT, embedding).expand(len(latents), -1, -1)
        predicted = self.pipe.unet(noisy, time, encoder_hidden_states=states).sample
        velocity = scheduler.config.prediction_type == "v_prediction"
        return F.mse_loss(
            predicted.float(), (scheduler.get_velocity(latents, noise, time) if velocity else noise).float()
        )
