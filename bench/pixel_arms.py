"""The arms of the pixel benchmark: what each is trained from, trained by, and how it is asked for images.

Every run is one of the recipes', in a folder of its own: what is trained is not trained again, and a run under a
constant rate goes on from where it was measured.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import gen
from gen.pixel.config import ConsistencyConfig, DiffusionConfig, PixelTrainingConfig, PretrainingConfig
from gen.pixel.encoder import EPGEncoderModel
from gen.pixel.noise import NoiseRange
from gen.pixel.pretraining import PretrainingRecipe
from gen.pixel.representation import RepresentationLearner, represent
from gen.pixel.scheduler import KarrasX0HeunScheduler
from gen.pixel.transformer import EPGTransformer2DModel
from gen.train import make_recipe
from workbench.devices import autocast, choose_device
from workbench.errors import UserError
from workbench.recipe import Draws
from workbench.run_folder import RunFolder
from workbench.training import Training

BATCH = 250
NOISE = 7  # seed of the noise that every arm starts from


class Encoder(NamedTuple):
    """A pre-training: its settings, and what a step costs, in forward passes of the encoder for one image."""

    settings: dict[str, Any]
    passes: int


ENCODERS = {
    "full": Encoder({}, 12),  # three trained, at three passes each, one and two without gradient
    "contrast": Encoder({"consistency_weight": 0.0}, 8),
    "consistency": Encoder({"contrast_weight": 0.0}, 4),
    "supervised": Encoder({}, 3),
}


class Arm(NamedTuple):
    """A generator: what its row is called, what it starts from, and its settings."""

    name: str
    start: str | None = None  # an encoder, or a diffusion arm
    settings: dict[str, Any] = {}


JIT = {"diffusion_weight": "velocity", "log_sigma_mean": 0.8, "log_sigma_std": 0.8}
DIFFUSION = {
    "scratch": Arm("from nothing"),
    "ssl": Arm("pre-trained: contrast and consistency", "full"),
    "ssl-noRC": Arm("pre-trained: contrast alone", "contrast"),
    "ssl-noCON": Arm("pre-trained: consistency alone", "consistency"),
    "supervised": Arm("pre-trained on the labels", "supervised"),
    "velocity": Arm("from nothing, JiT's loss", None, JIT),
}
CONSISTENCY = {
    "cm-scratch": Arm("from nothing"),
    "cm-ssl": Arm("from the encoder", "full"),
    "cm-ssl-guide": Arm("from the encoder, with it as guide (EPG's road)", "full", {"guide": "full"}),
    "cm-dm": Arm("from the diffusion model (the default road)", "ssl"),
}


@dataclass(frozen=True)
class Task:
    """The data, the size of everything, and where runs are kept."""

    data: str
    resolution: int
    folder: Path
    pretraining_steps: int
    steps: int
    consistency_steps: int
    settings: dict[str, Any]

    @property
    def milestones(self) -> list[int]:
        """Steps of a diffusion model after which it is measured."""
        return [self.steps // 4, self.steps // 2, self.steps]

    def longer(self, encoder: str) -> int:
        """Steps from nothing that cost as much as pre-training and fine-tuning together."""
        alone, whole = costs(self)
        return self.steps + round(self.pretraining_steps * ENCODERS[encoder].passes * alone / (3 * whole))

    def run(self, name: str, seed: int) -> Path:
        """The folder of an arm and seed."""
        return self.folder / "runs" / f"{name}-{seed}"

    def config(self, kind: type[PixelTrainingConfig], run: Path, seed: int, steps: int, **own: Any) -> Any:
        """A recipe's settings."""
        return kind(
            **{
                "data": self.data, "resolution": str(self.resolution), "output_dir": run, "seed": seed,
                "max_train_steps": steps, "validation_steps": 0, "checkpoints_total_limit": 1, **self.settings, **own,
            }
        )  # fmt: skip


class SupervisedLearner(RepresentationLearner):
    """An encoder, and a linear head in the place of the slow copy."""

    def __init__(self, encoder: EPGEncoderModel, noise_range: NoiseRange, num_classes: int) -> None:
        super().__init__(encoder, noise_range, contrast_weight=0.0)
        self.target = nn.Linear(encoder.encoder.norm.weight.numel(), num_classes)

    def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the labels."""
        seen = represent(self.online, noisy, sigma, self.noise_range)
        return nn.functional.cross_entropy(self.target(seen).float(), labels)


class SupervisedRecipe(PretrainingRecipe):
    """The same encoder, taught the labels of images at all noise levels: it uses what the others may not see."""

    name = "supervised"

    def __init__(self, config: PretrainingConfig) -> None:
        super().__init__(config)
        self.model = SupervisedLearner(self.model.online, self.noise_range, len(self.data.label_names))

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """A noise level for each image."""
        drawn = super().draw(batch_size, generator, step)
        sigma = torch.randn(batch_size, generator=generator, device=generator.device).mul(1.4).exp()
        return drawn | {"sigma": sigma.clamp(max=self.noise_range.sigma_max)}

    def loss(self, model: nn.Module, indices: Int64[Tensor, " b"], draws: Draws) -> dict[str, Tensor]:
        """The labels' cross-entropy."""
        sigma = self.noise_range.shifted(draws["sigma"])
        noisy = self.data.clean(indices, draws["flip"]) + sigma[:, None, None, None] * draws["noise"]
        return {"loss": model(noisy, sigma, self.data.labels[indices.to(sigma.device)])}

    def after_step(self, step: int) -> None:
        """There is no slow copy."""


