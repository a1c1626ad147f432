"""FSDP (version 2): each process keeps a part of the weights, of their average and of the optimizer's state.

accelerate spreads the model and its optimizer. What is here spreads the average alike, and puts everything together
again for checkpoints, samples and results, which are the same files however a run was launched.
"""

import copy
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, convert_outputs_to_fp32, fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_map_only

from workbench.config import TrainingConfig
from workbench.errors import UserError

OPTIMIZER = "optimizer.bin"  # accelerate's name, and its form: the state dict of the optimizer

Network = TypeVar("Network", bound=nn.Module)


def check_sharding(accelerator: Accelerator, config: TrainingConfig) -> None:
    """Refuse, where FSDP was asked for, what does not work with it (UserError); give it weights in full precision."""
    if accelerator.distributed_type != DistributedType.FSDP:
        return
    plugin = accelerator.state.fsdp_plugin
    asked = {
        "fsdp_version: 1": plugin.fsdp_version != 2,
        "fsdp_offload_params": isinstance(plugin.cpu_offload, CPUOffloadPolicy),
        "--optimizer muon": config.optimizer == "muon",
        "--mixed-precision fp16": accelerator.mixed_precision == "fp16",
    }
    refused = " and ".join(name for name, given in asked.items() if given)
    if refused:
        raise UserError(
            f"FSDP does not work with {refused}; launch as configs/accelerate/fsdp-eight-gpus.yaml does, with AdamW in "
            "bf16, or with a whole model on each GPU, as configs/accelerate/eight-gpus.yaml"
        )
    plugin.mixed_precision_policy = None  # it would round inputs and gradients; autocast, as elsewhere, does not
    plugin.cpu_ram_efficient_loading = False  # all processes have drawn the same weights already


def spread_average(accelerator: Accelerator, model: nn.Module, ema: AveragedModel, optimizer: Optimizer) -> None:
    """Spread `ema` as accelerate has spread `model`; let checkpoints hold the optimizer's state in one piece."""
    model.forward = convert_outputs_to_fp32(accelerator.autocast()(model.forward))
    fsdp2_prepare_model(accelerator, ema.module)
    accelerator.free_memory()  # it forgets what it would save in pieces, or a second time
    accelerator.register_save_state_pre_hook(
        lambda models, weights, folder: _save_optimizer(optimizer, Path(folder) / OPTIMIZER, accelerator)
    )
    accelerator.register_load_state_pre_hook(
        lambda models, folder: _load_optimizer(optimizer, Path(folder) / OPTIMIZER)
    )


@torch.no_grad()
def whole(network: Network, template: Network) -> Network:
    """`network` with all its weights in this process: itself, or if it is spread, a filled copy of `template`.

    All processes have to ask together.
    """
    if not any(isinstance(weight, DTensor) for weight in network.parameters()):
        return network
    copied = copy.deepcopy(template).to(next(network.parameters()).device)
    parts = network.state_dict()
    for name, value in copied.state_dict().items():
        value.copy_(join(parts[name]))
    return copied


@torch.no_grad()
def spread(complete: nn.Module, network: nn.Module) -> None:
    """Give `network` the weights of `complete`, which is `whole(network)`: each process takes its part."""
    if complete is network:
        return
    values = complete.state_dict()
    for name, part in network.state_dict().items():
        part.copy_(_part(values[name], part))


def _save_optimizer(optimizer: Optimizer, path: Path, accelerator: Accelerator) -> None:
    device = "cpu" if accelerator.is_main_process else "meta"  # whole on the main process alone, off its GPU
    state = tree_map_only(DTensor, lambda part: join(part).to(device), optimizer.state_dict())
    if accelerator.is_main_process:
        torch.save(state, path)


def _load_optimizer(optimizer: Optimizer, path: Path) -> None:
    state = torch.load(path, map_location="cpu", weights_only=True)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for index, moments in state["state"].items():
        moments |= {name: _part(value, weights[index]) for name, value in moments.items() if value.ndim}
    optimizer.load_state_dict(state)


def join(part: Tensor) -> Tensor:
    """The whole of a tensor that is spread over the processes, or a plain one as it is."""
    return part.full_tensor() if isinstance(part, DTensor) else part


def _part(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of `value`, spread as `like` is; a copy, so that the rest of `value` can be freed."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None).clone()
