"""How this process was started: its command line, and whether all asked-for processes are there."""

import os
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path

PACKAGES = ("workbench", "torch", "torchvision", "diffusers", "transformers", "accelerate", "datasets", "torchmetrics",
            "safetensors", "numpy", "pillow")  # fmt: skip
LAUNCHERS = {"accelerate": "accelerate", "torchrun": "torchrun", "torch.distributed.run": "torchrun"}


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
    words = _parent_words()
    arguments = len(words) - len(sys.argv[1:])  # where ours begin, if the parent passed them on
    for number, word in enumerate(words[:arguments]):
        launcher = LAUNCHERS.get(Path(word).name)
        if launcher and words[arguments:] == sys.argv[1:]:
            return [launcher, *map(shlex.quote, words[number + 1 : arguments])]
    return ["python", shlex.quote(os.path.relpath(program) if program else "-")]


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
    for word, following in pairwise([*_parent_words(), ""]):
        name, _, value = word.partition("=")
        if name.replace("-", "_") in ("__num_processes", "__nproc_per_node"):
            value = value or following
            return int(value) if value.isdigit() else None
    return None


def _parent_words() -> list[str]:
    import psutil

    try:
        return psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return []
