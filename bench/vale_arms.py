"""What the benchmark of VALE compares: prompts and segmenters on scenes with exact masks, captions with exact truth."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from ttame_tasks import Images, Task, load_classifier

from explain.candidates import choose
from explain.captioner import GAP, Captioner
from explain.facts import place
from explain.prompts import Prompts, prompts_of
from explain.segment import Segmenter, masks_of, open_segmenter
from explain.shapley import METHOD, Attribution, attribute
from explain.vale import Vale
from explain.verification import verify_region
from workbench.fashion_mnist import LABEL_NAMES
from workbench.pixel_classifier import PixelClassifier
from workbench.planted import BACKGROUNDS, DISTRACTORS, planted
from workbench.progress import progress
from workbench.scenes import Scenes

CLASSES = ("Trouser", "Bag", "Ankle boot", "Pullover")
TEST_SEED = 1000  # test scenes are of other seeds than those learned from


@dataclass(frozen=True)
class Case:
    """A test image on which the classifier is right, its true mask, and its Shapley values."""

    image: UInt8[Tensor, "3 h w"]
    truth: Bool[Tensor, "h w"]
    attribution: Attribution


def scenes_task(seed: int, num_train: int, num_test: int, size: int) -> Task:
    """Scenes of four classes whose background and objects say nothing; half as many as for testing for validation."""

    def part(split: str, count: int, of: int) -> Images:
        made = planted(range(count), size, seed=of, split=split, plant="none", classes=CLASSES)
        return Images(made.images, made.labels, made.masks)

    test = part("test", num_test, TEST_SEED + seed)
    return Task(CLASSES, part("train", num_train, seed), part("validation", num_test // 2, seed), test, None)


def trained(task: Task, folder: Path, device: str) -> tuple[PixelClassifier, float]:
    """The seed's classifier, trained where it is not there yet, and its accuracy."""
    return load_classifier("convnet", task, folder, device)


def cases(classifier: PixelClassifier, task: Task, folder: Path, budget: int, seed: int, fill: str) -> list[Case]:
    """All test images on which the classifier is right; their Shapley values are kept in the folder."""
    test, kept = task.test, folder / f"values-{fill}-{budget}.npz"
    assert test.masks is not None
    device = classifier.mean.device
    with torch.no_grad():
        right = (
            (classifier(test.images.to(device).float() / 255).argmax(1).cpu() == test.labels).nonzero()[:, 0].tolist()
        )
    stored = dict(np.load(kept)) if kept.exists() else {}
    for number in right:
        if str(number) not in stored:
            pixels, target = test.images[number].to(device).float() / 255, int(test.labels[number])
            found = attribute(classifier, pixels, target, budget=budget, fill=fill, seed=seed)
            stored[str(number)] = found.values.cpu().numpy()
            np.savez(kept, **stored)
    return [
        Case(test.images[n], test.masks[n], _attribution(stored[str(n)], int(test.labels[n]), budget, seed, fill))
        for n in right
    ]


def _attribution(values: np.ndarray, target: int, budget: int, seed: int, fill: str) -> Attribution:
    """As far as prompts and the choice among masks look at it."""
    nan = float("nan")
    return Attribution(
        torch.from_numpy(values), nan, target, nan, budget, nan, nan, fill, "probability", seed, METHOD, None
    )


# ---- prompts and segmenters ------------------------------------------------------------------------------------------


def from_shap(case: Case) -> Prompts | None:
    """What VALE does."""
    return prompts_of(case.attribution.values)


def from_truth(case: Case) -> Prompts:
    """The true mask's pixel nearest to its centre of mass, and its box: the best there is."""
    places = case.truth.nonzero().float()
    y, x = places[(places - places.mean(0)).norm(dim=1).argmin()].tolist()
    (top, left), (bottom, right) = places.amin(0).tolist(), places.amax(0).tolist()
    return Prompts(((x, y),), (1,), (left, top, right, bottom), (0.0,))


def from_centre(case: Case) -> Prompts:
    """A point in the middle of the image: what knows nothing of the classifier."""
    height, width = case.truth.shape
    return Prompts(((width / 2, height / 2),), (1,), None, (0.0,))


Prompting = Callable[[Case], Prompts | None]


class Arm(NamedTuple):
    """What is compared: the segmenters, joined by + where several offer masks, their prompts, and what hides pixels
    from the classifier when Shapley values are taken."""

    segmenters: str
    prompting: Prompting
    fill: str = Vale.fill


ARMS = {
    "SHAP above half, no segmenter": Arm("threshold", from_shap),
    "SHAP, random walker": Arm("random-walker", from_shap),
    "SHAP, GrabCut": Arm("grabcut", from_shap),
    "SHAP, our small SAM": Arm("small-sam", from_shap),
    "SHAP, our small SAM and GrabCut": Arm("small-sam+grabcut", from_shap),
    "SHAP by blurring, our small SAM and GrabCut": Arm("small-sam+grabcut", from_shap, "blur"),
    "true point and box, GrabCut": Arm("grabcut", from_truth),
    "true point and box, our small SAM": Arm("small-sam", from_truth),
    "middle of the image, our small SAM": Arm("small-sam", from_centre),
}


