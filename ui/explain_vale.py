"""`workbench explain --method vale`: its settings, and who segments and describes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.config import require

if TYPE_CHECKING:
    from explain.vale import Vale
    from workbench.pixel_classifier import PixelClassifier

VALE = "vale"


@dataclass(kw_only=True)
class ValeOptions:
    """What `--method vale` is told."""

    segmenter: str = "auto"
    """Of vale: auto, a SAM checkpoint or folder, a hub name, zoo:small-sam, grabcut, random-walker or threshold."""
    describer: str = "auto"
    """Of vale: auto, template, the folder of a captioner or of an image-text-to-text model, a hub name, or
    zoo:small-captioner. Only what is named is downloaded."""
    prompts: str = "default"
    """Of vale: what a language model is asked: default, sonar, paper, or a YAML file."""
    budget: int = 500
    """Of shap and vale: forward passes for the Shapley values of a class."""
    why_not: str | None = None
    """Of vale: a class to compare with: why not this one?"""

    def check_vale(self) -> None:
        """Raise UserError for a value that cannot work."""
        require(self, "budget", lambda value: value >= 10, "10 or more")


def open_vale(options: ValeOptions, classifier: PixelClassifier, device: str, seed: int) -> Vale:
    """The chain with its segmenter and describer; says which they are, before any work."""
    from explain.describe import open_describer
    from explain.segment import open_segmenters
    from explain.vale import Vale

    segmenter, *others = open_segmenters(options.segmenter, device)
    describer = open_describer(options.describer, device, options.prompts)
    for one in (segmenter, *others):
        print(f"Segmenter: {one.name}")
    print(f"Describer: {describer.name}")
    return Vale(classifier, segmenter, describer, options.budget, seed=seed, others=tuple(others))
