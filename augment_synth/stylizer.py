"""A small autoencoder of the training images that gives one image the texture of another, by AdaIN on its features.

AdaIN is Huang and Belongie's, arXiv 1703.06868. Theirs works on VGG-19 trained on ImageNet; this is our own network,
two convolutions deep and trained in seconds on the images at hand: its textures are colour, contrast and fine grain.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from workbench import seeds
from workbench.progress import progress

STYLIZER = 7  # stream of randomness
WIDTH = 32
BATCH = 64
LEARNING_RATE = 2e-3


class Stylizer(nn.Module):
    """Images in [0, 1] of any size; the features have half their height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, WIDTH, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, 4 * channels, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def decode(self, features: Float[Tensor, "b d y x"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """Pixels of the size (height, width), not yet clamped."""
        return self.decoder(features)[..., : size[0], : size[1]]

    def forward(
        self, content: Float[Tensor, "b c h w"], style: Float[Tensor, "b c h w"], blend: float
    ) -> Float[Tensor, "b c h w"]:
        """The content with a share `blend` of the style's texture; 0 is the autoencoder's copy of the content."""
        features = self.encoder(content)
        mixed = blend * adain(features, self.encoder(style)) + (1 - blend) * features
        return self.decode(mixed, (content.shape[2], content.shape[3])).clamp(0, 1)


def adain(
    content: Float[Tensor, "b d h w"], style: Float[Tensor, "b d h w"], eps: float = 1e-5
) -> Float[Tensor, "b d h w"]:
    """The content's features with the mean and standard deviation over space of the style's, channel by channel."""
    (var_c, mean_c), (var_s, mean_s) = (
        torch.var_mean(features, (2, 3), correction=0, keepdim=True) for features in (content, style)
    )
    return (var_s + eps).sqrt() * (content - mean_c) / (var_c + eps).sqrt() + mean_s


def trained_stylizer(images: UInt8[Tensor, "n c h w"], steps: int, seed: int) -> Stylizer:
    """An autoencoder of these images, where they are; equal on a CPU for equal arguments."""
    draws = seeds.generator(seed, STYLIZER)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(draws.initial_seed())
        stylizer = Stylizer(images.shape[1]).to(images.device)
    optimizer = torch.optim.Adam(stylizer.parameters(), lr=LEARNING_RATE)
    with progress(steps, "stylizer", unit="step") as bar:
        for _ in range(steps):
            rows = torch.randint(len(images), (BATCH,), generator=draws).to(images.device)
            batch = images[rows].float() / 255
            copied = stylizer.decode(stylizer.encoder(batch), (batch.shape[2], batch.shape[3]))
            optimizer.zero_grad()
            F.mse_loss(copied, batch).backward()
            optimizer.step()
            bar.update()
    return stylizer.eval().requires_grad_(False)
