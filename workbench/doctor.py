"""`workbench doctor`: is this installation fit, and if not, the command that mends it.

Light on purpose: heavy packages are imported in processes of their own, so that a broken one cannot silence us.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from workbench import environment as facts

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PIP = "python -m pip"
OLDEST_PYTHON = (3, 11)
CHECKOUT = Path(__file__).resolve().parents[1]
NVIDIA_DEVICE = Path("/dev/nvidia0")
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION}"
LITTLE_DISK, TOO_LITTLE_DISK = 10 * facts.GIB, 1 * facts.GIB

USED_TOGETHER = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "accelerate",
    "segment_anything",
    "shap",
    "gradio",
    "datasets",
    "torchmetrics",
    "safetensors",
)

PRETRAINED_MODELS = {
    "captioner": "Salesforce/blip-image-captioning-base",
    "describer": "HuggingFaceTB/SmolVLM-256M-Instruct",
    "segmenter": "facebook/sam2.1-hiera-tiny",
    "inpainter": "stable-diffusion-v1-5/stable-diffusion-inpainting",
    "editor": "timbrooks/instruct-pix2pix",
}


@dataclass(frozen=True)
class Finding:
    """What one check found; `fix` is the command to type, empty only when the status is ok."""

    name: str
    status: Literal["ok", "warn", "fail"]
    message: str
    fix: str = ""


def main_doctor() -> int:
    """Print every finding; 1 when something must be mended, else 0."""
    findings = diagnose()
    print(render(findings))
    return int(any(finding.status == "fail" for finding in findings))


def main_env(json: bool = False) -> int:
    """Print what a bug report needs, as lines or as one JSON object."""
    found = facts.environment()
    print(dumps(found, indent=2) if json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    return 0


def diagnose() -> list[Finding]:
    """The findings of all checks, in the order in which they are best mended; nothing is downloaded."""
    return [finding for check in CHECKS for finding in _survive(check)]


def render(findings: list[Finding]) -> str:
    """One line for each finding, the command that mends it below, and the count at the end."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:4}  {finding.name:{width}}  {finding.message}")
        if finding.fix:
            lines.append(f"{'':{width + 8}}fix: {finding.fix}")
    failures, warnings = (sum(finding.status == status for finding in findings) for status in ("fail", "warn"))
    lines.append(f"{failures} to mend, {warnings} to know" if failures or warnings else "all is well")
    return "\n".join(lines).replace(str(Path.home()) + os.sep, f"~{os.sep}")


