"""Training the small SAM on the one loop."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from explain.sam_network import SamShape, build_sam
from explain.segment_card import write_card
from explain.segment_config import SegmentConfig
from explain.segment_data import Objects, read_objects
from explain.segment_loss import dice_loss, focal_loss, mask_iou
from explain.segment_prompting import BOTH, BOX, POINT, PromptedSam, at_size, draw_prompts
from explain.small_sam import RESULT, inherit, save_small_sam
from workbench import seeds
from workbench.files import write_atomic
from workbench.pictures import encode_png, image_grid
from workbench.recipe import Draws, Recipe

INITIALISATION, VALIDATION = 52, 53  # streams of randomness
SHOWN = 8  # images of a validation picture
BATCH = 32
FIRST_PROMPTS = {"point": POINT, "box": BOX, "point_and_box": BOTH}


class SegmentRecipe(Recipe):
    """One object of each image of a batch, asked for in several rounds of prompts."""

    name = "segment"
    result = RESULT
    config: SegmentConfig
    model: PromptedSam

    def __init__(self, config: SegmentConfig) -> None:
        config.check()
        self.config = config
        self.shape = SamShape(
            image_size=config.size[0], patch_size=config.patch_size, encoder_width=config.encoder_width,
            encoder_depth=config.encoder_depth, encoder_heads=config.encoder_heads, width=config.decoder_width,
            decoder_mlp=2 * config.decoder_width, quality_width=config.decoder_width,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seeds.generator(config.seed, INITIALISATION).initial_seed())
            self.model = PromptedSam(build_sam(self.shape))
        if config.init_from:
            inherit(self.model.sam, self.shape, config.init_from)
        self.data = read_objects(config)
        self.num_examples, self.notes = len(self.data.train), self.data.notes

    def to(self, device: torch.device) -> None:
        """Keep the images beside the network."""
        self.data.train.to(device)
        self.data.held_out.to(device)

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Those of both transformers."""
        sam = self.model.sam
        parts = [*sam.image_encoder.blocks.parameters(), *sam.mask_decoder.transformer.parameters()]
        return [parameter for parameter in parts if parameter.ndim == 2]

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """Which object of an image, whether it is mirrored, and where the prompts are."""
        which, flip = torch.rand(2, batch_size, generator=generator, device=generator.device)
        prompts = draw_prompts(batch_size, self.config.prompt_rounds, generator)
        return {"which": which, "flip": (flip < 0.5) & self.config.random_flip, **self._jittered(prompts)}

    def loss(self, model: nn.Module, indices: Int64[Tensor, " b"], draws: Draws) -> dict[str, Tensor]:
        """Of each round the one mask for clear prompts, and of the three for ambiguous ones the best."""
        images, masks = self.data.train.shown(indices, draws["which"], draws["flip"])
        logits, quality = model(images, masks, draws)
        large = at_size(logits, masks.shape[-1])  # (b, r, 4, s, s)
        truth = masks[:, None, None]
        focal, dice = focal_loss(large, truth), dice_loss(large, truth)
        each = self.config.focal_weight * focal + self.config.dice_weight * dice  # (b, r, 4)
        best = each[:, :, 1:].argmin(2, keepdim=True) + 1
        iou = mask_iou(large, truth)
        parts = {
            "mask_loss": (each[:, :, 0] + each.gather(2, best)[:, :, 0]).mean(),
            "quality_loss": (quality - iou).square().mean(),
        }
        total = parts["mask_loss"] + self.config.quality_weight * parts["quality_loss"]
        return {"loss": total, **parts, "iou_first": iou[:, 0, 0].mean(), "iou_last": iou[:, -1, 0].mean()}

    def _jittered(self, prompts: Draws) -> Draws:
        return {**prompts, "jitter": prompts["jitter"] * self.config.box_jitter}

    # ---- what is shown and written -----------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Mean IoU on held-out images of the mask that the network thinks best, by the first prompt; and of a point
        followed by points where it was wrong. A picture of image, object and mask."""
        held_out = self.data.held_out
        if not len(held_out):
            return {}
        model.eval()
        figures = {}
        for name, kind in FIRST_PROMPTS.items():
            parts = [self._held_out(model, held_out, part, kind) for part in torch.arange(len(held_out)).split(BATCH)]
            first, last, masks = (torch.cat(column) for column in zip(*parts, strict=True))
            figures[f"validation_iou_{name}"] = first.mean().item()
            if kind == POINT:
                figures[f"validation_iou_{self.config.prompt_rounds}_points"] = last.mean().item()
                self._show(held_out, masks[:SHOWN], folder / f"step-{step:08d}.png")
        return figures

    def _held_out(
        self, model: nn.Module, objects: Objects, indices: Int64[Tensor, " b"], kind: int
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"], Tensor]:
        """IoU after the first round and the last, and the first round's masks, for the first object of each image."""
        generator = seeds.generator(self.config.seed, VALIDATION, int(indices[0]), device=objects.images.device)
        draws = self._jittered(draw_prompts(len(indices), self.config.prompt_rounds, generator, kind))
        nothing = torch.zeros(len(indices), device=objects.images.device)
        images, masks = objects.shown(indices, nothing, nothing > 0)
        logits, quality = model(images, masks, draws)
        large = at_size(logits, masks.shape[-1])
        best = quality[:, 0, 1:].argmax(1) + 1
        first = large[torch.arange(len(indices), device=best.device), 0, best]
        return mask_iou(first, masks), mask_iou(large[:, -1, 0], masks), first > 0

    def _show(self, objects: Objects, found: Tensor, path: Path) -> None:
        """Image, object, and the mask found from one point of it."""
        count = len(found)
        nothing = torch.zeros(count, device=objects.images.device)
        images, masks = objects.shown(torch.arange(count), nothing, nothing > 0)
        gray = [(mask[:, None] * 255).expand_as(images) for mask in (masks, found)]
        cells = torch.stack([images, *gray]).transpose(0, 1).flatten(0, 1)
        write_atomic(path, encode_png(image_grid(list(cells.byte().cpu()), columns=6)))

    def publish(self, model: nn.Module, folder: Path, record: Mapping[str, Any]) -> None:
        """The network with its card."""
        assert isinstance(model, PromptedSam)
        told = {"data": self.data.name, "images": self.num_examples, **record}
        save_small_sam(model.sam, self.shape, told, self.config.max_train_steps, folder)
        write_card(folder, told)
