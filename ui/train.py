"""`workbench train`: a generator, or what explanations are made with. The same as gen/train.py and explain/train.py."""

from collections.abc import Sequence
from typing import Any

import explain.train
import gen.train
from workbench.command import parse, polite

TRAINERS = (gen.train, explain.train)
CONFIGS: dict[str, type] = {**gen.train.CONFIGS, **explain.train.CONFIGS}


def main(arguments: Sequence[str] | None = None, program: str = "workbench train") -> None:
    """Read the settings and train; exits with 2 after a mistake, 130 or 143 when stopped."""
    with polite():
        about = "Train a generator, or what explanations are made with. Each recipe has its own --help."
        train(parse(CONFIGS, arguments, program, about))


def train(config: Any) -> None:
    """Train what `config` belongs to."""
    trainer = next(trainer for trainer in TRAINERS if type(config) in trainer.CONFIGS.values())
    trainer.train(config)
