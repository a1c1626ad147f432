"""Each thing that can be wrong with an installation is found, and the answer says what to type."""

import json
import os
import subprocess
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from workbench import doctor, environment
from workbench.doctor import Finding
from workbench.environment import Outcome

FINE = Outcome("torch\n", "", 1.0)
CPU_TORCH: dict[str, Any] = {"torch": "2.15.0+cpu", "cuda": None, "gpus": []}


def installed_from(folder: Path, beside: Path, editable: bool = True) -> metadata.Distribution:
    """The metadata that pip leaves of an installation from a folder."""
    info = beside / f"{folder.name}-{editable}" / "workbench-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: workbench\nVersion: 0.1.0\n")
    (info / "direct_url.json").write_text(json.dumps({"url": folder.as_uri(), "dir_info": {"editable": editable}}))
    return metadata.Distribution.at(info)


def patch_installation(monkeypatch: pytest.MonkeyPatch, distribution: metadata.Distribution | None) -> None:
    def find(name: str) -> metadata.Distribution:
        if distribution is None:
            raise metadata.PackageNotFoundError(name)
        return distribution

    monkeypatch.setattr(metadata, "distribution", find)


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    assert (finding.status == "ok") == (not finding.fix)
    return finding


# Packages


def test_an_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(doctor.check_python()).status == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    finding = only(doctor.check_python())
    assert (finding.status, finding.message) == ("fail", "3.10.4 is too old")
    assert finding.fix.startswith("python3.11 -m venv")


def test_installations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checkout = Path(doctor.__file__).parents[1]
    fix = f"python -m pip install -e {checkout}"
    patch_installation(monkeypatch, None)
    assert only(doctor.check_installation()).fix == fix
    patch_installation(monkeypatch, installed_from(tmp_path / "gone", tmp_path))
    gone = only(doctor.check_installation())
    assert (gone.status, gone.fix) == ("fail", fix)
    assert "gone" in gone.message
    other = tmp_path / "another checkout"  # a space: the address of the folder holds it as %20
    other.mkdir()
    patch_installation(monkeypatch, installed_from(other, tmp_path))
    moved = only(doctor.check_installation())
    assert (moved.status, moved.fix) == ("warn", fix)
    assert str(other) in moved.message
    for distribution in (installed_from(checkout, tmp_path), installed_from(other, tmp_path, editable=False)):
        patch_installation(monkeypatch, distribution)
        assert only(doctor.check_installation()).status == "ok"


def test_missing_and_old_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch>=99", "numpy>=1", "no-such-package>=2.0", 'other-missing; extra == "test"']
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    old, missing = doctor.check_dependencies()
    assert (old.name, old.status, old.fix) == ("torch", "fail", 'python -m pip install "torch>=99"')
    assert old.message.startswith(metadata.version("torch"))
    assert (missing.message, missing.fix) == (
        "not installed, >=2.0 is needed",
        'python -m pip install "no-such-package>=2.0"',
    )
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy>=1"])
    assert only(doctor.check_dependencies()).status == "ok"


def fake_packages(folder: Path, monkeypatch: pytest.MonkeyPatch, **sources: str) -> None:
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_torchvision_of_another_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(metadata, "version", {"torch": "2.13.0+cpu", "torchvision": "0.29.2"}.get)
    error = "operator torchvision::nms does not exist"
    fake_packages(tmp_path, monkeypatch, torch="", torchvision=f"raise RuntimeError('{error}')")
    finding = only(doctor.check_torch_pair())
    assert finding.status == "fail"
    assert finding.message == f"torchvision 0.29.2 does not fit torch 2.13.0+cpu (RuntimeError: {error})"
    assert "uninstall -y torchvision" in finding.fix
    assert 'install "torch==2.13.0+cpu" torchvision --index-url https://download.pytorch.org/whl/cpu' in finding.fix


def test_a_torch_that_crashes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_packages(tmp_path, monkeypatch, torch="import os; os.abort()", torchvision="")
    finding = only(doctor.check_torch_pair())
    assert "cannot be imported (killed by signal 6)" in finding.message
    assert finding.fix == "python -m pip install --force-reinstall torch torchvision"


def test_a_pair_that_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_packages(tmp_path, monkeypatch, torch="", torchvision="")
    assert only(doctor.check_torch_pair()).status == "ok"


def test_libraries_that_do_not_import_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "USED_TOGETHER", ("shap", "segment_anything", "gradio"))
    fake_packages(tmp_path, monkeypatch, shap="", segment_anything="import absent_thing", gradio="")
    finding = only(doctor.check_imports())
    expected = "segment_anything cannot be imported (ModuleNotFoundError: No module named 'absent_thing')"
    assert finding.message == expected
    assert finding.fix == "python -m pip install --force-reinstall --no-deps segment-anything"
    (tmp_path / "segment_anything.py").write_text("")
    assert only(doctor.check_imports()).message.startswith("3 libraries together")


