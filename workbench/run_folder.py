"""The folder of a training run: what is in it, whether it may be used, and whether it is finished."""

import json
import shutil
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import yaml

from workbench.errors import UserError
from workbench.files import make_folder, publish_folder, write_atomic

# What may differ between a run and its resumption: it changes no step's result. (The batch settings may change as long
# as their product, the global batch size, does not.)
FREE = {
    "output_dir", "overwrite", "dry_run", "device", "checkpointing_steps", "checkpoints_total_limit",
    "resume_from_checkpoint", "validation_steps", "logging_steps", "report_to", "max_nonfinite_steps",
    "train_batch_size", "gradient_accumulation_steps", "latent_cache", "gradient_checkpointing", "compile",
    "validation_images", "validation_inference_steps", "validation_guidance_scale", "probe_images",
    "find_learning_rate",
}  # fmt: skip


class RunFolder:
    """`config.yaml`, `checkpoints/`, `metrics.jsonl`, `samples/`, and the published `result`."""

    def __init__(self, path: Path, result: str, free: Set[str] = FREE) -> None:
        """`free`: settings that may differ between a run and its resumption."""
        self.path, self.result, self.free = path, path / result, free
        self.checkpoints, self.samples = path / "checkpoints", path / "samples"
        self.metrics, self.config = path / "metrics.jsonl", path / "config.yaml"
        self._mark = path / "finished.json"

    def check(self, settings: dict[str, Any], overwrite: bool) -> None:
        """Raise UserError where the folder holds another run, a finished one, or something else."""
        if self.config.exists():
            if not overwrite:
                self._check_same(settings)
        elif self.path.is_dir() and any(not p.name.startswith(".") for p in self.path.iterdir()):
            raise UserError(f"{self.path} holds files that are not a training run; choose another --output-dir")

    def open(self, settings: dict[str, Any], overwrite: bool) -> None:
        """Make or reopen a checked folder; `overwrite` drops an earlier run, but for its result and to the last."""
        if overwrite:
            self._forget()
        make_folder(self.path)
        write_atomic(self.config, yaml.safe_dump(settings, sort_keys=False))
        self.samples.mkdir(exist_ok=True)

    def finished(self, max_train_steps: int) -> bool:
        """Whether the result of that many steps is there."""
        return self._mark.exists() and int(json.loads(self._mark.read_text())["step"]) >= max_train_steps

    def publish(self, step: int, write: Callable[[Path], object]) -> None:
        """Let `write` fill a folder beside the result, put it in the result's place, and mark the run finished."""
        partial = self.result.with_name(self.result.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        write(partial)
        publish_folder(partial, self.result)
        write_atomic(self._mark, json.dumps({"step": step}))

    def _forget(self) -> None:
        """Drop an earlier run, but for its result and settings, which stay until the new ones replace them."""
        for path in (self._mark, self.metrics):
            path.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.samples):
            if folder.exists():
                shutil.rmtree(folder)

    def _check_same(self, settings: dict[str, Any]) -> None:
        stored = yaml.safe_load(self.config.read_text()) or {}
        changed = [key for key in settings if key not in self.free and stored.get(key) != settings[key]]
        if changed == ["max_train_steps"] and str(settings.get("lr_scheduler", "constant")).startswith("constant"):
            changed = []  # a constant rate can simply go on
        if changed:
            told = ", ".join(f"{key} was {stored.get(key)!r} and is now {settings[key]!r}" for key in changed)
            raise UserError(
                f"{self.path} holds a run with other settings: {told}; give the same settings to resume it, "
                "another --output-dir, or --overwrite to start anew"
            )
        if self.finished(settings["max_train_steps"]):
            raise UserError(f"{self.path} is finished, its result is {self.result}; give --overwrite to start anew")