def train_encoder(task: Task, name: str, seed: int) -> Path:
    """Pre-train, go on, or find it done; returns the run."""
    run = task.run(f"encoder-{name}", seed)
    settings = {**ENCODERS[name].settings, "lr_scheduler": "cosine", "validation_steps": task.pretraining_steps}
    config = task.config(PretrainingConfig, run, seed, task.pretraining_steps, ema_decay=0.0, **settings)
    recipe = SupervisedRecipe if name == "supervised" else PretrainingRecipe
    if not RunFolder(run, "encoder").finished(config.max_train_steps):
        Training(recipe(config)).train()
    return run


def train_diffusion(task: Task, name: str, seed: int, steps: int) -> Path:
    """Train a diffusion model up to so many steps; returns the run."""
    arm = DIFFUSION[name]
    start = str(train_encoder(task, arm.start, seed)) if arm.start else None
    return _train(task.config(DiffusionConfig, task.run(name, seed), seed, steps, init_from=start, **arm.settings))


def train_consistency(task: Task, name: str, seed: int) -> Path:
    """Train a consistency model; returns the run."""
    arm = CONSISTENCY[name]
    settings = dict(arm.settings)
    if arm.start in DIFFUSION:
        settings["init_from"] = str(train_diffusion(task, arm.start, seed, task.steps))
    elif arm.start:
        settings["init_from"] = str(train_encoder(task, arm.start, seed))
    if "guide" in settings:
        settings["guide"] = str(train_encoder(task, settings["guide"], seed))
    return _train(task.config(ConsistencyConfig, task.run(name, seed), seed, task.consistency_steps, **settings))


def _train(config: Any) -> Path:
    run = Path(config.output_dir)
    if not RunFolder(run, "pipeline").finished(config.max_train_steps):
        Training(make_recipe(config)).train()
    steps = json.loads((run / "finished.json").read_text())["step"]
    if steps != config.max_train_steps:
        raise UserError(f"{run} has gone on to {steps} steps and was not measured at {config.max_train_steps}; move it")
    return run


@torch.no_grad()
def sample(run: Path, evaluations: int, count: int, device: str) -> UInt8[Tensor, "n c h w"]:
    """Images of the labels in turn, from the same noise for every run, by so many network evaluations each.

    A diffusion model takes Euler's steps, the last one to no noise at all.
    """
    pipe = gen.load(run, device)
    pipe.set_progress_bar_config(disable=True)
    if isinstance(pipe.scheduler, KarrasX0HeunScheduler):
        euler = {"solver_order": 1, "final_sigmas_type": "zero"}
        pipe.scheduler = KarrasX0HeunScheduler.from_config(pipe.scheduler.config, **euler)
    shape, batches = (pipe.transformer.config.in_channels, *pipe.native_size), []
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        generator = torch.Generator().manual_seed(NOISE + start)
        latents = torch.randn(len(numbers), *shape, generator=generator)
        with autocast("auto", choose_device(device)):
            images = pipe(
                [k % pipe.num_classes for k in numbers], num_inference_steps=evaluations, latents=latents,
                generator=generator, output_type="pt",
            ).images  # fmt: skip
        batches.append((images * 255).round().byte().cpu())
    return torch.cat(batches)


def costs(task: Task) -> tuple[float, float]:
    """Operations of one image's forward pass through the encoder alone, and through the whole generator."""
    config = DiffusionConfig(output_dir=Path(), resolution=str(task.resolution), **_shape_of(task.settings))
    shape = {k: v for k, v in config.shape._asdict().items() if not k.startswith("projector_")}
    with torch.device("meta"):
        model = EPGTransformer2DModel(task.resolution, 3, config.patch_size, num_class_embeds=10, **shape)
        images, timestep = torch.zeros(1, 3, *config.size), torch.zeros(1)
    with FlopCounterMode(display=False) as whole:
        model(images, timestep)
    with FlopCounterMode(display=False) as alone:
        model.encoder.class_state(model.encoder.embed(images, timestep, None)[0])
    return float(alone.get_total_flops()), float(whole.get_total_flops())


def _shape_of(settings: dict[str, Any]) -> dict[str, Any]:
    names = ("preset", "patch_size", "num_layers", "num_attention_heads", "attention_head_dim")
    return {name: settings[name] for name in names if name in settings}
