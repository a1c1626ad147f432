"""`workbench caption train`: a small captioner for explanations. The same as `workbench train caption`."""

from collections.abc import Sequence

from explain.caption_config import CaptionConfig
from explain.train import train
from workbench.command import parse, polite


def caption(arguments: Sequence[str] | None = None, program: str = "workbench caption") -> None:
    """Read the settings and train; exits with 2 after a mistake, 130 or 143 when stopped."""
    with polite():
        train(parse({"train": CaptionConfig}, arguments, program, "Train a small captioner."))
