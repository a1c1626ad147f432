"""Any classifier by one word (SPEC), and our own classifiers on disk; each becomes a `PixelClassifier`."""

import difflib
import importlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from workbench import efficientnet_lite0
from workbench.errors import UserError
from workbench.files import user_errors_for_disk, write_atomic
from workbench.networks import ARCHITECTURES, ConvNet, ResNet18, build_classifier
from workbench.pixel_classifier import PixelClassifier, Preprocessing

__all__ = ["ConvNet", "PixelClassifier", "ResNet18", "build_classifier", "load_classifier", "save_classifier"]

SPEC_HELP = (
    "a folder of `workbench classify train`, timm:NAME, transformers:NAME_OR_FOLDER, torchvision:NAME, "
    "efficientnet-lite0, or MODULE_OR_FILE.py:FUNCTION"
)


# Classifiers on disk


def save_classifier(
    classifier: PixelClassifier, folder: str | Path, extra: Mapping[str, Any], overwrite: bool = False
) -> Path:
    """Write `model.safetensors`, then `config.json`, into `folder`: complete when the latter is there.

    `extra` (JSON: command, seed, figures ...) joins the configuration. Raises `UserError` when the folder
    already holds a classifier, when it cannot be written, and for networks that are not ours.
    """
    from safetensors.torch import save

    config = {**extra, **_configuration(classifier)}
    folder = Path(folder)
    if (folder / "config.json").exists() and not overwrite:
        raise UserError(f"{folder} already holds a classifier: choose another folder or pass --overwrite")
    weights = {name: tensor.contiguous() for name, tensor in classifier.network.state_dict().items()}
    with user_errors_for_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Old labels must never describe new weights, not even after a kill between the two writes.
        (folder / "config.json").unlink(missing_ok=True)
        write_atomic(folder / "model.safetensors", save(weights))
        write_atomic(folder / "config.json", json.dumps(config, indent=2) + "\n")
    return folder


def _configuration(classifier: PixelClassifier) -> dict[str, Any]:
    names = [name for name, network in ARCHITECTURES.items() if type(classifier.network) is network]
    if not names:
        raise UserError(
            f"only {' and '.join(ARCHITECTURES)} are saved here, not {type(classifier.network).__name__}: "
            "save it with its own library and name it as timm:, transformers: or MODULE:FUNCTION"
        )
    preprocessing = classifier.preprocessing
    return {
        "architecture": names[0],
        "arguments": classifier.network.arguments,
        "label_names": classifier.label_names,
        "channels": classifier.channels,
        "resolution": preprocessing.size,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
    }


def _load_folder(folder: Path) -> PixelClassifier:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "config.json").read_text())
        options = {**config["arguments"], "image_size": _pair(config["arguments"].get("image_size"))}
        network = build_classifier(config["architecture"], **options)
        network.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, KeyError, TypeError, RuntimeError, json.JSONDecodeError, SafetensorError) as error:
        hint = "write transformers:FOLDER for one of transformers, or train it again"
        raise UserError(f"{folder} is not a complete classifier of ours ({_first_line(error)}): {hint}") from error
    preprocessing = Preprocessing(tuple(config["mean"]), tuple(config["std"]), _pair(config["resolution"]))
    return PixelClassifier(network, preprocessing, config["label_names"])


def _pair(sides: list[int] | None) -> tuple[int, int] | None:
    return (sides[0], sides[1]) if sides else None


# Classifiers by SPEC


