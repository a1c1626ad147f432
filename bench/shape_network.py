"""The classifier of shapes through which images are compared: trained once on real renders of mixed sizes, then frozen.

Letters: n images, h rows, w columns.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from workbench.files import make_folder, write_atomic
from workbench.progress import progress
from workbench.scenes import SHAPES, shapes
from workbench.seeds import generator

VERSION = 1  # part of the key: raise it when the network or its training changes
DATA_SEED = 3  # of the scenes that it is trained on, which no benchmark shows
SIZES = ((24, 24), (24, 24), (32, 32), (40, 40), (48, 48), (56, 56), (64, 64), (32, 64), (64, 32))  # 24 is the hardest
WIDTHS, STRIDES = (32, 64, 64, 64, 64), (2, 1, 2, 1, 2)
WEIGHTS, BATCHES = range(2)  # what a random stream is for
BATCH = 128


@dataclass(frozen=True)
class ShapeSettings:
    """How the network is trained; its file is found by these."""

    max_train_steps: int = 1600
    train_batch_size: int = 64
    learning_rate: float = 2e-3
    scenes_per_size: int = 2048
    seed: int = 0


class ShapeNetwork(nn.Module):
    """Five convolutions with group normalisation and a global average: 64 features of images of any size.

    Group normalisation, since batch normalisation would remember statistics of one size and fail at others.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out, stride in zip((3, *WIDTHS[:-1]), WIDTHS, STRIDES, strict=True):
            convolution = nn.Conv2d(width_in, width_out, 3, stride, padding=1)
            layers += [convolution, nn.GroupNorm(8, width_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(WIDTHS[-1], len(SHAPES))

    def initialise(self, draws: torch.Generator) -> None:
        """He initialisation of all matrices, from an explicit generator; the biases start at zero."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter, generator=draws)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 64"]:
        return self.layers(2 * pixels - 1).mean((2, 3))

    @torch.no_grad()
    def features(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 64"]:
        """What the whole network makes of pixels in [0, 1]."""
        return torch.cat([self(part) for part in pixels.split(BATCH)])

    @torch.no_grad()
    def texture(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 32"]:
        """The strongest response of each filter of the first convolution.

        The later layers must not tell a sharp edge from a soft one, and an average hides edges in flat ground.
        """
        return torch.cat([self.layers[0](2 * part - 1).amax((2, 3)) for part in pixels.split(BATCH)])

    @torch.no_grad()
    def predict(self, features: Float[Tensor, "n 64"]) -> Int[Tensor, " n"]:
        """The label of each image, from its features."""
        return self.head(features).argmax(1)


def shape_network(folder: Path, settings: ShapeSettings | None = None) -> ShapeNetwork:
    """The frozen network, from its file in `folder`; where there is none, it is trained (minutes) and kept there."""
    settings = settings or ShapeSettings()
    key = hashlib.sha256(json.dumps([VERSION, asdict(settings)]).encode()).hexdigest()[:12]
    path = folder / f"shape-network-{key}.safetensors"
    if not path.exists():
        make_folder(folder)
        write_atomic(path, save(_trained(settings).state_dict()))
    network = ShapeNetwork()
    network.load_state_dict(load_file(path))
    return network.eval().requires_grad_(False)


def _trained(settings: ShapeSettings) -> ShapeNetwork:
    network = ShapeNetwork()
    network.initialise(generator(settings.seed, WEIGHTS))
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=0.02)
    steps = max(2, settings.max_train_steps)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps)
    for pixels, labels in _batches(settings):
        loss = functional.cross_entropy(network.head(network(pixels)), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return network


def _batches(settings: ShapeSettings) -> Iterator[tuple[Float[Tensor, "n 3 h w"], Int[Tensor, " n"]]]:
    count = settings.scenes_per_size
    scenes = {size: shapes(range(count), size, DATA_SEED) for size in set(SIZES)}
    with progress(settings.max_train_steps, "training the shape network", unit="step") as bar:
        for step in range(settings.max_train_steps):
            draws = generator(settings.seed, BATCHES, step)
            chosen = torch.randint(count, (settings.train_batch_size,), generator=draws)
            sized = scenes[SIZES[step % len(SIZES)]]
            yield sized.images[chosen] / 255, sized.labels[chosen]
            bar.update()
