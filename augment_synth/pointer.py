"""A small grounder trained on the data's own captions: it learns which phrases an image has, and so where they are.

A convolutional network scores every phrase at every place; the scores are pooled to one for the image, which is all
that captions can teach. Where an image is said to have the phrase, the places of at least half the best score are
it.
After Oquab et al., "Is object localization for free?", 2015, with the pooling of Pinheiro & Collobert, 2015.
"""

from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from augment_synth.components import Component
from augment_synth.features import merged, same_thing
from augment_synth.grounding import Mask
from workbench import seeds
from workbench.pictures import resize_images
from workbench.progress import progress

WIDTH, SHARPNESS = 32, 4.0  # channels; of the pooling: 0 is the mean, infinity the maximum
LARGEST_SIDE = 64  # pixels at which it sees images
LEAST_EXAMPLES = 20  # with the phrase, and without
HELD_OUT = 10  # each tenth image
BATCH = 64
LARGEST_SHARE = 0.5  # of the image: more than that is no small object
INIT_STREAM, ORDER_STREAM = 21, 22


class PhraseNetwork(nn.Module):
    """Scores of every phrase at every place, a quarter as fine as the image."""

    def __init__(self, num_phrases: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(WIDTH, 2 * WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(2 * WIDTH), nn.ReLU(),
            nn.Conv2d(2 * WIDTH, 2 * WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(2 * WIDTH), nn.ReLU(),
            nn.Conv2d(2 * WIDTH, num_phrases, 1),
        )  # fmt: skip

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b phrases rows columns"]:
        """Scores (logits) of images in [0, 1]."""
        return self.layers(pixels - 0.5)


def pooled(scores: Float[Tensor, "b phrases rows columns"]) -> Float[Tensor, "b phrases"]:
    """One score for the image: between the mean and the maximum of its places."""
    places = scores.flatten(2)
    return (torch.logsumexp(SHARPNESS * places, 2) - torch.tensor(float(places.shape[2])).log()) / SHARPNESS


class PhrasePointer:
    """Masks for phrases that it has learned; any other phrase is a miss."""

    def __init__(self, network: PhraseNetwork, numbers: dict[str, int], accuracy: Sequence[float]) -> None:
        self.network, self.numbers = network.eval(), numbers
        names = {number: phrase for phrase, number in reversed(numbers.items())}
        figures = ", ".join(f"{names[number]} {value:.2f}" for number, value in enumerate(accuracy))
        self.component = Component(
            "ground", "phrase pointer", "offline_standin",
            f"trained on these captions; balanced held-out accuracy: {figures or 'no phrase is common enough'}",
        )  # fmt: skip

    @torch.no_grad()
    def ground(self, images: UInt8[Tensor, "n 3 h w"], phrases: Sequence[Sequence[str]]) -> list[list[Mask]]:
        """One mask, at the images' size, for each phrase of each image."""
        if not self.numbers:
            return [[None] * len(names) for names in phrases]
        scores = torch.cat([self.network(_seen(part)) for part in images.split(256)])
        present = pooled(scores) > 0
        fine = F.interpolate(scores, images.shape[-2:], mode="bilinear", align_corners=False)
        return [
            [self._mask(fine[image], present[image], name) for name in names] for image, names in enumerate(phrases)
        ]

    def _mask(self, scores: Float[Tensor, "phrases h w"], present: Bool[Tensor, " phrases"], name: str) -> Mask:
        number = self.numbers.get(name)
        if number is None or not present[number]:
            return None
        mask = scores[number] >= 0.5 * scores[number].max()
        return mask if 0 < mask.float().mean() <= LARGEST_SHARE else None


def _seen(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 height width"]:
    height, width = images.shape[-2:]
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    return resize_images(images, (round(height * scale), round(width * scale))).float() / 255


def train_pointer(
    images: UInt8[Tensor, "n 3 h w"], phrases: Sequence[Sequence[str]], steps: int, seed: int
) -> PhrasePointer:
    """Learn the phrases that enough images have, and enough have not; each tenth image is held out to measure it."""
    names = merged(Counter(name for own in phrases for name in set(own)), same_thing)
    counts = Counter(name for own in phrases for name in {names[phrase] for phrase in own})
    known = [name for name, count in counts.items() if LEAST_EXAMPLES <= count <= len(images) - LEAST_EXAMPLES]
    numbers = {phrase: known.index(name) for phrase, name in names.items() if name in known}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.generator(seed, INIT_STREAM).initial_seed())
        network = PhraseNetwork(max(1, len(known)))
    if not known:
        return PhrasePointer(network, {}, ())
    targets = torch.zeros(len(images), len(known))
    for image, own in enumerate(phrases):
        targets[image, [numbers[phrase] for phrase in own if phrase in numbers]] = 1
    held_out = torch.arange(len(images)) % HELD_OUT == 0
    _train(network, images[~held_out], targets[~held_out], steps, seed)
    return PhrasePointer(network, numbers, _accuracy(network, images[held_out], targets[held_out]))


def _train(
    network: PhraseNetwork, images: UInt8[Tensor, "n 3 h w"], targets: Float[Tensor, "n phrases"], steps: int, seed: int
) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    weight = ((1 - targets).sum(0) / targets.sum(0).clamp(min=1)).clamp(0.1, 10)
    network.train()
    with progress(steps, "phrase pointer") as bar:
        for step in range(steps):
            generator = seeds.generator(seed, ORDER_STREAM, step)
            chosen = torch.randint(len(images), (BATCH,), generator=generator)
            flip = torch.rand(BATCH, generator=generator) < 0.5
            pixels = _seen(images[chosen])
            pixels = torch.where(flip[:, None, None, None], pixels.flip(3), pixels)
            loss = F.binary_cross_entropy_with_logits(pooled(network(pixels)), targets[chosen], pos_weight=weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
    network.eval()


@torch.no_grad()
def _accuracy(
    network: PhraseNetwork, images: UInt8[Tensor, "n 3 h w"], targets: Float[Tensor, "n phrases"]
) -> list[float]:
    """Of each phrase: the mean of the shares found among images with it and without it."""
    said = pooled(network(_seen(images))) > 0
    has = targets > 0
    with_it = (said & has).sum(0) / has.sum(0).clamp(min=1)
    without = (~said & ~has).sum(0) / (~has).sum(0).clamp(min=1)
    return ((with_it + without) / 2).tolist()
