"""Expert trajectories on disk: safetensors, a file an expert, and what they are experts of.

EXPERTS/buffer.json                  settings, network, names and shapes of the parameters, checksum of the data
EXPERTS/transform.safetensors        from pixels to the space that the experts are trained in
EXPERTS/expert_00042.safetensors     theta (epochs + 1, P) float32: the weights at first and after each epoch
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from distill.config import ExpertsConfig
from distill.data import Sources, as_float, checksum, load_sources
from distill.flat import FlatNetwork
from distill.nets import NetworkSpec, build_network
from distill.preprocess import Transform, fit
from workbench.config import parse_size, to_mapping
from workbench.errors import UserError
from workbench.files import make_folder, write_atomic
from workbench.launch import command_line, versions

FORMAT, VERSION = "workbench-experts", 1
FREE = {"output_dir", "overwrite", "dry_run", "num_experts", "experts_at_once", "device"}  # may differ on going on
DESCRIPTION, TRANSFORM = "buffer.json", "transform.safetensors"


class ExpertBuffer:
    """Experts that are finished, read a vector at a time."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError where `folder` holds no experts, or they are damaged."""
        self.folder = folder
        self.description = _description(folder)
        try:
            self.settings: dict[str, Any] = self.description["settings"]
            self.spec = NetworkSpec.from_mapping(self.description["network"])
            self.label_names = tuple(self.description["label_names"])
            self.transform = Transform.from_state(load_file(folder / TRANSFORM))
            shapes = self.description["parameters"]
        except (OSError, LookupError, TypeError, SafetensorError) as error:
            raise UserError(f"the experts in {folder} are damaged ({error}); train them again") from error
        self.network = FlatNetwork(build_network(self.spec))
        if {name: list(shape) for name, shape in self.network.shapes.items()} != shapes:
            raise UserError(
                f"the experts in {folder} are of another {self.spec.name} than this version builds; train them again"
            )
        self.numbers = finished_experts(folder)
        if not self.numbers:
            raise UserError(f"{folder} holds no finished expert yet; run the experts command again to go on")

    @property
    def epochs(self) -> int:
        """The last epoch whose weights are kept, the same for all experts."""
        with self._open(self.numbers[0]) as file:
            return int(file.get_slice("theta").get_shape()[0]) - 1

    def theta(self, number: int, epoch: int) -> Float[Tensor, " p"]:
        """The weights of an expert after an epoch; 0 is before training."""
        with self._open(number) as file:
            return file.get_slice("theta")[epoch]

    def record(self, number: int) -> dict[str, Any]:
        """What was measured while an expert was trained: see `distill.experts`."""
        with self._open(number) as file:
            record: dict[str, Any] = json.loads(file.metadata()["record"])
        return record

    def summary(self, numbers: Sequence[int]) -> dict[str, float]:
        """Means over these experts of what was measured at their last epoch."""
        records = [self.record(number) for number in numbers]
        last = {
            name: [record[name][-1] if isinstance(record[name], list) else record[name] for record in records]
            for name in ("sharpness", "top_eigenvalue", "train_loss", "validation_accuracy")
            if name in records[0]
        }
        return {f"mean_{name}": statistics.mean(values) for name, values in last.items()}

    def sources(self) -> Sources:
        """The real images, read again. Raises UserError where they are not those of the experts."""
        sources = read_sources(self.settings)
        if checksum(sources.train) != self.description["data_checksum"]:
            raise UserError(
                f"the images of {self.settings['data']} are no longer those that the experts in {self.folder} were "
                "trained on; give back the old ones, or train experts anew"
            )
        return sources

    def _open(self, number: int) -> Any:
        path = expert_file(self.folder, number)
        try:
            return safe_open(path, "pt")
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read ({error}); remove it and run the experts command again") from error


def read_sources(settings: Mapping[str, Any]) -> Sources:
    """The real images that an experts' configuration speaks of."""
    size = None if settings["resolution"] is None else parse_size(settings["resolution"])
    return load_sources(
        settings["data"],
        size,
        settings["classes"],
        validation_share=settings["validation_share"],
        seed=settings["split_seed"],
    )


