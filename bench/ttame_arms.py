"""The methods that the benchmark of explanations compares, and all that is measured of their maps."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from ttame_tasks import Images, Pairs, Task

from explain.maps import Maps
from explain.measures.boxes import box_accuracy
from explain.measures.iou import held_out_iou, iou_curves, summarised
from explain.measures.localisation import class_discrimination, energy_inside, pointing_game
from explain.measures.overview import faithfulness
from explain.measures.pixel_precision import pixel_average_precision
from explain.measures.randomisation import randomisation
from explain.measures.road import road
from explain.saliency import explain
from explain.ttame import TTame
from explain.ttame_recipe import fit
from workbench.pixel_classifier import PixelClassifier

FILLS = ("black", "mean", "blur")
CHUNK = 50  # images explained at once
RESAMPLES = 2000
BOX_THRESHOLDS = 100
Figures = dict[str, float]
Explainer = Callable[[PixelClassifier, Tensor, Tensor | None], Maps]


@dataclass(frozen=True)
class Arm:
    """A row of the table: a method of `explain.saliency`, what it is told, whether it draws, which networks it can
    explain, and whether its map comes from gradients of the class."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    draws: bool = False
    networks: tuple[str, ...] = ("convnet", "resnet18", "vit")
    gradient_cam: bool = False


CNNS = ("convnet", "resnet18")
ARMS = {
    "T-TAME": Arm("ttame", draws=True),
    "Grad-CAM": Arm("gradcam", gradient_cam=True),
    "Grad-CAM++": Arm("gradcam++", gradient_cam=True),
    "HiResCAM": Arm("hirescam", gradient_cam=True),
    "LayerCAM": Arm("layercam", gradient_cam=True),
    "Score-CAM": Arm("scorecam"),
    "RISE, 1000 masks": Arm("rise", {"num_masks": 1000}, draws=True),
    "RISE, mean fill": Arm("rise", {"num_masks": 1000, "fill": "mean"}, draws=True),
    "occlusion": Arm("occlusion"),
    "integrated gradients": Arm("ig"),
    "LRP": Arm("lrp", networks=("convnet",)),
    "rollout": Arm("rollout", networks=("vit",)),
    "random": Arm("random", draws=True),
    "centre": Arm("centre"),
    "edges": Arm("edges"),
    "uniform": Arm("uniform"),
    "true mask": Arm("true mask"),
}
CONTROLS = ("random", "centre", "edges", "uniform")
SANE = ("T-TAME", "Grad-CAM", "LayerCAM", "integrated gradients")  # cheap enough for cascades of randomisation


# ---- maps ------------------------------------------------------------------------------------------------------------


def explainer_of(name: str, module: TTame | None, seed: int) -> Explainer:
    """A function from a classifier, images and targets (None: the most likely class) to maps."""
    arm = ARMS[name]

    def function(classifier: PixelClassifier, images: Tensor, targets: Tensor | None) -> Maps:
        if module is not None:
            return TTame(classifier, module.layers, module.module).explain(images, targets)
        return explain(arm.method, classifier, images, targets, seed=seed, **arm.options).normalised()

    return function


def trained_module(task: Task, classifier: PixelClassifier, folder: Path, seed: int, settings: dict[str, Any]) -> TTame:
    """T-TAME of this classifier; goes on where a training was stopped, and takes what a finished one has left."""
    run = folder / f"ttame-{seed}"
    if (run / "finished.json").exists():
        return TTame.load(run, classifier)
    return fit(classifier, task.train.images, run, seed=seed, validation_steps=0, **settings)


def maps_of(
    explainer: Explainer, classifier: PixelClassifier, images: Float[Tensor, "n c h w"], targets: Tensor | None = None
) -> Maps:
    """A few images at a time; what it cost is that of all."""
    whole = [None] * len(images.split(CHUNK)) if targets is None else targets.split(CHUNK)
    parts = [explainer(classifier, some, wanted) for some, wanted in zip(images.split(CHUNK), whole, strict=True)]
    values, chosen = (torch.cat([getattr(part, name) for part in parts]) for name in ("values", "targets"))
    cost = [sum(getattr(part, name) for part in parts) for name in ("forward_passes", "backward_passes", "seconds")]
    return Maps(values, chosen, int(cost[0]), int(cost[1]), cost[2])


