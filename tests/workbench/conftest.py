"""Processes for tests, without the seconds that importing torch takes in each."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def spawn() -> Iterator[Callable[..., BaseProcess]]:
    """Starts `target(*arguments)` in a process forked from one that has imported the toy recipe and done nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["toy_recipe"])
        running: list[BaseProcess] = []

        def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
            process = context.Process(target=target, args=arguments)
            process.start()
            running.append(process)
            return process

        yield start
        for process in running:
            process.kill()
