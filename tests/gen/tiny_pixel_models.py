"""EPG models that are small, quick, and sensitive to all of their inputs."""

from typing import Any

import torch
from tiny_models import NAMES, randomise

from gen.pixel.encoder import EPGEncoderModel
from gen.pixel.pipeline import EPGPipeline, make_scheduler
from gen.pixel.transformer import EPGTransformer2DModel

ENCODER: dict[str, Any] = {
    "sample_size": (8, 12), "patch_size": 4, "in_channels": 1, "num_layers": 2, "num_attention_heads": 2,
    "attention_head_dim": 8, "data_mean": [0.3], "data_std": [0.35], "data_range": [[-3 / 7], [1.0]],
}  # fmt: skip
DECODER: dict[str, Any] = {
    "decoder_num_attention_heads": 3, "num_class_embeds": 3, "id2label": dict(enumerate(NAMES)),
}  # fmt: skip


def tiny_encoder(**changes: Any) -> EPGEncoderModel:
    """As freshly initialised: 2 x 3 patches of 4 x 4 gray pixels, without labels."""
    return EPGEncoderModel(**{**ENCODER, "projector_hidden_dim": 12, "projector_dim": 6, **changes}).eval()


def tiny_generator(**changes: Any) -> EPGTransformer2DModel:
    """As freshly initialised: the same encoder with three labels, and a decoder of another width."""
    return EPGTransformer2DModel(**{**ENCODER, **DECODER, **changes}).eval()


def random_generator(seed: int = 0, **changes: Any) -> EPGTransformer2DModel:
    """With random weights also where training starts at zero, so that every input changes the output."""
    return randomise(tiny_generator(**changes), seed)


def pixel_pipeline(seed: int = 0, **changes: Any) -> EPGPipeline:
    """A quiet pipeline around `random_generator`."""
    model = random_generator(seed, **changes)
    pipe = EPGPipeline(model, make_scheduler(model))
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Counted(torch.nn.Module):
    """A network that counts how many images it was asked about."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.images = network, 0

    def forward(self, sample: torch.Tensor, *rest: Any, **options: Any) -> Any:
        self.images += len(sample)
        return self.network(sample, *rest, **options)
