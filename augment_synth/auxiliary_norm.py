"""A second set of batch statistics for images of another kind, dropped after training (AdvProp, arXiv 1911.09665)."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from augment_synth.groups import GroupedImages
from augment_synth.robust_config import RobustConfig
from augment_synth.robust_recipe import RobustRecipe
from workbench.errors import UserError

Module = TypeVar("Module", bound=nn.Module)


class AuxiliaryNorm(nn.Module):
    """Batch norm with own weights and statistics for the images that `routed` names; `main` for all others."""

    def __init__(self, main: _BatchNorm) -> None:
        super().__init__()
        self.main, self.auxiliary = main, copy.deepcopy(main)
        self.route: Bool[Tensor, " b"] | None = None

    def forward(self, features: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        if self.route is None:
            return self.main(features)
        normalised = torch.empty_like(features)
        for norm, chosen in ((self.main, ~self.route), (self.auxiliary, self.route)):
            if bool(chosen.any()):
                normalised[chosen] = norm(features[chosen]).to(normalised.dtype)
        return normalised


def add_auxiliary(network: nn.Module) -> None:
    """Give every batch norm a second one, in place. Raises UserError where there is none."""
    norms = [(parent, name, child) for parent in network.modules() for name, child in parent.named_children()
             if isinstance(child, _BatchNorm)]  # fmt: skip
    if not norms:
        raise UserError(
            "this method keeps batch statistics of two kinds of images, but the network has no batch norm: "
            "give --normalisation batch, or --network resnet18"
        )
    for parent, name, child in norms:
        setattr(parent, name, AuxiliaryNorm(child))


def without_auxiliary(network: Module) -> Module:
    """A copy with the main norms alone: the network as it was built."""
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, AuxiliaryNorm):
                setattr(parent, name, child.main)
    return network


@contextmanager
def routed(network: nn.Module, auxiliary: Bool[Tensor, " b"]) -> Iterator[None]:
    """Inside, the images where `auxiliary` is True go through the auxiliary norms."""
    norms = [module for module in network.modules() if isinstance(module, AuxiliaryNorm)]
    for norm in norms:
        norm.route = auxiliary
    try:
        yield
    finally:
        for norm in norms:
            norm.route = None


class AuxiliaryRecipe(RobustRecipe):
    """A recipe whose batches hold images of two kinds; what is measured and published has the main norms alone."""

    def __init__(self, config: RobustConfig, train: GroupedImages, validation: GroupedImages | None = None) -> None:
        super().__init__(config, train, validation)
        add_auxiliary(self.model.network)

    def publish(self, model: nn.Module, folder: Path, record: Mapping[str, Any]) -> None:
        """The classifier as it was built."""
        super().publish(without_auxiliary(model), folder, record)
