"""Training of the RPE-2D transformer by flow matching; `RPE2DRecipe.loss` is the method in a dozen lines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor, nn

from gen.card import write_card
from gen.crops import flip_boxes
from gen.rpe2d.config import RPE2DConfig
from gen.rpe2d.examples import open_examples
from gen.rpe2d.inheritance import inherit
from gen.rpe2d.pipeline import RPE2DPipeline, make_scheduler
from gen.rpe2d.positions import crop_aligned_positions, sample_positions
from gen.rpe2d.transformer import RPE2DTransformer2DModel
from gen.validation import write_grid
from workbench import seeds
from workbench.recipe import Draws, Recipe
from workbench.tokens import token_ids, vocabulary

INITIAL = 2  # stream of randomness


class RPE2DRecipe(Recipe):
    """Rectified flow on pixels or latents: x_t = (1 - t) x_0 + t eps, target velocity eps - x_0, t logit-normal."""

    name = "rpe2d"
    config: RPE2DConfig
    model: RPE2DTransformer2DModel

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """What a person must know of the data."""
        return self.examples.notes

    def __init__(self, config: RPE2DConfig) -> None:
        config.check()
        self.config = config
        self.examples = open_examples(config)
        self.label_names = self.examples.label_names
        token_lists = self.examples.tokens or ((),) * len(self.examples)
        self.token_names = vocabulary(token_lists, config.max_vocabulary)
        self.labels = self.examples.labels.masked_fill(self.examples.labels < 0, self.num_classes)
        self.tokens = token_ids(token_lists, self.token_names, config.max_caption_tokens if self.token_names else 0)
        self.num_examples = len(self.examples)
        self.model = build_transformer(config, self.examples.shape, self.label_names, self.token_names)
        if config.init_from:
            inherit(self.model, config.init_from)
        if config.gradient_checkpointing:
            self.model.enable_gradient_checkpointing()

    def to(self, device: torch.device) -> None:
        """Keep what a step needs beside the model."""
        self.examples.to(device)
        self.num_examples = len(self.examples)
        self.labels, self.tokens = self.labels.to(device), self.tokens.to(device)
        if self.config.compile:
            self.model.compile_repeated_blocks(fullgraph=True)

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """Crops, flips, noise, times, hidden labels and positions of one global batch."""
        device = generator.device
        draws = self.examples.draw(batch_size, generator)
        return draws | {
            "hide_condition": torch.rand(batch_size, generator=generator, device=device)
            < self.config.class_dropout_prob,
            "noise": torch.randn(batch_size, *self.examples.shape, generator=generator, device=device),
            "time": torch.randn(batch_size, generator=generator, device=device).sigmoid(),
            **self._draw_positions(batch_size, draws, generator, step),
        }

    def _draw_positions(self, batch_size: int, draws: Draws, generator: torch.Generator, step: int) -> Draws:
        """Row and column positions: anywhere in the range or, as an experiment, in the crop's part of it."""
        over, sampling = self.config.position_annealing_steps, self.config.position_sampling
        positions = {}
        axes = zip(("rows", "columns"), self.model.native_grid, self.config.position_range, strict=True)
        for axis, (name, length, maximum) in enumerate(axes):
            maximum = annealed(length, maximum, step, over)
            if self.config.crop_aligned_positions:
                box = flip_boxes(draws["box"], draws["flip"])
                start, extent = box[:, axis], box[:, axis + 2]
                positions[name] = crop_aligned_positions(start, extent, length, maximum, generator, sampling)
            else:
                positions[name] = sample_positions(batch_size, length, maximum, generator, sampling)
        return positions

    def loss(self, model: nn.Module, indices: Int64[Tensor, " b"], draws: Draws) -> dict[str, Tensor]:
        """Mean squared error of the predicted velocity."""
        x_0, box = self.examples(indices, draws)
        indices = self.examples.kept[indices].to(self.labels.device)
        t = draws["time"][:, None, None, None]
        x_t = (1 - t) * x_0 + t * draws["noise"]
        labels = self.labels[indices].masked_fill(draws["hide_condition"], self.num_classes)
        tokens = self.tokens[indices].masked_fill(draws["hide_condition"][:, None], -1)
        positions = (draws["rows"], draws["columns"])
        velocity = model(x_t, draws["time"] * 1000, labels, box, positions, token_ids=tokens, return_dict=False)[0]
        return {"loss": F.mse_loss(velocity.float(), draws["noise"] - x_0)}

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Those of attention and of the MLP."""
        named = self.model.blocks.named_parameters()
        return [weight for name, weight in named if weight.ndim == 2 and "modulation" not in name]

    @property
    def num_classes(self) -> int:
        """Number of labels; also the id of "no label"."""
        return len(self.label_names)

    def validate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """A grid of images from the same noise every time, a label in each column where there are few."""
        write_grid(self._pipeline(model), self.config, self.num_classes, folder, step)
        return {}

    def publish(self, model: nn.Module, folder: Path, record: Mapping[str, Any]) -> None:
        """The pipeline as a diffusers folder, with its card."""
        self._pipeline(model).save_pretrained(folder)
        write_card(folder, "RPE-2D diffusion transformer", self.examples, record)

    def _pipeline(self, model: nn.Module) -> RPE2DPipeline:
        assert isinstance(model, RPE2DTransformer2DModel)
        return RPE2DPipeline(model.eval(), make_scheduler(), self.examples.vae)


def annealed(length: int, max_positions: int, step: int, over: int) -> int:
    """The range of positions at `step`: from the training grid's length to all, evenly over `over` steps."""
    return max_positions if step >= over else length + (max_positions - length) * step // over


def build_transformer(
    config: RPE2DConfig, shape: tuple[int, int, int], label_names: Sequence[str], token_names: Sequence[str] = ()
) -> RPE2DTransformer2DModel:
    """A freshly initialised model for examples of this shape (channels, height, width), the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.generator(config.seed, INITIAL).initial_seed())
        return RPE2DTransformer2DModel(
            sample_size=shape[1:],
            patch_size=config.patch_size,
            in_channels=shape[0],
            **config.shape._asdict(),
            mlp_ratio=config.mlp_ratio,
            num_classes=len(label_names),
            qk_norm=config.qk_norm,
            ffn_type=config.ffn_type,
            pos_embed_type=config.pos_embed_type,
            rope_theta=config.rope_theta,
            max_positions=config.position_range,
            inference_positions=config.inference_positions,
            crop_conditioning=config.crop_conditioning,
            id2label=dict(enumerate(label_names)),
            token_names=token_names,
        )
