"""The trainings of the inpainting benchmark, and what each arm paints; all kept on disk as they finish."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from safetensors.torch import load_file, save_file
from torch import Tensor

from gen.inpaint.config import StructureConfig, VQVAEConfig
from gen.inpaint.pipeline import DiverseInpaintPipeline
from gen.inpaint.recipe import open_network
from gen.inpaint.sampler import sample
from gen.inpaint.structure import StructureModel
from gen.inpaint.texture import TextureGenerator
from gen.inpaint.texture_config import TextureConfig
from gen.inpaint.texture_losses import completed
from gen.inpaint.vqvae import HierarchicalVQVAE, open_vqvae
from gen.train import train
from workbench import seeds
from workbench.config import TrainingConfig
from workbench.devices import choose_device
from workbench.progress import progress
from workbench.run_folder import RunFolder

VARIANT = 9  # stream of randomness
BATCH = 100
ARMS: dict[str, dict[str, Any]] = {
    "diverse": {},
    "keys known": {"attention": "known"},
    "no fusion, keys known": {"attention": "known", "fuse": False},
    "no attention": {"attention": "none"},
    "no feature losses": {"feature_weight": 0.0},
    "single stage": {"single_stage": True},
}


@dataclass(frozen=True)
class Task:
    """One data set with one kind of holes, and how much is trained."""

    name: str
    data: str
    folder: Path
    masks: list[str]
    steps: dict[str, int]  # of each stage
    settings: dict[str, Any] = field(default_factory=dict)  # of all stages
    texture: dict[str, Any] = field(default_factory=dict)  # of the texture stage, in all arms

    @property
    def device(self) -> torch.device:
        """Where training is, and painting."""
        return choose_device(self.settings["device"])


@dataclass(frozen=True)
class Trained:
    """All stages of an arm."""

    vqvae: HierarchicalVQVAE
    structure: StructureModel
    texture: TextureGenerator

    def pipeline(self) -> DiverseInpaintPipeline:
        """As people use it."""
        pipe = DiverseInpaintPipeline(self.vqvae, self.structure, self.texture)
        pipe.set_progress_bar_config(disable=True)
        return pipe


def trained(task: Task, arm: str, seed: int) -> Trained:
    """Train, or go on training, or find trained."""
    vqvae = str(_run(task, VQVAEConfig, "vqvae", "vqvae", seed))
    structure = _run(task, StructureConfig, "structure", "structure", seed, vqvae=vqvae, masks=task.masks)
    settings = {"vqvae": vqvae, "masks": task.masks, **task.texture, **ARMS[arm]}
    texture = _run(task, TextureConfig, "texture", arm.replace(" ", "-").replace(",", ""), seed, **settings)
    return Trained(
        open_vqvae(vqvae).to(task.device),
        open_network(StructureModel, structure, "structure").to(task.device),
        open_network(TextureGenerator, texture, "texture").to(task.device),
    )


def run_folder(task: Task, name: str, result: str, seed: int) -> Path:
    """Where a stage is trained."""
    return task.folder / task.name / f"{name}-{task.steps[result]}-{seed}"


def _run(task: Task, kind: type[TrainingConfig], result: str, name: str, seed: int, **settings: Any) -> Path:
    run = run_folder(task, name, result, seed)
    steps = task.steps[result]
    if not RunFolder(run, result).finished(steps):
        train(kind(data=task.data, output_dir=run, max_train_steps=steps, seed=seed, **task.settings, **settings))
    return run


# ---- painting --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def drawn(
    task: Task,
    networks: Trained,
    images: Float[Tensor, "n c h w"],
    mask: Float[Tensor, "n 1 h w"],
    count: int,
    seed: int,
) -> Int64[Tensor, "n count ht wt"]:
    """Structures for each image, from the same noise for all arms; drawn, or read again."""
    path = run_folder(task, "structure", "structure", seed) / f"drawn-{len(images)}x{count}.safetensors"
    if not path.exists():
        codebook, ids = networks.vqvae.top.codebook, []
        with progress(len(images), f"drawing {task.name} {seed}", unit="image") as bar:
            for number, (image, hole) in enumerate(zip(images.split(1), mask.split(1), strict=True)):
                image, hole = image.to(task.device), hole.to(task.device)
                h = networks.structure.condition(image * (1 - hole), hole)
                noise = [seeds.generator(seed, VARIANT, number, k) for k in range(count)]
                ids.append(sample(networks.structure, codebook, h, count, noise).ids.cpu())
                bar.update()
        save_file({"ids": torch.stack(ids)}, path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
    return load_file(path)["ids"]


@torch.no_grad()
def true_ids(networks: Trained, images: Float[Tensor, "n c h w"]) -> Int64[Tensor, "n ht wt"]:
    """The structures of whole images."""
    device = networks.vqvae.device
    return torch.cat([networks.vqvae.encode(part.to(device)).top_ids.cpu() for part in images.split(BATCH)])


@torch.no_grad()
def painted(
    networks: Trained,
    images: Float[Tensor, "n c h w"],
    mask: Float[Tensor, "n 1 h w"],
    ids: Int64[Tensor, "n ht wt"],
) -> Float[Tensor, "n c h w"]:
    """Completions over these structures, in [-1, 1]."""
    texture, device, parts = networks.texture, networks.vqvae.device, []
    for image, hole, structure in zip(images.split(BATCH), mask.split(BATCH), ids.split(BATCH), strict=True):
        image, hole = image.to(device), hole.to(device)
        vectors = networks.vqvae.top.vectors(structure.to(device))
        parts.append(completed(texture(image * (1 - hole), hole, vectors).float(), image, hole).cpu())
    return torch.cat(parts).clamp(-1, 1)
