"""The structure tokens of all training images, encoded once: the structure stage then never runs the encoder.

tokens = StructureTokens(config, examples)
tokens.prepare(run / "structure_tokens.safetensors", vqvae)
images, ids = tokens.read(indices, **tokens.draw(batch_size, generator))

A view is one of a few crops of an image, or its mirror image.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate import PartialState
from jaxtyping import Float, Int16, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gen.crops import draw_boxes
from gen.inpaint.config import StructureConfig
from gen.inpaint.examples import InpaintExamples
from gen.inpaint.vqvae import HierarchicalVQVAE
from workbench import seeds
from workbench.dataset_format import difference
from workbench.errors import UserError
from workbench.files import atomic_writer, user_errors_for_disk
from workbench.progress import progress
from workbench.recipe import Draws

CROPS = 4  # stream of randomness
BATCH = 64


class StructureTokens:
    """Tokens of each image's views: the whole image and, where crops are asked for, some of them; mirrored or not."""

    def __init__(self, config: StructureConfig, examples: InpaintExamples) -> None:
        self.config, self.examples = config, examples
        crops = config.crops_per_image if config.crop_probability else 1
        self.num_views = crops * (2 if config.random_flip else 1)
        # whole images are there once in any case: of the other crops so many that their share is the one asked for
        probability = min(1.0, config.crop_probability * crops / max(1, crops - 1))
        generator = seeds.generator(config.seed, CROPS)
        boxes = draw_boxes(len(examples) * crops, probability, examples.max_scale, generator).view(-1, crops, 4)
        boxes[:, 0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
        self.boxes: Float[Tensor, "n crops 4"] = boxes
        self.ids: Int16[Tensor, "n views ht wt"] = torch.empty(0, 0, 0, 0, dtype=torch.int16)

    def to(self, device: torch.device) -> None:
        """Move boxes and tokens."""
        self.boxes, self.ids = self.boxes.to(device), self.ids.to(device)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """A view of each image."""
        return {"view": torch.randint(self.num_views, (batch_size,), generator=generator, device=generator.device)}

    def read(
        self, indices: Int64[Tensor, " b"], view: Int64[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b c h w"], Int64[Tensor, "b ht wt"]]:
        """The drawn views of these images, and their tokens."""
        indices = indices.to(self.ids.device)
        return self.examples(indices, self._crop(indices, view)), self.ids[indices, view].long()

    def _crop(self, indices: Int64[Tensor, " b"], view: Int64[Tensor, " b"]) -> Draws:
        crops = self.boxes.shape[1]
        return {"box": self.boxes[indices, view % crops], "flip": view >= crops}

    # ---- encoding ----------------------------------------------------------------------------------------------------

    def prepare(self, path: Path, vqvae: HierarchicalVQVAE) -> None:
        """Encode all views on the device of `vqvae`, or read them where that was done before. All processes call it.

        Raises UserError where the file is of other images, settings or another VQ-VAE, and the run is to be resumed.
        """
        identity = self._identity(vqvae)
        self.to(vqvae.device)
        with PartialState(cpu=vqvae.device.type == "cpu").main_process_first(), user_errors_for_disk(path):
            stored = _stored_identity(path)
            if stored is None or (stored != identity and self.config.overwrite):
                self._write(path, vqvae, identity)
            elif stored != identity:
                raise UserError(
                    f"{path} was made by another VQ-VAE or of other images ({difference(stored, identity)}); "
                    "give those that the run began with, or --overwrite to start anew"
                )
        self.ids = safetensors.torch.load_file(path)["ids"].to(vqvae.device)

    def _identity(self, vqvae: HierarchicalVQVAE) -> dict[str, Any]:
        """What decides the tokens."""
        config, pixels = self.config, self.examples.images.cpu().contiguous().numpy()
        return {
            "codebook": vqvae.codebook_hash(), "images": hashlib.sha256(pixels.data).hexdigest(),
            "size": list(config.size), "seed": config.seed, "views": self.num_views,
            "boxes": hashlib.sha256(self.boxes.cpu().numpy().data).hexdigest(),
        }  # fmt: skip

    def _write(self, path: Path, vqvae: HierarchicalVQVAE, identity: dict[str, Any]) -> None:
        silent = not PartialState().is_main_process
        parts = []
        with progress(len(self.examples), "encoding structures", unit="image", disable=silent) as bar:
            for indices in torch.arange(len(self.examples), device=vqvae.device).split(BATCH):
                parts.append(self._encode(vqvae, indices).cpu())
                bar.update(len(indices))
        with atomic_writer(path) as write:
            write(safetensors.torch.save({"ids": torch.cat(parts)}, {"identity": json.dumps(identity)}))

    @torch.no_grad()
    def _encode(self, vqvae: HierarchicalVQVAE, indices: Int64[Tensor, " b"]) -> Int16[Tensor, "b views ht wt"]:
        views = torch.arange(self.num_views, device=indices.device)[:, None].expand(-1, len(indices))
        images = [self.examples(indices, self._crop(indices, view)) for view in views]
        return torch.stack([vqvae.encode(view).top_ids for view in images], dim=1).to(torch.int16)


def _stored_identity(path: Path) -> dict[str, Any] | None:
    """What an earlier run wrote; None where it wrote nothing, or nothing whole."""
    try:
        with safe_open(path, "pt") as file:
            return dict(json.loads(file.metadata()["identity"]))
    except (FileNotFoundError, SafetensorError, TypeError, LookupError):
        return None
