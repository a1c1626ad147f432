"""Small runs of the pixel recipes: a dozen coloured images of 8 x 12 in three classes."""

import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file

from gen.pixel.config import ConsistencyConfig, DiffusionConfig, PixelTrainingConfig, PretrainingConfig
from gen.train import train
from workbench.config import TrainingConfig

CLASSES = ("cat", "dog", "emu")
TINY: dict[str, Any] = {
    "resolution": "8x12", "patch_size": 4, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8,
    "decoder_num_attention_heads": 3, "decoder_attention_head_dim": 8, "random_flip": True, "train_batch_size": 6,
    "max_train_steps": 3, "lr_warmup_steps": 0, "logging_steps": 1, "validation_steps": 0, "mixed_precision": "no",
    "device": "cpu",
}  # fmt: skip
PROJECTOR: dict[str, Any] = {"projector_hidden_dim": 12, "projector_dim": 6}
PICTURES: dict[str, Any] = {"validation_images": 3, "validation_inference_steps": 2}


def write_images(folder: Path, channels: int = 3, per_class: int = 4) -> Path:
    """Noise around a brightness of the class's own."""
    draws = np.random.default_rng(0)
    for level, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            shape = (8, 12, 3) if channels == 3 else (8, 12)
            pixels = 90 * level + draws.integers(0, 60, shape)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def pretraining(data: Path, output: Path, **changes: Any) -> PretrainingConfig:
    return PretrainingConfig(data=str(data), output_dir=output, **{**TINY, **PROJECTOR, **changes})


def diffusion(data: Path, output: Path, **changes: Any) -> DiffusionConfig:
    return DiffusionConfig(data=str(data), output_dir=output, **{**TINY, **PICTURES, **changes})


def consistency(data: Path, output: Path, **changes: Any) -> ConsistencyConfig:
    options = {**TINY, **PICTURES, "validation_inference_steps": 1, **changes}
    return ConsistencyConfig(data=str(data), output_dir=output, **options)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """What a run published."""
    (file,) = [*(run / "encoder").glob("*.safetensors"), *(run / "pipeline").glob("*/*.safetensors")]
    return load_file(file)


def train_as(rank: int, port: int, config: TrainingConfig) -> None:
    """One of two processes."""
    torch.set_num_threads(1)  # the parent's pool is not ours
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    world |= {"OMP_NUM_THREADS": 1, "MKL_NUM_THREADS": 1, "GLOO_SOCKET_IFNAME": "lo"}
    os.environ.update({name: str(value) for name, value in world.items()})
    AcceleratorState._reset_state(reset_partial_state=True)
    train(config)


def train_on_two(config: TrainingConfig) -> list[int | None]:
    """Two processes on this machine; returns their exit codes."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [context.Process(target=train_as, args=(rank, port, config)) for rank in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
        process.kill()
    return [process.exitcode for process in both]


def without_batch(config: PixelTrainingConfig, size: int) -> PixelTrainingConfig:
    """The same settings with another number of images per process."""
    config.train_batch_size = size
    return config