def _survive(check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return check()
    except Exception as error:  # one broken check must not hide what the others find
        name = check.__name__.removeprefix("check_").replace("_", " ")
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        fix = f"{PIP} install {missing}" if missing else "workbench env  # and report this with what it prints"
        return [Finding(name, "fail", f"could not be checked ({type(error).__name__}: {error})", fix)]


def _announce(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)


# Packages


def check_python() -> list[Finding]:
    """The interpreter is new enough."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] >= OLDEST_PYTHON:
        return [Finding("python", "ok", version)]
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return [Finding("python", "fail", f"{version} is too old", f"python{oldest} -m venv --clear .venv")]


def check_installation() -> list[Finding]:
    """The package is installed, and an editable installation points at this code."""
    fix = f"{PIP} install -e {CHECKOUT}"
    try:
        distribution = metadata.distribution("workbench")
    except metadata.PackageNotFoundError:
        return [Finding("installation", "fail", "workbench is not installed in this Python", fix)]
    source = facts.editable_checkout(distribution)
    if source is not None and not source.is_dir():
        return [Finding("installation", "fail", f"it was installed from {source}, which is gone", fix)]
    if source is not None and source.resolve() != CHECKOUT:
        return [Finding("installation", "warn", f"it is installed from {source}, but runs in {CHECKOUT}", fix)]
    return [Finding("installation", "ok", facts.installation())]


def check_dependencies() -> list[Finding]:
    """Each required package is there in a version that fits."""
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in facts.requirements()]
    wanted = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    problems = [problem for one in wanted if (problem := _dependency_problem(one))]
    return problems or [Finding("dependencies", "ok", f"{len(wanted)} packages in versions that fit")]


def _dependency_problem(wanted: "Requirement") -> Finding | None:
    version = facts.installed_version(wanted.name)
    if version is not None and wanted.specifier.contains(version, prereleases=True):
        return None
    state = f"{version} is installed" if version else "not installed"
    fix = f'{PIP} install "{wanted.name}{wanted.specifier}"'
    return Finding(wanted.name, "fail", f"{state}, {wanted.specifier} is needed", fix)


def check_torch_pair() -> list[Finding]:
    """torchvision belongs to this torch: a stranger breaks transformers, diffusers, timm and torchmetrics too."""
    if find_spec("torch") is None or find_spec("torchvision") is None:
        return []  # check_dependencies says so
    _announce("importing torch and torchvision")
    outcome = facts.run_python("import torch; print('torch'); import torchvision")
    torch, torchvision = metadata.version("torch"), metadata.version("torchvision")
    if not outcome.error:
        return [Finding("torch pair", "ok", f"torch {torch} with torchvision {torchvision}")]
    if "torch" not in outcome.output:
        fix = f"{PIP} install --force-reinstall torch torchvision"
        return [Finding("torch pair", "fail", f"torch {torch} cannot be imported ({outcome.error})", fix)]
    message = f"torchvision {torchvision} does not fit torch {torch} ({outcome.error})"
    return [Finding("torch pair", "fail", message, _matching_pair(torch))]


def _matching_pair(torch: str) -> str:
    """The command that lets pip choose the torchvision of this torch, from the index of its build if named."""
    build = torch.partition("+")[2]
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    remove = f"{PIP} uninstall -y torchvision"
    return f'{remove} && {PIP} install "torch=={torch}" torchvision{index}  # the first half alone removes it'


def check_imports() -> list[Finding]:
    """The large libraries import together, in one process."""
    names = [name for name in USED_TOGETHER if find_spec(name) is not None]
    _announce(f"importing {len(names)} libraries together, up to a minute")
    code = "import importlib, sys\nfor name in sys.argv[1:]: print(name, flush=True); importlib.import_module(name)"
    outcome = facts.run_python(code, *names)
    if not outcome.error:
        return [Finding("imports", "ok", f"{len(names)} libraries together in {outcome.seconds:.0f} s")]
    broken = (outcome.output.split() or ["torch"])[-1]
    fix = f"{PIP} install --force-reinstall --no-deps {broken.replace('_', '-')}"
    return [Finding("imports", "fail", f"{broken} cannot be imported ({outcome.error})", fix)]


# The machine


def check_gpu() -> list[Finding]:
    """A GPU that is in the machine is one that torch can use."""
    torch = facts.torch_facts()
    if "error" in torch:
        return []  # check_torch_pair says so
    if torch["gpus"]:
        return [Finding("gpu", "ok", ", ".join(torch["gpus"]))]
    if not NVIDIA_DEVICE.exists():
        return [Finding("gpu", "ok", "none; everything runs on the CPU")]
    if torch["cuda"] is None:
        message = f"there is an NVIDIA GPU, but torch {torch['torch']} is built for the CPU"
        return [Finding("gpu", "warn", message, f"{PIP} install --force-reinstall torch torchvision")]
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        hidden = f"the GPU is hidden by CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']}"
        return [Finding("gpu", "warn", hidden, "unset CUDA_VISIBLE_DEVICES")]
    message = f"torch is built for CUDA {torch['cuda']}, which the driver of the GPU does not serve"
    fix = "nvidia-smi  # then update the driver, or install the torch of the CUDA version that it prints"
    return [Finding("gpu", "warn", message, fix)]


def check_processor() -> list[Finding]:
    """Cores, memory, and whether bf16 is quick on them."""
    bf16 = facts.bf16_instructions() or "not in hardware"
    return [Finding("processor", "ok", f"{facts.cores()} cores, {facts.memory()}, bf16: {bf16}")]


def check_disk() -> list[Finding]:
    """Room for runs in the current folder and for downloads in the caches; each disk is named once."""
    places = {"current folder": Path.cwd(), **facts.cache_folders()}
    disks: dict[int, tuple[str, Path]] = {}
    for name, folder in places.items():
        disks.setdefault(_existing(folder).stat().st_dev, (name, _existing(folder)))
    return [_disk_finding(name, folder) for name, folder in disks.values()]


def _disk_finding(name: str, folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    message = f"{free / facts.GIB:.1f} GiB free in {folder}"
    if free >= LITTLE_DISK:
        return Finding(f"disk ({name})", "ok", message)
    fix = f"du -xsh {folder}/* | sort -h  # then remove what you do not need"
    if name != "current folder":
        fix = f"export {name}=/folder/on/a/larger/disk"
    return Finding(f"disk ({name})", "fail" if free < TOO_LITTLE_DISK else "warn", message, fix)


def check_caches() -> list[Finding]:
    """The cache folders can be written, or made."""
    return [_cache_finding(name, folder) for name, folder in facts.cache_folders().items()]


def _cache_finding(name: str, folder: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return Finding(name, "ok", str(folder))
    except OSError as error:
        message = f"{folder} cannot be written ({error.strerror})"
        return Finding(name, "fail", message, f"export {name}=/folder/you/may/write")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


# Data and weights


def check_offline() -> list[Finding]:
    """Nothing forbids downloads unasked."""
    flags = [flag for flag in facts.OFFLINE_FLAGS if os.environ.get(flag, "0").lower() not in ("", "0", "false")]
    if not flags:
        return [Finding("downloads", "ok", "allowed")]
    message = f"forbidden by {', '.join(flags)}: only what is on disk is used"
    return [Finding("downloads", "warn", message, f"unset {' '.join(flags)}")]


def check_fashion_mnist() -> list[Finding]:
    """The full Fashion-MNIST is on disk."""
    named = os.environ.get("WORKBENCH_FASHION_MNIST")
    folder = Path(named).expanduser() if named else FASHION_MNIST
    if (folder / "train-images-idx3-ubyte.gz").exists():
        return [Finding("fashion-mnist", "ok", f"the full set, in {folder}")]
    if named:
        message = f"WORKBENCH_FASHION_MNIST={named} does not hold the full set"
        return [Finding("fashion-mnist", "fail", message, "unset WORKBENCH_FASHION_MNIST")]
    message = "the full set is not on disk: the packaged extract of 6,000 + 1,000 images is used"
    return [Finding("fashion-mnist", "warn", message, "sudo apt-get install dataset-fashion-mnist")]


def check_models() -> list[Finding]:
    """The pretrained models that a stage can use are on disk."""
    on_disk = _downloaded_models()
    missing = {role: name for role, name in PRETRAINED_MODELS.items() if name not in on_disk}
    if not missing:
        return [Finding("models", "ok", f"{len(PRETRAINED_MODELS)} pretrained models are on disk")]
    named = ", ".join(f"{name} ({role})" for role, name in missing.items())
    fix = " && ".join(f"hf download {name}" for name in missing.values())
    return [Finding("models", "warn", f"not on disk, so our small stand-ins speak: {named}", fix)]


def _downloaded_models() -> set[str]:
    """Names of the hub models with weights in the cache; a lone configuration does not count."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return set()
    weights = (".safetensors", ".bin", ".pt", ".pth")
    return {
        repository.repo_id
        for repository in repositories
        if any(file.file_name.endswith(weights) for revision in repository.revisions for file in revision.files)
    }


def check_inception() -> list[Finding]:
    """The Inception network of the papers' FID is on disk, with the package that reads it."""
    weights = facts.cache_folders()["TORCH_HOME"] / "hub" / "checkpoints" / INCEPTION
    fixes = []
    if not weights.exists():
        fixes.append(f"curl -L --create-dirs -o {weights} {INCEPTION_URL}")
    if find_spec("torch_fidelity") is None:
        fixes.append(f"{PIP} install torch-fidelity")
    if not fixes:
        return [Finding("inception", "ok", str(weights))]
    message = "not complete on disk: distances are measured with a network trained on the data set itself"
    return [Finding("inception", "warn", message, " && ".join(fixes))]


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    check_python,
    check_installation,
    check_dependencies,
    check_torch_pair,
    check_imports,
    check_gpu,
    check_processor,
    check_disk,
    check_caches,
    check_offline,
    check_fashion_mnist,
    check_models,
    check_inception,
)
