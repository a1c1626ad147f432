"""Checkpoints that are whole or absent: written beside, sealed with a manifest, renamed, then the old ones pruned.

A checkpoint folder holds accelerate's own state (model, optimizer, RNG), the weight average and the step;
`manifest.json` lists every file with its checksum and is written last. A checkpoint is trusted input (optimizer state
is a torch file); what a run publishes is safetensors only.
"""

import json
import os
import shutil
from pathlib import Path

from workbench.errors import UserError
from workbench.files import sha256_file

MANIFEST = "manifest.json"


def folder_of(root: Path, step: int) -> Path:
    """Where the checkpoint of `step` lives; names sort by step."""
    return root / f"step-{step:08d}"


def seal(partial: Path, final: Path, step: int) -> None:
    """Make the finished folder `partial` the checkpoint `final`: flush it, add the manifest, rename it."""
    files = {}
    for path in _files(partial):
        _flush(path)
        files[path.relative_to(partial).as_posix()] = sha256_file(path)
    manifest = partial / MANIFEST
    manifest.write_text(json.dumps({"step": step, "files": files}, indent=1))
    _flush(manifest)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _flush(final.parent)


def is_complete(folder: Path) -> bool:
    """Whether every file that the manifest lists is there and unchanged."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return all(sha256_file(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # cut short, or not ours
        return False


def step_of(folder: Path) -> int:
    """The step at which a complete checkpoint was taken."""
    return int(json.loads((folder / MANIFEST).read_text())["step"])


def latest(root: Path) -> Path | None:
    """The newest complete checkpoint below `root`, if any."""
    return next((folder for folder in reversed(_sealed(root)) if is_complete(folder)), None)


def choose(root: Path, wish: str) -> Path | None:
    """The checkpoint to resume from: `latest`, `none`, or a folder, which must be complete (else UserError)."""
    if wish == "none":
        return None
    if wish == "latest":
        return latest(root)
    if not is_complete(Path(wish)):
        raise UserError(
            f"{wish} is not a complete checkpoint; give a folder such as {folder_of(root, 500)}, or latest, or none"
        )
    return Path(wish)


def prune(newest: Path, keep: int) -> None:
    """Keep the checkpoint just written and the `keep` - 1 before it.

    Later ones go too: the run was resumed from before them, because they are damaged or by wish. So does what
    interrupted writes have left.
    """
    sealed = _sealed(newest.parent)
    end = sealed.index(newest) + 1
    for folder in [*sealed[: max(end - keep, 0)], *sealed[end:], *newest.parent.glob("*.tmp")]:
        shutil.rmtree(folder, ignore_errors=True)


def _sealed(root: Path) -> list[Path]:
    return sorted(manifest.parent for manifest in root.glob(f"step-*/{MANIFEST}") if manifest.parent.suffix != ".tmp")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
