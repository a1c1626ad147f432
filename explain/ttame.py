"""T-TAME: which pixels, kept alone, let a classifier see the class; learned once, then one forward pass for a map.

    ttame = TTame.load("runs/explainer", classifier)
    maps = ttame.explain(images, "top5")

Ntrougkas, Gkalelis, Mezaris, IEEE Access 2024, arXiv 2403.04523; written from the paper. Training: explain/train.py.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from explain.anatomy import choose_layers, dissect
from explain.attention import AttentionModule, Features, build_module
from explain.layers import Layer, Size, read
from explain.maps import Maps
from explain.passes import counted
from explain.targets import Targets, check_choice, resolve_targets
from workbench import seeds
from workbench.errors import UserError
from workbench.files import partial_folder, publish_folder, user_errors_for_disk
from workbench.pixel_classifier import PixelClassifier

INITIAL = 41  # stream of randomness
RESULT = "explainer"  # the folder below a run's
Normalise = Literal["minmax", "sigmoid", "raw"]


class TTame:
    """An attention module, and the classifier whose layers it reads. The classifier is kept frozen, in eval mode.

    `record` says how the module was trained.
    """

    def __init__(
        self,
        classifier: PixelClassifier,
        layers: Sequence[Layer],
        module: AttentionModule,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self.classifier, self.layers, self.record = classifier.eval(), tuple(layers), dict(record or {})
        self.module = module.to(classifier.mean.device).eval()

    @classmethod
    def build(
        cls,
        classifier: PixelClassifier,
        layers: str | Sequence[str] = "auto",
        num_layers: int = 3,
        image_size: Size | None = None,
        max_map_size: int = 56,
        seed: int = 0,
    ) -> "TTame":
        """An untrained one, reading the layers named, or with "auto" up to `num_layers` good ones.

        `image_size` (height, width) is needed where the classifier has no size of its own. Raises UserError where it
        has no layer to read, or none of that name, or a single class.
        """
        anatomy = dissect(classifier, image_size)
        check_choice(classifier, anatomy.num_classes)
        chosen = choose_layers(anatomy, layers, num_layers)
        channels = [layer.channels for layer in chosen]
        initial = seeds.generator(seed, INITIAL).initial_seed()
        return cls(classifier, chosen, build_module(channels, anatomy.num_classes, max_map_size, initial))

    @torch.no_grad()
    def explain(self, images: Shaped[Tensor, "..."], targets: Targets = None, normalise: Normalise = "minmax") -> Maps:
        """A map of each target of each image (b, c, h, w) in [0, 1], from one forward pass of it for all targets.

        `minmax` stretches each map to [0, 1], which paints something bright whatever there is; `sigmoid` is the mask of
        training; `raw` is before the sigmoid. The maps' own `raw` is that too, on the grid of the module, and their
        `figures` are the mask's mean and highest value, which no stretching hides. A class that the classifier finds
        unlikely is an extrapolation: training masks by its predictions only. Raises UserError for an untrained module,
        one made for other layers, a class that is not there, and maps that are not numbers.
        """
        if not self.module.trained_batches:
            raise UserError(
                "this attention module has not been trained, and its maps would mean nothing; train it with: "
                "workbench train ttame --classifier SPEC --data DATA --output-dir RUN"
            )
        with counted(self.classifier) as cost:
            features, logits = read(self.classifier, self.layers, images.to(self.classifier.mean.device))
            self._check_shapes(features, logits)
            classes = resolve_targets(targets, self.classifier, logits)
            raw = self.module([feature.float() for feature in features], classes).flatten(0, 1)
            values = enlarged(_normalised(raw, normalise), images.shape[-2:])
        if not raw.isfinite().all():
            raise UserError(
                "the maps are not finite numbers: the classifier's features overflow on these images; give pixels in "
                "[0, 1], and a classifier in float32"
            )
        mask = raw.sigmoid().flatten(1)
        figures = {"mask_area": mask.mean(1), "mask_peak": mask.amax(1)}
        return replace(cost.maps(values, classes, raw), figures=figures)

    def _check_shapes(self, features: Features, logits: Float[Tensor, "b k"]) -> None:
        """Raise UserError where the classifier's shapes are not those that the module was made for."""
        wanted, found = self.module.channels, [feature.shape[1] for feature in features]
        if (found, logits.shape[1]) != (wanted, self.module.num_classes):
            raise UserError(
                f"this attention module reads {wanted} channels of a classifier of {self.module.num_classes} classes, "
                f"and this one has {found} and {logits.shape[1]}; train an explainer of this classifier"
            )

    # ---- on disk -----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write the module, without the classifier, into a new folder. Raises UserError for an untrained one."""
        folder = Path(folder)
        if folder.exists() and not overwrite:
            raise UserError(f"{folder} exists already; give another folder, or overwrite=True")
        with user_errors_for_disk(folder):
            partial = partial_folder(folder)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            self.write(partial)
            publish_folder(partial, folder)
        return folder

    def write(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json` into an empty folder. Raises UserError for an untrained one."""
        if not self.module.trained_batches:
            raise UserError("an untrained attention module is not saved; train it first")
        save_file({name: value.contiguous() for name, value in self.module.state_dict().items()},
                  folder / "model.safetensors")  # fmt: skip
        (folder / "config.json").write_text(json.dumps(self._configuration(), indent=1) + "\n")

    def _configuration(self) -> dict[str, Any]:
        return {
            "class": "TTame",
            "classifier_fingerprint": self.classifier.fingerprint(),
            "layers": [asdict(layer) for layer in self.layers],
            "num_classes": self.module.num_classes,
            "max_map_size": self.module.max_map_size,
            "label_names": self.classifier.label_names,
            "record": self.record,
        }

    @classmethod
    def load(cls, folder: str | Path, classifier: PixelClassifier, force: bool = False) -> "TTame":
        """The trained module in `folder`, or of the finished run there, on the device of its classifier.

        Raises UserError where there is none, for an untrained one, and for a module of another classifier: `force`
        takes that for one of the same layers, such as the same classifier in another precision.
        """
        folder = find_explainer(folder)
        try:
            config = json.loads((folder / "config.json").read_text())
            layers = [_layer(values) for values in config["layers"]]
            module = AttentionModule([x.channels for x in layers], config["num_classes"], config["max_map_size"])
            module.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{folder} is damaged ({reason}); train or copy the explainer again") from error
        if not module.trained_batches:
            raise UserError(f"the attention module in {folder} has not been trained; train it again")
        if not force and config["classifier_fingerprint"] != classifier.fingerprint():
            raise UserError(
                f"{folder} explains another classifier than this one (fingerprint {config['classifier_fingerprint']}, "
                f"not {classifier.fingerprint()}); give that classifier, or train an explainer of this one"
            )
        known = dict(classifier.network.named_modules())
        if missing := [layer.name for layer in layers if layer.name not in known]:
            raise UserError(f"{folder} reads the layer {missing[0]}, which this classifier does not have")
        return cls(classifier, layers, module, config["record"])


def find_explainer(folder: str | Path) -> Path:
    """The folder that holds a trained module: the given one, or a run's result. Raises UserError when neither does."""
    for candidate in (Path(folder), Path(folder) / RESULT):
        if (candidate / "config.json").is_file() and (candidate / "model.safetensors").is_file():
            return candidate
    if (Path(folder) / "config.yaml").exists():
        raise UserError(f"{folder} is a training run that is not finished; run its training command again to go on")
    raise UserError(
        f"{folder} holds no trained explainer; give a folder such as runs/NAME of: "
        "workbench train ttame --classifier SPEC --data DATA --output-dir runs/NAME"
    )


def _layer(values: Mapping[str, Any]) -> Layer:
    return Layer(**{**values, "grid": tuple(values["grid"])})


def _normalised(maps: Float[Tensor, "n h w"], normalise: Normalise) -> Float[Tensor, "n h w"]:
    if normalise == "sigmoid":
        return maps.sigmoid()
    if normalise == "raw":
        return maps
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low + 1e-10)


def enlarged(maps: Float[Tensor, "n h w"], size: Sequence[int]) -> Float[Tensor, "n height width"]:
    """Maps at the size of their images."""
    return F.interpolate(maps[:, None], tuple(size), mode="bilinear", align_corners=False)[:, 0]
