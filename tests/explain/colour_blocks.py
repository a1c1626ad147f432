"""Images of coloured blocks on gray noise, and a classifier of the colours with known weights."""

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor, nn

from workbench.pixel_classifier import PixelClassifier

HEIGHT, WIDTH, BLOCK = 24, 32, 8
NAMES = ("red", "green", "blue")


class ColourNet(nn.Module):
    """How much each colour stands out, on two grids, averaged over the image."""

    def __init__(self, scale: float = 60.0) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 2, stride=2)
        self.second = nn.Conv2d(3, 3, 2, stride=2, groups=3)
        self.head = nn.Linear(3, 3)
        opponent = torch.eye(3) * 1.5 - 0.5  # one colour against the mean of the others
        self.first.weight.data = opponent[:, :, None, None].expand(3, 3, 2, 2) / 4
        self.second.weight.data = torch.full((3, 1, 2, 2), 0.25)
        self.head.weight.data = scale * torch.eye(3)
        for layer in (self.first, self.second, self.head):
            layer.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).mean((2, 3)))


def colour_classifier(scale: float = 60.0, multi_label: bool = False) -> PixelClassifier:
    network = ColourNet(scale)
    if multi_label:
        network.head.bias.data.fill_(-2.0)
    size = (HEIGHT, WIDTH)
    return PixelClassifier.wrap(
        network, mean=(0.0,) * 3, std=(1.0,) * 3, class_names=NAMES, size=size, multi_label=multi_label
    )


def blocks(
    count: int, objects: int = 1, seed: int = 0
) -> tuple[UInt8[Tensor, "n 3 h w"], Int64[Tensor, "n objects"], Bool[Tensor, "n objects h w"]]:
    """Images, the colour of each of their blocks (no colour twice), and where it is; blocks do not overlap."""
    random = torch.Generator().manual_seed(seed)
    gray = torch.randint(60, 130, (count, 1, HEIGHT, WIDTH), generator=random)
    images = gray.expand(-1, 3, -1, -1).clone()
    colours = torch.stack([torch.randperm(3, generator=random)[:objects] for _ in range(count)])
    masks = torch.zeros(count, objects, HEIGHT, WIDTH, dtype=torch.bool)
    for n in range(count):
        cells = torch.randperm((HEIGHT // BLOCK) * (WIDTH // BLOCK), generator=random)[:objects]
        for k, cell in enumerate(cells.tolist()):
            top, left = (cell // (WIDTH // BLOCK)) * BLOCK, (cell % (WIDTH // BLOCK)) * BLOCK
            masks[n, k, top : top + BLOCK, left : left + BLOCK] = True
            images[n, colours[n, k], masks[n, k]] = 250
    return images.to(torch.uint8), colours, masks