def finished_experts(folder: Path) -> list[int]:
    """Numbers of the experts whose files are there; a file is written whole or not at all."""
    return sorted(int(path.stem.removeprefix("expert_")) for path in folder.glob("expert_*.safetensors"))


def expert_file(folder: Path, number: int) -> Path:
    """Where an expert lies."""
    return folder / f"expert_{number:05d}.safetensors"


def write_expert(folder: Path, number: int, theta: Float[Tensor, "epochs p"], record: Mapping[str, Any]) -> None:
    """Keep a finished expert."""
    write_atomic(expert_file(folder, number), save({"theta": theta.contiguous()}, {"record": json.dumps(record)}))


class Opened(NamedTuple):
    """What experts are trained with."""

    sources: Sources
    transform: Transform
    network: FlatNetwork


def open_folder(config: ExpertsConfig, overwrite: bool) -> Opened:
    """Begin a folder of experts, or go on with one.

    Raises UserError where it holds something else, or experts of other settings or images.
    """
    folder = config.output_dir
    there = (folder / DESCRIPTION).exists() and not overwrite
    if not there and folder.is_dir() and any(folder.iterdir()) and not (folder / DESCRIPTION).exists():
        raise UserError(f"{folder} holds files that are no experts; choose another --output-dir")
    sources = read_sources(to_mapping(config))
    spec = network_spec(config, sources)
    network = FlatNetwork(build_network(spec))
    description = _describe(config, sources, spec, network)
    if there:
        _check_same(folder, description)
        return Opened(sources, Transform.from_state(load_file(folder / TRANSFORM)), network)
    transform = fit(config.preprocessing, as_float(sources.train))
    make_folder(folder)
    for number in finished_experts(folder):
        expert_file(folder, number).unlink()
    write_atomic(folder / TRANSFORM, save(transform.state()))
    write_atomic(folder / DESCRIPTION, json.dumps(description, indent=1) + "\n")
    return Opened(sources, transform, network)


def network_spec(config: ExpertsConfig, sources: Sources) -> NetworkSpec:
    """The network for these images; the ConvNet is three deep up to 32 pixels, four to 64, and so on."""
    height, width = sources.train.images[0].shape[1:]
    depth = config.depth or max(1, (max(height, width) - 1).bit_length() - 2)
    classes, channels = len(sources.train.label_names), sources.train.channels
    return NetworkSpec(config.network, classes, channels, (height, width), config.width, depth)


def _describe(config: ExpertsConfig, sources: Sources, spec: NetworkSpec, network: FlatNetwork) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": VERSION,
        "settings": to_mapping(config),
        "network": spec.to_mapping(),
        "parameters": {name: list(shape) for name, shape in network.shapes.items()},
        "label_names": list(sources.train.label_names),
        "data_checksum": checksum(sources.train),
        "command": command_line(),
        "versions": versions(),
    }


def _check_same(folder: Path, description: Mapping[str, Any]) -> None:
    stored = _description(folder)
    now, then = description["settings"], stored["settings"]
    changed = [key for key in now if key not in FREE and then.get(key) != now[key]]
    if changed:
        told = ", ".join(f"{key} was {then.get(key)!r} and is now {now[key]!r}" for key in changed)
        raise UserError(
            f"{folder} holds experts of other settings: {told}; give the same settings to add to them, "
            "another --output-dir, or --overwrite to start anew"
        )
    if stored["data_checksum"] != description["data_checksum"]:
        raise UserError(
            f"{folder} holds experts of other images: those of {now['data']} have changed since; "
            "choose another --output-dir, or give --overwrite to start anew"
        )


def _description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(
            f"{folder} holds no experts; train some with: python distill/train.py experts --output-dir {folder}"
        )
    try:
        description: dict[str, Any] = json.loads(path.read_text())
        if (description["format"], description["format_version"]) != (FORMAT, VERSION):
            raise ValueError(f"it is {description['format']} {description['format_version']}")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); train the experts again") from error
    return description
