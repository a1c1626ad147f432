"""The measures that need no object masks, of many maps at once: what `workbench explain` and the benchmarks print."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from explain.folding import folded
from explain.maps import Maps
from explain.measures.confidence import confidence
from explain.measures.erasing import erase
from workbench.pixel_classifier import PixelClassifier

KEEP = (1.0, 0.5, 0.15)
STEPS = 25

MEANINGS = {
    "mask_mean": "mean of the map, stretched to [0, 1]; bright maps do well in average drop",
    "mask_area": "of ttame, mean of the mask before stretching: a map of nothing is bright somewhere, its mask is not",
    "mask_peak": "of ttame, the mask's highest value before stretching, of 1",
    "average_drop_15": "percent of the probability lost under the brightest 15 % of the map as a mask; lower is better",
    "increase_15": "percent of maps under which the probability rises; higher is better",
    "deletion_blur": "mean probability while pixels are blurred, the brightest of the map first; lower is better",
    "insertion_blur": "mean probability while pixels return to the blurred image; higher is better",
}


def faithfulness(
    classifier: PixelClassifier,
    images: Float[Tensor, "b c h w"],
    maps: Maps,
    fills: Sequence[str] = ("blur",),
    steps: int = STEPS,
    batch_size: int = 64,
) -> dict[str, Float[Tensor, " n"]]:
    """Figures of each map: mean of the mask, AD and IC in percent at 100, 50 and 15 %, deletion and insertion areas."""
    figures = {}
    with folded(classifier, images[:1]):
        for keep in KEEP:
            found = confidence(classifier, images, maps, keep, batch_size)
            if keep == 1:
                figures["mask_mean"] = found.mask_mean
            figures[f"average_drop_{keep:.0%}".rstrip("%")] = 100 * found.drop
            figures[f"increase_{keep:.0%}".rstrip("%")] = 100 * found.increase
        for fill in fills:
            curves = erase(classifier, images, maps, fill, steps, batch_size)
            figures[f"deletion_{fill}"] = curves.deletion_auc
            figures[f"insertion_{fill}"] = curves.insertion_auc
    return figures