# ---- measures --------------------------------------------------------------------------------------------------------


def measured(name: str, task: Task, classifier: PixelClassifier, module: TTame | None, seed: int) -> Figures:
    """All figures of one method on one classifier; of those that are means over images, the bounds of a 95 % interval
    from resampled images too (NAME.low, NAME.high)."""
    device, test = classifier.mean.device, pixels_of(task.test)
    explainer, began = explainer_of(name, module, seed), time.perf_counter()
    maps = true_maps(task.test, classifier) if name == "true mask" else maps_of(explainer, classifier, test.to(device))
    figures = {
        "seconds": maps.seconds / len(maps),
        "forward": maps.forward_passes / len(maps),
        "backward": maps.backward_passes / len(maps),
    }
    figures |= intervals(faithfulness(classifier, test.to(device), maps, FILLS))
    figures |= intervals({"road": road(classifier, test.to(device), maps).score})
    if task.test.masks is not None and task.validation.masks is not None and name != "true mask":
        held = maps_of(explainer, classifier, pixels_of(task.validation).to(device))
        figures |= located(maps, task.test.masks, held, task.validation.masks)
    if task.pairs is not None and name != "true mask":
        figures |= intervals({"discrimination": told_apart(task.pairs, explainer, classifier)})
    if name in SANE:
        figures |= degraded(explainer, classifier, test[:CHUNK].to(device), maps.targets[:CHUNK])
    return figures | {"bench_seconds": time.perf_counter() - began}


def pixels_of(images: Images | Pairs) -> Float[Tensor, "n c h w"]:
    """In [0, 1]."""
    return images.images.float() / 255


def true_maps(images: Images, classifier: PixelClassifier) -> Maps:
    """The object itself: no explanation, but what a perfect one would be taken for."""
    assert images.masks is not None
    device, pixels = classifier.mean.device, pixels_of(images)
    targets = torch.cat([classifier(part.to(device)).argmax(1) for part in pixels.split(CHUNK)])
    return Maps(images.masks.float().to(device), targets, 0, 0, 0.0)


def located(maps: Maps, masks: Tensor, held: Maps, held_masks: Tensor) -> Figures:
    """Is the map on the object?"""
    values, held_values = maps.values.cpu(), held.values.cpu()
    curves, held_curves = iou_curves(values, masks), iou_curves(held_values, held_masks)
    summary = summarised(curves)
    figures = intervals(
        {
            "pointing": pointing_game(values, masks),
            "energy": energy_inside(values, masks),
            "iou": held_out_iou(held_curves, curves),
        }
    )
    return figures | {
        "peak_iou": summary.peak,
        "peak_threshold": summary.peak_threshold,
        "iou_area": summary.area,
        "max_box_accuracy": box_accuracy(values, masks, BOX_THRESHOLDS).v2(),
        "pixel_precision": pixel_average_precision(values, masks),
    }


def told_apart(pairs: Pairs, explainer: Explainer, classifier: PixelClassifier) -> Float[Tensor, " n"]:
    """Of two objects, is the map of each class on its own?"""
    device = classifier.mean.device
    maps = maps_of(explainer, classifier, pixels_of(pairs).to(device), pairs.labels.to(device))
    return class_discrimination(maps.values.cpu(), pairs.masks.flatten(0, 1), pairs.masks.flip(1).flatten(0, 1))


def degraded(explainer: Explainer, classifier: PixelClassifier, images: Tensor, targets: Tensor) -> Figures:
    """Rank correlation with the map itself once the last quarter, and all, of the classifier's layers are random."""
    found = list(randomisation(lambda other: explainer(other, images, targets[:, None]), classifier).values())
    return {"randomised_top": float(found[0].mean()), "randomised_all": float(found[-1].mean())}


def intervals(values: Mapping[str, Float[Tensor, " n"]]) -> Figures:
    """Means over images, with 95 % intervals by resampling them."""
    figures: Figures = {}
    for name, one in values.items():
        one = one.double().cpu()
        chosen = torch.randint(len(one), (RESAMPLES, len(one)), generator=torch.Generator().manual_seed(0))
        low, high = one[chosen].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        figures |= {name: float(one.mean()), f"{name}.low": low, f"{name}.high": high}
    return figures
