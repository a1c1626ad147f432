"""What a bug report must say of a machine, without saying whose it is.

Light on purpose: torch is asked in a process of its own, so a broken installation can still be described.
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

OFFLINE_FLAGS = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
GIB = 2**30

TORCH_PROBE = """
import json, torch
usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
gpus = [torch.cuda.get_device_properties(index) for index in range(usable)]
names = [f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in gpus]
names += ["Apple GPU (MPS)"] if torch.backends.mps.is_available() else []
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "gpus": names}))
"""


def environment() -> dict[str, str]:
    """Versions, processor, memory, GPU, caches and offline flags, by name; no home folder and no user name."""
    torch = torch_facts()
    facts = {
        "workbench": installation(),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "cores": str(cores()),
        "memory": memory(),
        "bf16 in the CPU": bf16_instructions() or "no",
        "torch build": torch.get("torch", torch.get("error", "")),
        "CUDA of torch": str(torch.get("cuda")),
        "GPU": ", ".join(torch.get("gpus", ())) or "none",
        **{name: str(folder) for name, folder in cache_folders().items()},
        **{flag: os.environ.get(flag, "not set") for flag in OFFLINE_FLAGS},
        **dependency_versions(),
    }
    return {name: anonymous(value) for name, value in facts.items()}


def anonymous(text: str) -> str:
    """The text with the home folder as `~`, and the user's name as USER where it is a part of another path."""
    home = Path.home()
    if not home.name:
        return text
    return re.sub(rf"(?<=[/\\]){re.escape(home.name)}(?=[/\\\s]|$)", "USER", text.replace(str(home), "~"))


# This installation


def installation() -> str:
    """Version of the installed package and the way it was installed."""
    try:
        distribution = metadata.distribution("workbench")
    except metadata.PackageNotFoundError:
        return "not installed"
    return f"{distribution.version}{' (editable)' if editable_checkout(distribution) else ''}"


def editable_checkout(distribution: metadata.Distribution) -> Path | None:
    """The folder that an editable installation points at."""
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return None
    return Path(url2pathname(urlparse(origin["url"]).path))


def requirements() -> list[str]:
    """What the installed package asks for, one line of its metadata each."""
    try:
        return metadata.requires("workbench") or []
    except metadata.PackageNotFoundError:
        return []


def dependency_versions() -> dict[str, str]:
    """The version of each package asked for; optional ones only where they are installed."""
    found = {}
    for line in requirements():
        name = re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]
        version = installed_version(name)
        if version or "extra ==" not in line:
            found[name] = version or "not installed"
    return dict(sorted(found.items()))


def installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cache_folders() -> dict[str, Path]:
    """Where downloads and trained feature networks are kept, by the variable that moves each."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return {
        "HF_HOME": Path(os.environ.get("HF_HOME") or caches / "huggingface").expanduser(),
        "TORCH_HOME": Path(os.environ.get("TORCH_HOME") or caches / "torch").expanduser(),
        "WORKBENCH_CACHE": Path(os.environ.get("WORKBENCH_CACHE") or "~/.cache/workbench").expanduser(),
    }


# The machine


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> str:
    """Physical memory in GiB."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return "unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIB:.1f} GiB"


def bf16_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The instructions with which this processor multiplies bfloat16, by name; empty when it has none."""
    if not cpuinfo.exists():
        return "unknown"
    found = re.findall(r"\b(avx512_bf16|amx_bf16|bf16)\b", cpuinfo.read_text())
    return ", ".join(sorted(set(found)))


# Other processes


@dataclass(frozen=True)
class Outcome:
    """How a piece of Python ended: its output, the last thing it said when it failed, and its seconds."""

    output: str
    error: str
    seconds: float


def run_python(code: str, *arguments: str, timeout: float = 300) -> Outcome:
    """Run code in a fresh offline interpreter, so that a crash there is no crash here; `error` is empty if fine."""
    quiet = {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, "-P", "-c", code, *arguments]  # -P: no file of the current folder is in the way
    start = time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env={**os.environ, **quiet}, check=False
        )
    except subprocess.TimeoutExpired:
        return Outcome("", f"no answer within {timeout:.0f} s", timeout)
    return Outcome(done.stdout, _last_words(done), time.monotonic() - start)


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"killed by signal {-done.returncode}"
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return said[-1] if done.returncode else ""


@cache
def torch_facts() -> dict[str, Any]:
    """`torch` (version), `cuda` (of the build, or None) and `gpus` (names); `error` alone when torch is broken."""
    outcome = run_python(TORCH_PROBE)
    if outcome.error:
        return {"error": f"torch cannot be imported: {outcome.error}"}
    return json.loads(outcome.output.splitlines()[-1])
