"""Does the map change when what the classifier has learned is taken away, layer by layer from the output?

Cascading randomisation of Adebayo et al., "Sanity Checks for Saliency Maps", 2018, arXiv 1810.03292. A map that stays
as it was explains the image, not the classifier.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from explain.maps import Maps
from explain.measures.similarity import rank_correlation
from workbench import seeds
from workbench.pixel_classifier import PixelClassifier

WEIGHTS = 24  # stream of randomness


def randomisation(
    explainer: Callable[[PixelClassifier], Maps], classifier: PixelClassifier, stages: int = 4, seed: int = 0
) -> dict[str, Float[Tensor, " n"]]:
    """Rank correlation of the maps with those of the whole classifier, after each of some stages of randomisation.

    `explainer` gives the maps of fixed images and targets, of whatever classifier it is given. The layers with weights
    are taken in `stages` equal parts from the last to the first; a stage is named by the last layer it reaches. The
    classifier itself stays as it is.
    """
    before = explainer(classifier).values
    return {
        name: rank_correlation(before, explainer(changed).values)
        for name, changed in randomised(classifier, stages, seed)
    }


def randomised(classifier: PixelClassifier, stages: int, seed: int) -> Iterator[tuple[str, PixelClassifier]]:
    """A copy of the classifier as its layers get new weights, each as when the layer is made."""
    changed = copy.deepcopy(classifier).cpu()  # where a seed gives the same weights on every machine
    layers: list[tuple[str, Any]] = [
        (name, module)
        for name, module in changed.network.named_modules()
        if callable(getattr(module, "reset_parameters", None)) and [*module.parameters(recurse=False)]
    ][::-1]
    for part in torch.arange(len(layers)).chunk(stages):
        for number in part.tolist():
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seeds.generator(seed, WEIGHTS, number).initial_seed())
                layers[number][1].reset_parameters()
        yield layers[int(part[-1])][0], copy.deepcopy(changed).to(classifier.mean.device)
