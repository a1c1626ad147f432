"""Optimising pixels by a rival's rule: the loop that they share, which can be stopped and gone on with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from safetensors.torch import load_file, save
from torch import Tensor, nn

from workbench import seeds
from workbench.errors import UserError
from workbench.files import write_atomic
from workbench.progress import progress

ITERATION = 111  # stream of randomness

Images = Float[Tensor, "n c h w"]
Step = Callable[[nn.Parameter, torch.optim.SGD, torch.Generator], float]


@dataclass(frozen=True)
class Pools:
    """Real training images by class, transformed, on the device of all computation."""

    images: Float[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    num_classes: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.images.shape[2], self.images.shape[3]

    def draw(self, label: int, count: int, generator: torch.Generator) -> Float[Tensor, "b c h w"]:
        """`count` images of a class, none twice; all of them where it has fewer."""
        own = (self.labels == label).nonzero()[:, 0]
        return self.images[own[torch.randperm(len(own), generator=generator)[:count].to(own.device)]]


@dataclass(frozen=True)
class PixelSettings:
    """How pixels are updated: by SGD with momentum, as Zhao et al. do (arXiv 2006.05929)."""

    iterations: int
    learning_rate: float
    momentum: float = 0.5
    seed: int = 0
    checkpointing_steps: int = 100


def optimise(initial: Images, step: Step, settings: PixelSettings, checkpoint: Path, name: str) -> Images:
    """Apply `step` for every iteration that is not done yet; returns the images.

    `step` updates the images by the optimizer and returns its loss; all it draws comes from its generator, which
    depends on the iteration alone, so that a resumed run equals the uninterrupted one. Raises UserError when the
    images are no longer numbers.
    """
    images = nn.Parameter(initial.clone())
    optimizer = torch.optim.SGD([images], settings.learning_rate, settings.momentum)
    done = _load(checkpoint, images, optimizer)
    with progress(settings.iterations, name, initial=done, unit="step") as bar:
        for iteration in range(done + 1, settings.iterations + 1):
            loss = step(images, optimizer, seeds.generator(settings.seed, ITERATION, iteration))
            bar.set_postfix(loss=f"{loss:.3g}", refresh=False)
            bar.update()
            if iteration % settings.checkpointing_steps == 0 or iteration == settings.iterations:
                _check(images, iteration, settings)
                _save(checkpoint, images, optimizer, iteration)
    return images.detach()


def _check(images: Tensor, iteration: int, settings: PixelSettings) -> None:
    if not images.isfinite().all():
        raise UserError(
            f"the images are not finite at iteration {iteration}; give a smaller pixel learning rate than "
            f"{settings.learning_rate:g}"
        )


def _save(path: Path, images: Tensor, optimizer: torch.optim.SGD, iteration: int) -> None:
    momentum = optimizer.state[images].get("momentum_buffer")
    tensors = {"images": images.detach(), "momentum": torch.zeros_like(images) if momentum is None else momentum}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save({**tensors, "iteration": torch.tensor(iteration)}))


def _load(path: Path, images: nn.Parameter, optimizer: torch.optim.SGD) -> int:
    if not path.exists():
        return 0
    stored = load_file(path, device=str(images.device))
    with torch.no_grad():
        images.copy_(stored["images"])
    optimizer.state[images]["momentum_buffer"] = stored["momentum"]
    return int(stored["iteration"])
