"""Generators that are small, quick, and sensitive to all of their inputs."""

from typing import Any

import torch

from gen.rpe2d.pipeline import RPE2DPipeline, make_scheduler
from gen.rpe2d.transformer import RPE2DTransformer2DModel

NAMES = ("bag", "coat", "hat")
TINY: dict[str, Any] = {
    "sample_size": (8, 12), "patch_size": 2, "in_channels": 1, "num_layers": 2, "num_attention_heads": 2,
    "attention_head_dim": 8, "num_classes": 3, "max_positions": (9, 14), "id2label": dict(enumerate(NAMES)),
}  # fmt: skip


def tiny_transformer(**changes: Any) -> RPE2DTransformer2DModel:
    """As freshly initialised: 4 x 6 patches of 2 x 2 gray pixels at the training size."""
    return RPE2DTransformer2DModel(**{**TINY, **changes}).eval()


def random_transformer(seed: int = 0, **changes: Any) -> RPE2DTransformer2DModel:
    """With random weights also where training starts at zero, so that every input changes the output."""
    return randomise(tiny_transformer(**changes), seed)


def randomise(model: RPE2DTransformer2DModel, seed: int = 0) -> RPE2DTransformer2DModel:
    """Fill all weights from the seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[-1] ** 0.5)
    return model


def random_pipeline(seed: int = 0, **changes: Any) -> RPE2DPipeline:
    """A quiet pipeline around `random_transformer`."""
    return pipeline_of(random_transformer(seed, **changes))


def pipeline_of(model: RPE2DTransformer2DModel) -> RPE2DPipeline:
    """A quiet pipeline around a model."""
    pipe = RPE2DPipeline(model, make_scheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generators(*seeds: int) -> list[torch.Generator]:
    """One for each image."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]