def test_other_interpreters_are_offline_timed_and_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise RuntimeError('a file of the current folder was imported')")
    outcome = environment.run_python("import os, json, sys; print(os.environ['HF_HUB_OFFLINE'], *sys.argv[1:])", "a")
    assert (outcome.output, outcome.error) == ("1 a\n", "")
    assert environment.run_python("import time; time.sleep(60)", timeout=0.2).error == "no answer within 0 s"
    assert environment.run_python("import sys; sys.exit(3)").error == "exit code 3"


# The machine


def test_the_facts_of_torch_are_those_of_torch() -> None:
    import torch

    facts = environment.torch_facts()
    assert (facts["torch"], facts["cuda"]) == (torch.__version__, torch.version.cuda)
    assert bool(facts["gpus"]) == (torch.cuda.is_available() or torch.backends.mps.is_available())


@pytest.mark.parametrize(
    ("torch", "device", "visible", "status", "message", "fix"),
    [
        ({**CPU_TORCH, "gpus": ["H200 (139 GiB)"]}, True, None, "ok", "H200", ""),
        (CPU_TORCH, False, None, "ok", "none", ""),
        (CPU_TORCH, True, None, "warn", "built for the CPU", "--force-reinstall torch torchvision"),
        ({**CPU_TORCH, "cuda": "13.2"}, True, "", "warn", "hidden", "unset CUDA_VISIBLE_DEVICES"),
        ({**CPU_TORCH, "cuda": "13.2"}, True, None, "warn", "CUDA 13.2", "nvidia-smi"),
    ],
)
def test_gpus(
    torch: dict[str, Any],
    device: bool,
    visible: str | None,
    status: str,
    message: str,
    fix: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(environment, "torch_facts", lambda: torch)
    monkeypatch.setattr(doctor, "NVIDIA_DEVICE", tmp_path if device else tmp_path / "none")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    finding = only(doctor.check_gpu())
    assert finding.status == status
    assert message in finding.message
    assert fix in finding.fix


def test_bf16_instructions(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu avx512_bf16 amx_bf16\nflags : fpu avx512_bf16 amx_bf16\n")
    assert environment.bf16_instructions(cpuinfo) == "amx_bf16, avx512_bf16"
    cpuinfo.write_text("flags : fpu avx2 avx512bw\n")
    assert environment.bf16_instructions(cpuinfo) == ""
    assert environment.bf16_instructions(tmp_path / "none") == "unknown"


@pytest.mark.parametrize(("free_gib", "status"), [(0.5, "fail"), (5, "warn"), (50, "ok")])
def test_little_room(free_gib: float, status: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(0, 0, int(free_gib * 2**30)))
    monkeypatch.chdir(tmp_path)
    finding = doctor.check_disk()[0]
    assert (finding.status, finding.name) == (status, "disk (current folder)")
    assert f"{free_gib:.1f} GiB free" in finding.message
    assert status == "ok" or finding.fix.startswith(f"du -xsh {tmp_path}/*")


def test_a_full_disk_of_the_cache_says_how_to_move_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(0, 0, 0))
    assert doctor._disk_finding("HF_HOME", tmp_path).fix.startswith("export HF_HOME=")


def test_a_cache_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "new" / "cache"))
    findings = {finding.name: finding for finding in doctor.check_caches()}
    assert findings["HF_HOME"].status == "fail"
    assert findings["HF_HOME"].fix == "export HF_HOME=/folder/you/may/write"
    assert findings["WORKBENCH_CACHE"].status == "ok"
    assert not (tmp_path / "new").exists()


# Data and weights


def test_offline_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    for flag in environment.OFFLINE_FLAGS:
        monkeypatch.setenv(flag, "0")
    assert only(doctor.check_offline()).status == "ok"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert only(doctor.check_offline()).fix == "unset HF_HUB_OFFLINE"


def test_the_full_fashion_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WORKBENCH_FASHION_MNIST", raising=False)
    monkeypatch.setattr(doctor, "FASHION_MNIST", tmp_path / "none")
    assert only(doctor.check_fashion_mnist()).fix == "sudo apt-get install dataset-fashion-mnist"
    monkeypatch.setenv("WORKBENCH_FASHION_MNIST", str(tmp_path))
    assert only(doctor.check_fashion_mnist()).fix == "unset WORKBENCH_FASHION_MNIST"
    (tmp_path / "train-images-idx3-ubyte.gz").write_text("")
    assert only(doctor.check_fashion_mnist()).status == "ok"


