"""Trajectory matching: the loop that moves the images. What one update follows is in `distill.students`.

Everything random depends on (seed, update, student), so that a resumed run equals the uninterrupted one (bit for bit
on a CPU), and students may be shared out to processes.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from accelerate.utils import gather, reduce
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill.buffer import ExpertBuffer
from distill.config import MatchConfig
from distill.distilled import Distilled
from distill.export import picture
from distill.initial import initial_set
from distill.learned import Learned, Tensors
from distill.processes import start_processes
from distill.students import Students, check_starts, choose_experts
from workbench import checkpoints
from workbench.config import to_mapping
from workbench.errors import UserError
from workbench.files import user_errors_for_disk, write_atomic
from workbench.launch import resume_command
from workbench.metrics_log import MetricsLog, Window
from workbench.pictures import encode_png
from workbench.progress import progress
from workbench.run_folder import RunFolder
from workbench.signals import StopRequest

RESULT = "distilled"
AGREEMENT_STEPS = 100  # processes compare their images so often
FREE = {  # what may differ between a run and its resumption: it changes no update, or a run in trouble needs it
    "output_dir", "overwrite", "dry_run", "device", "checkpointing_steps", "checkpoints_total_limit", "logging_steps",
    "resume_from_checkpoint", "compile", "keep_every", "starts_per_step", "threshold", "max_bad_steps",
    "learning_rate_images", "learning_rate_labels", "learning_rate_step_size",
}  # fmt: skip

Score = Callable[[Distilled], float]  # how good a set is on held-out images; all processes ask at once
Write = Callable[[Distilled, Path], object]  # puts the result into a folder


class Best(NamedTuple):
    """The best set so far, by its score on held-out images."""

    values: Tensors
    facts: dict[str, Any]  # score, step, and whether raw or average


class Matching:
    """A run: the experts, what is learned, and the folder."""

    def __init__(self, config: MatchConfig) -> None:
        """Raises UserError where the experts are not there, or do not reach as far as the settings ask."""
        config.check()
        self.config = config
        self.state = start_processes(config.device)
        self.main, self.device = self.state.is_main_process, self.state.device
        self.buffer = ExpertBuffer(config.experts)
        self.spec, self.experts = self.buffer.spec, choose_experts(config, self.buffer)
        self.row = config.resolved(self.buffer.settings["data"], self.spec.size, self.spec.num_classes)
        check_starts(self.row, self.buffer)
        self.students = Students(config, self.row, self.buffer, self.experts, self.device)
        self.sources = self.buffer.sources()
        self.folder = RunFolder(config.output_dir, RESULT, FREE)
        self.window = Window(self.device)
        tenth = max(self.row.max_train_steps // 10, 1)
        self.validation_steps = tenth if config.validation_steps is None else config.validation_steps
        self.best: Best | None = None

    def run(self, score: Score, write: Write) -> Path:
        """Match to the last update, and let `write` publish the set that did best by `score`; returns its folder.

        Raises UserError for what a person can mend, and SystemExit(130) or (143) on SIGINT or SIGTERM, after saving.
        """
        with user_errors_for_disk(self.folder.path), StopRequest() as self.stop:
            self._open()
            self._begin()
            self._loop(self._resume(), score)
            chosen = self.distilled(*self.best) if self.best else self._last()
            if self.main:
                self.folder.publish(self.row.max_train_steps, lambda folder: write(chosen, folder))
            self.state.wait_for_everyone()
        return self.folder.result

    def describe(self) -> str:
        """The resolved settings and what they cost, as YAML, for `--dry-run`."""
        images = self.config.images_per_class * self.spec.num_classes
        numbers = images * self.spec.channels * self.spec.size[0] * self.spec.size[1]
        size = {
            "images": images,
            "parameters": self.buffer.network.size,
            "megabytes_of_a_student's_way": round(4e-6 * self.buffer.network.size * (self.row.synthetic_steps + 1), 1),
            "megabytes_of_the_set": round(4e-6 * numbers, 3),
        }
        return yaml.safe_dump({**self._settings(), **size}, sort_keys=False)

    # ---- one update --------------------------------------------------------------------------------------------------

    def _update(self, step: int) -> str:
        """Move what is learned; returns what was wrong, in words, or nothing."""
        found, loss, used = self._mean_gradients(step)
        held = used > 0 and self.learned.update(found, self.config.min_step_size)
        figures = {
            "loss": loss,
            "step_size": self.learned.values["step_size"],
            "image_grad_norm": found["images"].norm(),
            "students_used": torch.tensor(float(used), device=self.device),
        }
        self.window.add(figures, used > 0)
        if not used:
            return f"the loss was above --threshold {self.row.threshold:g}, or not finite"
        return f"the step size was held at --min-step-size {self.config.min_step_size:g}" if held else ""

    def _mean_gradients(self, step: int) -> tuple[Tensors, Tensor, int]:
        """The mean over the usable students of all processes, their mean loss, and how many there were."""
        values, count = self.learned.values, self.config.starts_per_step
        first = self.state.process_index * count
        sums = {name: torch.zeros_like(value) for name, value in values.items()}
        loss, used = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for number in range(first, first + count):
            student = self.students.gradients(values, self.classes, step, number)
            own = {name: getattr(student, name) for name in values}
            if student.loss <= self.row.threshold and all(gradient.isfinite().all() for gradient in own.values()):
                sums = {name: sums[name] + gradient for name, gradient in own.items()}
                loss, used = loss + student.loss, used + 1
        *parts, loss, used = self._over_processes([*sums.values(), loss, used])
        share = 1 / used.clamp(min=1)
        return {name: part * share for name, part in zip(sums, parts, strict=True)}, loss * share, int(used)

    def _over_processes(self, tensors: list[Tensor]) -> list[Tensor]:
        """Their sums over all processes."""
        if self.state.num_processes == 1:
            return tensors
        joined = reduce(torch.cat([tensor.flatten() for tensor in tensors]), "sum")
        parts = joined.split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]

    # ---- the loop ----------------------------------------------------------------------------------------------------

    def _loop(self, done: int, score: Score) -> None:
        config, last, bad = self.config, self.row.max_train_steps, 0
        with progress(last, self.folder.path.name, initial=done, unit="update", disable=not self.main) as bar:
            for step in range(done + 1, last + 1):
                trouble = self._update(step)
                bad = bad + 1 if trouble else 0
                bar.update()
                if step % config.logging_steps == 0 or step == last:
                    bar.set_postfix(self._log(step), refresh=False)
                if bad >= config.max_bad_steps:
                    self._give_up(step, trouble)
                if self.validation_steps and (step % self.validation_steps == 0 or step == last):
                    with self.window.paused():
                        self._validate(step, score)
                signum = self._agree(step)
                if signum or step % config.checkpointing_steps == 0 or step == last:
                    self._save(step)
                if signum:
                    bar.close()
                    self._leave(step, signum)

    def _log(self, step: int) -> dict[str, str]:
        window = self.window
        figures = {name: value.item() for name, value in window.means().items()}
        figures["updates_per_second"] = window.speed(1)["images_per_second"]
        if window.skipped:
            figures["skipped_updates"] = window.skipped
        window.restart()
        self.metrics.write(step, figures)
        return {name: f"{figures[name]:.3g}" for name in ("loss", "step_size") if name in figures}

    def _agree(self, step: int) -> int:
        """A signal that any process has got, or 0; now and then also that all have the same images."""
        if self.state.num_processes == 1:
            return self.stop.signum or 0
        if step % AGREEMENT_STEPS == 0:
            sums = gather(self.learned.values["images"].sum().view(1))
            assert (sums == sums[0]).all(), "the processes have come apart"
        return int(gather(torch.tensor([self.stop.signum or 0], device=self.device)).max())

    def _validate(self, step: int, score: Score) -> None:
        """Draw the images; measure the raw and the averaged ones on held-out images, and keep the best so far."""
        candidates = self.learned.candidates()
        if self.main:
            shown = self.distilled(list(candidates.values())[-1], {"step": step})
            write_atomic(self.folder.samples / f"step-{step:08d}.png", encode_png(picture(shown)))
        if not len(self.sources.validation):
            return
        for kind, values in candidates.items():
            accuracy = score(self.distilled(values, {"step": step, "kind": kind}))
            self.metrics.write(step, {f"validation_accuracy_{kind}": accuracy})
            if not self.best or accuracy > self.best.facts["validation_accuracy"]:
                facts = {"step": step, "kind": kind, "validation_accuracy": accuracy}
                self.best = Best({name: value.clone() for name, value in values.items()}, facts)

    # ---- start -------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        settings, overwrite = self._settings(), self.config.overwrite
        self.folder.check(settings, overwrite)
        self.state.wait_for_everyone()
        if self.main:
            self.folder.open(settings, overwrite)
        self.state.wait_for_everyone()

    def _settings(self) -> dict[str, Any]:
        students = self.config.starts_per_step * self.state.num_processes
        told = {**to_mapping(self.config), **self.row._asdict(), "num_experts": len(self.experts)}
        return {"recipe": "match", **told, "starts_per_update": students}

    def _begin(self) -> None:
        """Put the first images in place."""
        config, row = self.config, self.row
        began = initial_set(config, row.labels, self.buffer, self.experts, self.sources, self.device)
        self.classes = began.classes
        values = {"images": began.images, "step_size": torch.tensor(row.initial_step_size, device=self.device)}
        if row.labels == "learned":
            values["labels"] = began.labels
        rates = {name: float(getattr(row, f"learning_rate_{name}")) for name in values}
        momenta = {"images": config.momentum, "step_size": config.momentum, "labels": config.label_momentum}
        self.learned = Learned(values, rates, momenta, row.ema_decay)

    def _resume(self) -> int:
        """Load the chosen checkpoint; returns the number of updates already done."""
        chosen = checkpoints.choose(self.folder.checkpoints, self.config.resume_from_checkpoint)
        step = checkpoints.step_of(chosen) if chosen else 0
        if step > self.row.max_train_steps:
            raise UserError(f"{chosen} is past --max-train-steps {self.row.max_train_steps}; give at least {step}")
        if chosen:
            self._load(chosen)
            self._say(f"Resuming from {chosen}")
        self.metrics = MetricsLog(self.folder.metrics, keep_up_to=step, active=self.main)
        return step

    # ---- what is written ---------------------------------------------------------------------------------------------

    def _load(self, folder: Path) -> None:
        try:
            self.learned.load_state(load_file(folder / "learned.safetensors"))
        except ValueError as error:
            raise UserError(f"{folder} is a checkpoint of another set; give one of this run") from error
        facts = json.loads((folder / "state.json").read_text())
        self.window.load_state(facts["window"])
        if facts["best"]:
            values = load_file(folder / "best.safetensors")
            self.best = Best({name: value.to(self.device) for name, value in values.items()}, facts["best"])

    def _save(self, step: int) -> None:
        if self.main:
            final = checkpoints.folder_of(self.folder.checkpoints, step)
            partial = final.with_suffix(".tmp")
            try:
                self._write(partial)
                checkpoints.seal(partial, final, step)
                checkpoints.prune(final, self.config.checkpoints_total_limit)
            except BaseException:  # a full disk, say: leave it no fuller
                shutil.rmtree(partial, ignore_errors=True)
                raise
        self.state.wait_for_everyone()

    def _write(self, partial: Path) -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_on_cpu(self.learned.state()), partial / "learned.safetensors")
        if self.best:
            save_file(_on_cpu(self.best.values), partial / "best.safetensors")
        facts = {"window": self.window.state(), "best": self.best and self.best.facts}
        (partial / "state.json").write_text(json.dumps(facts))

    def _last(self) -> Distilled:
        """Where nothing was measured: the averaged set after the last update, or the raw one where there is none."""
        kind, values = list(self.learned.candidates().items())[-1]
        return self.distilled(values, {"step": self.row.max_train_steps, "kind": kind})

    def distilled(self, values: Tensors, facts: dict[str, Any]) -> Distilled:
        """Learned tensors as a set, with all that is known of how it was made."""
        experts = self.buffer.settings
        settings = {
            "method": self.config.method,
            "network": self.spec.to_mapping(),
            **{name: experts[name] for name in ("augmentation", "validation_share", "split_seed")},
            "matching": {**self._settings(), **facts},
            "experts": {**experts, **self.buffer.summary(self.experts)},
        }
        labels = values.get("labels", self.classes)
        step_size = float(values["step_size"])
        return Distilled(values["images"], labels, step_size, self.buffer.transform, self.buffer.label_names, settings)

    # ---- ends --------------------------------------------------------------------------------------------------------

    def _leave(self, step: int, signum: int) -> None:
        self._say(f"\nStopped after update {step}; the run is saved. Go on with:\n  {resume_command()}")
        raise SystemExit(128 + signum)

    def _give_up(self, step: int, trouble: str) -> None:
        kept = checkpoints.latest(self.folder.checkpoints)
        raise UserError(
            f"{trouble} {self.config.max_bad_steps} updates in a row, up to update {step}; the last checkpoint is "
            f"{kept or 'none yet'}: go on from it with a lower --learning-rate-step-size or --learning-rate-images, "
            "or start anew with another --initial-step-size"
        )

    def _say(self, text: str) -> None:
        if self.main:
            print(text, file=sys.stderr)


def _on_cpu(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
