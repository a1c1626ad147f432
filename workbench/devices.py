"""Which device a command runs on."""

import torch

from workbench.config import Device
from workbench.errors import UserError


def choose_device(name: Device) -> torch.device:
    """The device asked for; auto takes a GPU where there is one. Raises UserError when it is not available here."""
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    if name != "cpu" and not getattr(torch, name).is_available():
        raise UserError(f"--device {name} is not available here; give --device auto or --device cpu")
    return torch.device(name)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Mixed precision as `--mixed-precision` names it, for what is computed beside the trained model."""
    resolved = resolve_precision(precision, device)
    kind = torch.float16 if resolved == "fp16" else torch.bfloat16
    return torch.autocast(device.type, kind, enabled=resolved != "no")


def resolve_precision(precision: str, device: torch.device) -> str:
    """no, bf16 or fp16; auto takes bf16 where that is a gain."""
    if precision != "auto":
        return precision
    return "bf16" if has_fast_bf16(device) else "no"


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 products run natively on the device: only then is bf16 autocast a gain."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch has no public question for this; where it has no answer either, fp32 is the safe one
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, check, lambda: False)() for check in checks)
