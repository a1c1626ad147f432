"""The `pixel` recipe: an encoder, a diffusion model from it, and a one-step model from that."""

import shutil
from collections.abc import Callable

from gen.pixel.config import ConsistencyConfig, DiffusionConfig, PixelConfig, PretrainingConfig
from gen.stages import Stage, stage_config, train_stages
from workbench.config import TrainingConfig


def train_all(config: PixelConfig, train: Callable[[TrainingConfig], None]) -> None:
    """Train each stage that is not finished; the last one's pipeline is the result."""
    stages = stages_of(config)
    result = stages[-1].run.result
    train_stages("pixel", config, stages, train, lambda target: shutil.copytree(result, target, dirs_exist_ok=True))


def stages_of(config: PixelConfig) -> list[Stage]:
    """The stages of a goal, in order; every one starts from what the one before it left."""
    encoder, diffusion = (str(config.output_dir / name) for name in ("encoder", "diffusion"))
    pretraining = stage_config(
        config, PretrainingConfig, "encoder", config.pretraining_steps, ema_decay=PretrainingConfig.ema_decay
    )
    planned = [Stage(pretraining, "encoder")] if config.pretraining_steps != 0 else []
    one_step = {"init_from": diffusion}
    if config.goal == "one-step-from-encoder":
        one_step = {"init_from": encoder, "guide": encoder}
    else:
        start = {"init_from": encoder if planned else None}
        many_steps = stage_config(config, DiffusionConfig, "diffusion", config.diffusion_steps, **start)
        planned.append(Stage(many_steps, "pipeline"))
    if config.goal != "diffusion":
        consistency = stage_config(config, ConsistencyConfig, "consistency", config.consistency_steps, **one_step)
        planned.append(Stage(consistency, "pipeline"))
    return planned
