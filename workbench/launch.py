"""How this process was started: its command line, and whether all asked-for processes are there."""

import os
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path

PACKAGES = ("workbench", "torch", "torchvision", "diffusers", "transformers", "accelerate", "datasets", "torchmetrics",
            "safetensors", "numpy", "pillow")  # fmt: skip


def command_line() -> str:
    """The command that a person would type to start this process again."""
    return _command(sys.argv[1:])


def resume_command() -> str:
    """The same, without what would make it start anew or from an older checkpoint."""
    kept, words = [], iter(sys.argv[1:])
    for word in words:
        name, _, value = word.replace("_", "-").partition("=")
        if name == "--resume-from-checkpoint" and not value:
            next(words, None)
        if name not in ("--resume-from-checkpoint", "--overwrite"):
            kept.append(word)
    return _command(kept)


def _command(arguments: list[str]) -> str:
    return " ".join([*_launcher(sys.argv[0]), *map(shlex.quote, arguments)])


def _launcher(program: str) -> list[str]:
    if Path(program).name == "workbench":
        return ["workbench"]
    script = shlex.quote(os.path.relpath(program) if program else "-")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return ["torchrun", "--nproc_per_node", os.environ.get("LOCAL_WORLD_SIZE", "1"), script]
    if any(name.startswith("ACCELERATE_") for name in os.environ):
        return ["accelerate", "launch", script]
    return ["python", script]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processes_asked() -> int | None:
    """How many processes `accelerate launch` was told to start; None when it was not told, or did not start us."""
    import psutil

    try:
        words = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return None
    for word, following in pairwise([*words, ""]):
        name, _, value = word.partition("=")
        if name.replace("-", "_") in ("__num_processes", "__nproc_per_node"):
            value = value or following
            return int(value) if value.isdigit() else None
    return None