def hub_file(cache: Path, repository: str, name: str) -> None:
    """A file as the hub library keeps it: a link from the snapshot to the content."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    for part in ("blobs", "refs", "snapshots/c0ffee"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("c0ffee")
    (folder / "blobs" / name).write_text("content")
    (folder / "snapshots" / "c0ffee" / name).symlink_to(folder / "blobs" / name)


def test_models_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(doctor, "PRETRAINED_MODELS", {"captioner": "a/caption", "segmenter": "b/segment"})
    both = "hf download a/caption && hf download b/segment"
    assert only(doctor.check_models()).fix == both
    hub_file(cache, "a/caption", "config.json")
    assert only(doctor.check_models()).fix == both
    hub_file(cache, "a/caption", "model.safetensors")
    finding = only(doctor.check_models())
    assert (finding.status, finding.fix) == ("warn", "hf download b/segment")
    assert "b/segment (segmenter)" in finding.message
    hub_file(cache, "b/segment", "pytorch_model.bin")
    assert only(doctor.check_models()).status == "ok"


def test_inception_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    finding = only(doctor.check_inception())
    assert f"-o {tmp_path}/hub/checkpoints/{doctor.INCEPTION} https://" in finding.fix
    assert finding.fix.endswith("&& python -m pip install torch-fidelity")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / doctor.INCEPTION).write_text("")
    assert only(doctor.check_inception()).fix == "python -m pip install torch-fidelity"
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    assert only(doctor.check_inception()).status == "ok"


# The commands


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No other interpreters, no network."""

    def refuse(*arguments: Any) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(environment, "run_python", lambda *arguments, **options: FINE)
    monkeypatch.setattr(environment, "torch_facts", lambda: CPU_TORCH)
    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.mark.usefixtures("quick")
def test_the_doctor_prints_every_fix_and_fails_when_something_must_be_mended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["no-such-package>=2.0"])
    monkeypatch.delenv("WORKBENCH_FASHION_MNIST", raising=False)
    monkeypatch.setattr(doctor, "FASHION_MNIST", Path("/no/such/folder"))
    assert doctor.main_doctor() == 1
    printed = capsys.readouterr().out
    assert 'fix: python -m pip install "no-such-package>=2.0"' in printed
    assert "fix: sudo apt-get install dataset-fashion-mnist" in printed
    assert " to mend, " in printed.splitlines()[-1]


@pytest.mark.usefixtures("quick")
def test_warnings_alone_are_no_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_python, doctor.check_offline))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert doctor.main_doctor() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 to mend, 1 to know"
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_python,))
    assert doctor.main_doctor() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "all is well"


def test_a_check_that_breaks_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_odd_things() -> list[Finding]:
        raise ModuleNotFoundError("No module named 'packaging'", name="packaging")

    monkeypatch.setattr(doctor, "CHECKS", (check_odd_things, doctor.check_python))
    broken, python = doctor.diagnose()
    assert (broken.name, broken.status) == ("odd things", "fail")
    assert broken.fix == "python -m pip install packaging"
    assert python.status == "ok"


@pytest.mark.usefixtures("quick")
def test_the_environment_can_be_pasted_in_public(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada-lovelace"))
    monkeypatch.setenv("HOME", "/home/ada-lovelace")
    monkeypatch.setenv("HF_HOME", "/home/ada-lovelace/hub")
    monkeypatch.setenv("WORKBENCH_CACHE", "/scratch/ada-lovelace/cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch>=2", "absent-a", 'absent-b; extra == "test"'])
    assert doctor.main_env(json=True) == 0
    printed = capsys.readouterr().out
    assert "ada-lovelace" not in printed
    found = json.loads(printed)
    assert (found["HF_HOME"], found["WORKBENCH_CACHE"]) == ("~/hub", "/scratch/USER/cache")
    assert (found["torch"], found["torch build"]) == (metadata.version("torch"), "2.15.0+cpu")
    assert found["absent-a"] == "not installed"
    assert "absent-b" not in found
    assert found["HF_HUB_OFFLINE"] == "1"
    assert found["GPU"] == "none"
    assert doctor.main_env() == 0
    assert "HF_HOME: ~/hub" in capsys.readouterr().out.splitlines()


def test_a_broken_torch_can_still_be_described(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_packages(tmp_path, monkeypatch, torch="raise OSError('libcudart.so is missing')")
    environment.torch_facts.cache_clear()
    try:
        assert "libcudart.so is missing" in environment.environment()["torch build"]
        assert doctor.check_gpu() == []
    finally:
        environment.torch_facts.cache_clear()


def test_the_doctor_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'huggingface_hub', 'packaging', 'transformers'}"
    code = f"import sys, workbench.doctor; sys.exit(str({heavy} & set(sys.modules) or ''))"
    checkout = {**os.environ, "PYTHONPATH": str(Path(doctor.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=checkout, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
