"""The processes of a command: one, or as many as `accelerate launch` or torchrun have started."""

from datetime import timedelta

from accelerate import PartialState

from workbench.allocator import keep_freed_memory
from workbench.config import Device
from workbench.devices import choose_device

PATIENCE = timedelta(hours=12)  # a process may have that much more to do than the others before they meet


def start_processes(device: Device) -> PartialState:
    """This process's place among the others, and its device. Raises UserError for a device that is not there."""
    PartialState._reset_state()  # an earlier run of this program may have differed
    keep_freed_memory()
    return PartialState(cpu=choose_device(device).type == "cpu", timeout=PATIENCE)