def load_classifier(
    spec: str | Path, device: str | torch.device = "cpu", *, pretrained: bool = True
) -> PixelClassifier:
    """The classifier that `spec` names, in eval mode on `device`.

    SPEC: a folder written by `save_classifier` or a finished training run's, `timm:NAME`,
    `transformers:NAME_OR_FOLDER`, `torchvision:NAME`, `efficientnet-lite0`, or `MODULE_OR_FILE.py:FUNCTION`, whose
    function takes no arguments and returns an `nn.Module` or a `PixelClassifier`. `pretrained=False` builds the
    architecture with random weights. Raises `UserError` for an unknown spec and for weights that are neither on disk
    nor to be had.
    """
    spec = str(spec)
    libraries = {"timm": _load_timm, "transformers": _load_transformers, "torchvision": _load_torchvision}
    source, _, name = spec.partition(":")
    module, _, function = spec.rpartition(":")
    if Path(spec).is_dir():
        finished = Path(spec) / "classifier"  # of a training run
        classifier = _load_folder(finished if finished.is_dir() else Path(spec))
    elif spec == efficientnet_lite0.SPEC:
        classifier = efficientnet_lite0.load_efficientnet_lite0(pretrained)
    elif source in libraries and name:
        classifier = libraries[source](name, pretrained)
    elif module and function.isidentifier():
        classifier = _load_function(module, function)
    else:
        raise UserError(f"{spec!r} is no folder and no classifier: give {SPEC_HELP}")
    return classifier.to(device).eval()


def _load_timm(name: str, pretrained: bool) -> PixelClassifier:
    timm = _library("timm")
    if ":" not in name and not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    with _weights_of(f"timm:{name}"):
        model = timm.create_model(name, pretrained=pretrained)
    if model.num_classes == 0:
        raise UserError(f"timm:{name} has no classification head: choose a model with one, such as timm:resnet18")
    return PixelClassifier.wrap(model)


def _load_torchvision(name: str, pretrained: bool) -> PixelClassifier:
    models = _library("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    weights = models.get_model_weights(name).DEFAULT
    with _weights_of(f"torchvision:{name}"):
        model = models.get_model(name, weights=weights if pretrained else None)
    return PixelClassifier.wrap(model, weights)


def _load_transformers(name: str, pretrained: bool) -> PixelClassifier:
    transformers = _library("transformers")
    auto = transformers.AutoModelForImageClassification
    with _weights_of(f"transformers:{name}"):
        processor = transformers.AutoImageProcessor.from_pretrained(name)
        if pretrained:
            model, loading = auto.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        else:
            model, loading = auto.from_config(transformers.AutoConfig.from_pretrained(name)), {}
    if loading.get("missing_keys"):
        raise UserError(
            f"transformers:{name} lacks trained weights for {', '.join(sorted(loading['missing_keys']))}: "
            "choose a model fine-tuned for image classification"
        )
    return PixelClassifier.wrap(model, processor)


def _load_function(module: str, function: str) -> PixelClassifier:
    try:
        build = getattr(_user_module(module), function)
    except (ModuleNotFoundError, FileNotFoundError, AttributeError) as error:
        raise UserError(f"{module}:{function} cannot be found ({_first_line(error)}): give {SPEC_HELP}") from error
    model = build()
    if not isinstance(model, nn.Module):
        raise UserError(
            f"{module}:{function} returned {type(model).__name__}: return an nn.Module, "
            "or PixelClassifier.wrap(model, mean=..., std=...)"
        )
    return model if isinstance(model, PixelClassifier) else PixelClassifier.wrap(model)


def _user_module(name: str) -> ModuleType:
    """A module by file, or by name with the current folder first; it may import its neighbours."""
    is_file = name.endswith(".py")
    folder = str(Path(name).resolve().parent if is_file else Path.cwd())
    sys.path.insert(0, folder)
    try:
        return _import_file(Path(name)) if is_file else importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def _import_file(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: python -m pip install {error.name}") from error


def _unknown(library: str, name: str, known: Iterable[str]) -> UserError:
    close = difflib.get_close_matches(name, list(known), n=3) or ["resnet18"]
    return UserError(f"{library} has no classifier {name!r}: try {library}:{f' or {library}:'.join(close)}")


@contextmanager
def _weights_of(spec: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the hub, urllib and the libraries each fail in types of their own
        raise UserError(
            f"the weights of {spec} are not on disk and could not be had ({_first_line(error)}): "
            "connect to the internet for the first use, unset HF_HUB_OFFLINE, or name another model"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
