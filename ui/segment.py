"""`workbench segment train`: a small SAM. The same as `workbench train segment`."""

from collections.abc import Sequence

from explain.segment_config import SegmentConfig
from explain.train import train
from workbench.command import parse, polite


def segment(arguments: Sequence[str] | None = None, program: str = "workbench segment") -> None:
    """Read the settings and train; exits with 2 after a mistake, 130 or 143 when stopped."""
    with polite():
        train(parse({"train": SegmentConfig}, arguments, program, "Train a small promptable segmenter."))
