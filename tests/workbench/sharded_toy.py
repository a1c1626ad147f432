"""The toy recipe under FSDP on the CPU, for which accelerate does not turn it on by itself."""

from typing import Any

from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from toy_recipe import ToyRecipe, train_like_a_command

from workbench import training


def sharding_accelerator(version: int = 2, offload: bool = False, **options: Any) -> Accelerator:
    """What `accelerate launch` of an FSDP file makes of `Accelerator(...)` on GPUs."""
    accelerator = Accelerator(**options)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=version, cpu_offload=offload)
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    return accelerator


class ShardedToy(ToyRecipe):
    """Sees to it that the weights are spread."""

    def loss(self, model: nn.Module, indices: Tensor, draws: dict[str, Tensor]) -> dict[str, Tensor]:
        assert isinstance(model, FSDPModule)
        assert all(isinstance(weight, DTensor) for weight in model.parameters())
        return super().loss(model, indices, draws)


def train_sharded(*arguments: Any) -> None:
    """`train_like_a_command` under FSDP."""
    import toy_recipe

    training.Accelerator = sharding_accelerator  # type: ignore[assignment,misc]
    toy_recipe.ToyRecipe = ShardedToy  # type: ignore[misc]
    train_like_a_command(*arguments)