def localisation(
    arm: str, classifier: PixelClassifier, found: list[Case], small_sam: str, seed: int
) -> dict[str, float]:
    """Figures of one arm over all cases; where no mask will do, the IoU is 0 and nothing is verified."""
    specs = [small_sam if name == "small-sam" else name for name in ARMS[arm].segmenters.split("+")]
    segmenters = [open_segmenter(one, classifier.mean.device) for one in specs]
    rows = list(_rows(classifier, found, segmenters, ARMS[arm].prompting, seed))
    names = ("iou", "chosen", "point_inside")
    figures = {name: fmean(row[name] for row in rows) for name in names}
    verified = [row for row in rows if row["chosen"]]
    further = ("keep", "remove", "control_keep", "control_remove", "right_place")
    return {
        "images": len(rows),
        **figures,
        **{name: fmean(row[name] for row in verified) if verified else float("nan") for name in further},
    }


def _rows(
    classifier: PixelClassifier, found: list[Case], segmenters: list[Segmenter], prompting: Prompting, seed: int
) -> Iterator[dict[str, float]]:
    with progress(len(found), segmenters[-1].name, unit="image") as bar:
        for case in found:
            yield _row(classifier, case, segmenters, prompting(case), seed)
            bar.update()


def _row(
    classifier: PixelClassifier, case: Case, segmenters: list[Segmenter], prompts: Prompts | None, seed: int
) -> dict[str, float]:
    if prompts is None:
        return {"iou": 0.0, "chosen": 0.0, "point_inside": 0.0}
    x, y = (round(value) for value in prompts.points[0])
    height, width = case.truth.shape
    row = {"point_inside": float(case.truth[min(max(y, 0), height - 1), min(max(x, 0), width - 1)])}
    pixels = case.image.to(classifier.mean.device).float() / 255
    masks, qualities, names = masks_of(segmenters, [one.embed(case.image) for one in segmenters], prompts)
    candidates, chosen = choose(classifier, pixels, case.attribution, masks, qualities, names)
    if chosen is None:
        return {**row, "iou": 0.0, "chosen": 0.0}
    mask = candidates[chosen].mask.cpu()
    verified = verify_region(classifier, pixels, [case.attribution.target], mask, seed=seed)
    if not any(one.matters for one in verified):
        return {**row, "iou": 0.0, "chosen": 0.0}
    measured = ("keep", "remove", "control_keep", "control_remove")
    return {
        **row,
        "iou": _iou(mask, case.truth),
        "chosen": 1.0,
        "right_place": float(place(mask) == place(case.truth)),
        **{name: getattr(verified[0], name) for name in measured},
    }


def _iou(mask: Bool[Tensor, "h w"], truth: Bool[Tensor, "h w"]) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


# ---- captions --------------------------------------------------------------------------------------------------------

ITEMS = {name.split("/")[0].lower(): name for name in LABEL_NAMES}


def factuality(captioner: Captioner, seed: int, count: int) -> dict[str, float]:
    """What captions state of test scenes, against the truth: item, background, small objects.

    `invented` is the share of all statements that are not so. Withheld captions state nothing.
    """
    halves = [
        planted(indices, captioner.size, seed=TEST_SEED + seed, split="test", plant="none", classes=LABEL_NAMES,
                background=ground)
        for indices, ground in ((range(count // 2), None), (range(count // 2, count), "brick"))
    ]  # fmt: skip
    rows = [row for scenes in halves for row in _caption_rows(captioner, scenes)]
    stated, wrong = sum(row["stated"] for row in rows), sum(row["wrong"] for row in rows)
    names = ("withheld", "with a gap", "exact", "item", "background", "objects")
    return {"images": len(rows), **{name: fmean(row[name] for row in rows) for name in names},
            "invented": wrong / max(1, stated)}  # fmt: skip


def _caption_rows(captioner: Captioner, scenes: Scenes) -> Iterator[dict[str, float]]:
    least = captioner.record["least_confidence"]
    for number, caption in enumerate(captioner.caption(scenes.images)):
        withheld = caption.confidence < least
        text = "" if withheld else caption.sure(captioner.record["least_word_confidence"])
        said = statements(text)
        true = statements(scenes.captions[number])
        yield {
            "withheld": float(withheld),
            "with a gap": float(GAP in text),
            "exact": float(said == true),
            **{kind: float({s for s in said if s[0] == kind} == {s for s in true if s[0] == kind})
               for kind in ("item", "background", "objects")},
            "stated": len(said),
            "wrong": len(said - true),
        }  # fmt: skip


def statements(caption: str) -> set[tuple[str, str]]:
    """What a caption in the scenes' own words states, as (kind, what)."""
    scene, _, objects = caption.partition(" with ")
    item, _, background = scene.partition(" on ")
    words = item.split(" ", 1)[-1]
    found = {("item", words)} if words in ITEMS else set()
    found |= {("background", name) for name in BACKGROUNDS if name == background}
    return found | {("objects", name) for name in DISTRACTORS if name in objects.replace(",", " ").split()}
