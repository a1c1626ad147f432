"""Iterative prompting: a first point or box, then points where the last prediction was wrong, as SAM is trained.

Letters: b images, r rounds, s pixels along a side of the frame, g patches, k = 4 masks, the unambiguous one first.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from segment_anything.modeling import Sam
from torch import Tensor, nn

from explain.sam_network import decode_masks, embed_prompts

POINT, BOX, BOTH = range(3)  # first prompts
OBJECT, CORNERS, NOTHING = 1, (2, 3), -1  # labels of points; 0 is off the object
Draws = dict[str, Tensor]


class PromptedSam(nn.Module):
    """A SAM, and all rounds of prompts of a batch in one call."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(
        self, images: Float[Tensor, "b 3 s s"], masks: Bool[Tensor, "b s s"], draws: Draws
    ) -> tuple[Float[Tensor, "b r k _ _"], Float[Tensor, "b r k"]]:
        """Logits at a quarter of a patch, and predicted IoU, of each round; images in [0, 255].

        `draws`: `kind` (b,) of the first prompt, `jitter` (b, 4) of boxes, `place` (b, r) in [0, 1) of points, and
        `remember` (b, r), whether a round sees the logits of the last.
        """
        prompts, decoder = self.sam.prompt_encoder, self.sam.mask_decoder
        features = self.sam.image_encoder(self.sam.preprocess(images))
        with torch.autocast(images.device.type, enabled=False):
            places = prompts.get_dense_pe()
        points, labels = first_prompts(masks, draws)
        none = prompts.no_mask_embed.weight[:, :, None, None]  # (1, D, 1, 1)
        dense = none.expand(len(images), -1, *features.shape[2:])
        found: list[tuple[Tensor, Tensor]] = []
        for number in range(draws["place"].shape[1]):
            if number:
                point, label = next_point(masks, found[-1][0][:, 0].detach(), draws["place"][:, number])
                points, labels = torch.cat([points, point[:, None]], 1), torch.cat([labels, label[:, None]], 1)
                seen = prompts.mask_downscaling(found[-1][0][:, :1].detach())
                dense = torch.where(draws["remember"][:, number, None, None, None], seen, none)
            with torch.autocast(images.device.type, enabled=False):
                sparse = embed_prompts(prompts, points, labels)
            found.append(decode_masks(decoder, features, places, sparse, dense))
        logits, quality = (torch.stack(parts, 1).float() for parts in zip(*found, strict=True))
        return logits, quality


def draw_prompts(batch_size: int, rounds: int, generator: torch.Generator, kind: int | None = None) -> Draws:
    """The random numbers of a batch; `kind` for one and the same first prompt."""
    device = generator.device
    kinds = torch.randint(3, (batch_size,), generator=generator, device=device)
    return {
        "kind": kinds if kind is None else torch.full_like(kinds, kind),
        "jitter": torch.randn(batch_size, 4, generator=generator, device=device),
        "place": torch.rand(batch_size, rounds, generator=generator, device=device),
        "remember": torch.rand(batch_size, rounds, generator=generator, device=device) < 0.5,
    }


def first_prompts(masks: Bool[Tensor, "b s s"], draws: Draws) -> tuple[Float[Tensor, "b 3 2"], Int64[Tensor, "b 3"]]:
    """Two corners of a box and a point on the object, x and y, and their labels: what is not asked for is NOTHING."""
    corners = boxes(masks)
    sides = (corners[:, 2:] - corners[:, :2]).repeat(1, 2)
    corners = (corners + draws["jitter"] * sides).clamp(0, masks.shape[-1] - 1).view(-1, 2, 2)
    point = sample(masks, draws["place"][:, 0])
    boxed, pointed = draws["kind"] != POINT, draws["kind"] != BOX
    labels = [torch.where(boxed, corner, NOTHING) for corner in CORNERS] + [torch.where(pointed, OBJECT, NOTHING)]
    return torch.cat([corners, point[:, None]], 1), torch.stack(labels, 1)


def next_point(
    masks: Bool[Tensor, "b s s"], logits: Float[Tensor, "b _ _"], place: Float[Tensor, " b"]
) -> tuple[Float[Tensor, "b 2"], Int64[Tensor, " b"]]:
    """A point where the prediction is wrong, labelled by what is true there; of a perfect one, on the object."""
    wrong = (at_size(logits[:, None], masks.shape[-1])[:, 0] > 0) != masks
    region = torch.where(wrong.flatten(1).any(1)[:, None, None], wrong, masks)
    point = sample(region, place)
    x, y = point.long().unbind(1)
    return point, masks[torch.arange(len(masks), device=masks.device), y, x].long()


def sample(region: Bool[Tensor, "b s s"], place: Float[Tensor, " b"]) -> Float[Tensor, "b 2"]:
    """A pixel (x, y) of each region: the one at the share `place` of its pixels, row by row."""
    running = region.flatten(1).long().cumsum(1)
    wanted = (place * running[:, -1]).long() + 1
    index = torch.searchsorted(running, wanted[:, None])[:, 0].clamp(max=running.shape[1] - 1)
    side = region.shape[-1]
    return torch.stack([index % side, index // side], 1).float()


def boxes(masks: Bool[Tensor, "b s s"]) -> Float[Tensor, "b 4"]:
    """First and last column and row of each mask: x0, y0, x1, y1."""
    ends = []
    for axis in (1, 2):  # columns, then rows
        line = masks.any(axis).float()
        ends.append((line.argmax(1), line.shape[1] - 1 - line.flip(1).argmax(1)))
    (x0, x1), (y0, y1) = ends
    return torch.stack([x0, y0, x1, y1], 1).float()


def at_size(logits: Float[Tensor, "*b _ _"], side: int) -> Float[Tensor, "*b s s"]:
    """Logits at the frame's size, as masks are cut from them."""
    large = F.interpolate(logits.flatten(0, -3)[:, None], (side, side), mode="bilinear", align_corners=False)
    return large.view(*logits.shape[:-2], side, side)
