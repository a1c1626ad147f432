"""Parts of a batch side by side: on a CPU each core shows the classifier a part of its own.

The threads of one forward pass wait for each other after every layer; passes beside each other, with a thread each, do
not. No gradients: it is for methods of many forward passes.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def side_by_side(function: Callable[[Part], Result], parts: Sequence[Part], device: torch.device) -> list[Result]:
    """What the function makes of each part, in their order, without gradients."""
    count = torch.get_num_threads() if device.type == "cpu" else 1
    with torch.no_grad():
        if min(count, len(parts)) < 2:
            return [function(part) for part in parts]
        return list(_workers(count).map(torch.no_grad()(function), parts))


@lru_cache
def _workers(count: int) -> ThreadPoolExecutor:
    """Threads that compute with one thread each; the setting of all others stays what it is."""
    ready = threading.Barrier(count + 1)

    def start() -> None:
        torch.get_num_threads()  # a thread takes over the setting of all when it is first asked
        torch.set_num_threads(1)  # its own, and that of all
        ready.wait()

    pool = ThreadPoolExecutor(count, "part of a batch", start)
    for _ in range(count):
        pool.submit(int)  # which starts a thread, because those before are waiting
    ready.wait()
    torch.set_num_threads(count)
    return pool
