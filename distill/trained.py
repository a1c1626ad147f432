"""A classifier from a distilled set, in one call."""

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from distill.config import NetworkName
from distill.evaluate import train_networks
from distill.flat import FlatNetwork
from distill.nets import NetworkSpec, build_network
from distill.preprocess import Transform
from distill.product import read_distilled, recipe_of
from workbench.config import Device
from workbench.devices import choose_device


class DistilledClassifier(nn.Module):
    """A network with the transform of the set that it was trained on."""

    def __init__(self, network: nn.Module, transform: Transform, label_names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.transform, self.label_names = network, transform, label_names

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits of images in [0, 1]."""
        return self.network(self.transform.apply(images))


def train_on_distilled(
    folder: str | Path, network: NetworkName | None = None, *, seed: int = 0, device: Device = "auto"
) -> DistilledClassifier:
    """Train a fresh network on a distilled set by the set's own recipe; seconds to minutes.

    `network`: another architecture than the set was made with. Raises UserError where `folder` holds no set.
    """
    distilled, metadata = read_distilled(folder)
    spec = spec_of(metadata, network)
    place = choose_device(device)
    moved = distilled.to(place)
    flat = FlatNetwork(build_network(spec))
    recipe, name = recipe_of(distilled, metadata), f"training a {spec.name}"
    (theta,) = train_networks(moved, flat, recipe, 1, seed=seed, description=name)
    flat.module.load_state_dict(flat.unflatten(theta))
    return DistilledClassifier(flat.module.to(place), distilled.transform, distilled.label_names).eval()


def spec_of(metadata: dict[str, Any], network: NetworkName | None = None) -> NetworkSpec:
    """The network that a set was made with, or another for the same images."""
    spec = NetworkSpec.from_mapping(metadata["settings"]["network"])
    return spec if network in (None, spec.name) else NetworkSpec(network, spec.num_classes, spec.channels, spec.size)
