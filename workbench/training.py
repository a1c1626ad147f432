"""The one training loop, on accelerate: any recipe, any number of processes, stop and resume at any step.

    result = Training(recipe).train()

Data order, noise and augmentation are functions of (seed, step). So a run that was killed and resumed equals the
uninterrupted one (bit for bit on a CPU), and splitting a global batch over processes or forward passes changes nothing.
"""

import copy
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from jaxtyping import Int64
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from workbench import checkpoints, seeds
from workbench.allocator import keep_freed_memory
from workbench.config import TrainingConfig, to_mapping
from workbench.data_order import global_batch
from workbench.devices import choose_device, resolve_precision
from workbench.errors import UserError
from workbench.files import user_errors_for_disk
from workbench.launch import command_line, processes_asked, resume_command, versions
from workbench.metrics_log import MetricsLog, Window
from workbench.optimizers import make_optimizers
from workbench.progress import progress
from workbench.recipe import Recipe
from workbench.run_folder import RunFolder
from workbench.schedules import Schedule
from workbench.sharding import check_sharding, join, spread, spread_average, whole
from workbench.signals import StopRequest

STEP = 1  # stream of randomness
PATIENCE = timedelta(hours=6)  # one process may have that much more to prepare, or to publish, than the others


class Training:
    """A run of one recipe: its accelerator, its weights and its folder."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.config = recipe, recipe.config
        self.config.check()
        self.folder = RunFolder(Path(self.config.output_dir), recipe.result)
        self.among_runs = torch.distributed.is_initialized()  # the processes have more to do together than this run
        self.accelerator = make_accelerator(self.config)
        self.main = self.accelerator.is_main_process
        keep_freed_memory()
        world = self.accelerator.num_processes
        self.batch_size = self.config.train_batch_size * self.config.gradient_accumulation_steps * world
        self.window = Window(self.accelerator.device)
        _warn_if_world_is_small(world)

    def train(self) -> Path:
        """Train to the last step and publish; returns the result's folder.

        Raises UserError for what a person can mend, and SystemExit(130) or (143) on SIGINT or SIGTERM, after saving.
        """
        with user_errors_for_disk(self.folder.path), StopRequest() as self.stop:
            self._open()
            self._build()
            for note in self.recipe.notes:
                self._say(f"note: {note}")
            self._run(self._resume())
            self._publish()
        return self.folder.result

    def describe(self) -> str:
        """The resolved settings and the size of the work, as YAML, for `--dry-run`."""
        parameters = sum(p.numel() for p in self.recipe.model.parameters())
        size = {
            "parameters": parameters,
            "megabytes_of_weights_gradients_optimizer_average": round(parameters * 4 * 5 / 1e6, 1),
            "examples": self.recipe.num_examples,
            "steps_per_epoch": round(self.recipe.num_examples / self.batch_size, 2),
            "epochs": round(self.config.max_train_steps * self.batch_size / self.recipe.num_examples, 2),
        }
        return yaml.safe_dump({**self._settings(), **size}, sort_keys=False)

    # ---- start -------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        settings, overwrite = self._settings(), self.config.overwrite
        self.folder.check(settings, overwrite)
        self.accelerator.wait_for_everyone()
        if self.main:
            self.folder.open(settings, overwrite)
        self.accelerator.wait_for_everyone()

    def _settings(self) -> dict[str, Any]:
        return {"recipe": self.recipe.name, **to_mapping(self.config), "global_batch_size": self.batch_size}

    def _build(self) -> None:
        """Put the model on its device; build the weight average, the optimizer and the schedule."""
        config = self.config
        model = self.recipe.model.to(self.accelerator.device)
        self.recipe.to(self.accelerator.device)
        self.ema = AveragedModel(model, multi_avg_fn=ema_update(config.ema_decay))
        optimizers = make_optimizers(config, model, self.recipe.hidden_matrices())
        self.schedule = Schedule(config, optimizers[0])
        self.template = copy.deepcopy(self.ema).cpu() if self.accelerator.is_fsdp2 else self.ema
        self.model, *self.optimizers = self.accelerator.prepare(model, *optimizers)
        if self.accelerator.is_fsdp2:
            spread_average(self.accelerator, self.model, self.ema, self.optimizers[0])
        # accelerate would save the model as one of several processes wraps it; `_save` keeps the bare one
        self.accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
        self.accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())
        self.accelerator.init_trackers("workbench", config={k: str(v) for k, v in self._settings().items()})

    def _resume(self) -> int:
        """Load the chosen checkpoint; returns the number of steps already done."""
        chosen = checkpoints.choose(self.folder.checkpoints, self.config.resume_from_checkpoint)
        step = checkpoints.step_of(chosen) if chosen else 0
        if step > self.config.max_train_steps:
            raise UserError(f"{chosen} is past --max-train-steps {self.config.max_train_steps}; give at least {step}")
        if chosen:
            self._load(chosen)
            self._say(f"Resuming from {chosen}")
        self.metrics = MetricsLog(self.folder.metrics, keep_up_to=step, active=self.main)
        return step

    def _load(self, folder: Path) -> None:
        try:
            for name, (network, template) in self._networks().items():
                complete = whole(network, template)
                load_model(complete, folder / f"{name}.safetensors")
                spread(complete, network)
            self.accelerator.load_state(str(folder))
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{folder} is a checkpoint of another model; give the settings that it was made with, or another one"
            ) from error
        self.window.load_state(json.loads((folder / "window.json").read_text()))

    def _networks(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        """What a checkpoint holds beside accelerate's state; each with its template for `whole`."""
        model = self.accelerator.unwrap_model(self.model)
        return {"model": (model, self.template.module), "ema": (self.ema, self.template)}

    # ---- the loop ----------------------------------------------------------------------------------------------------

    def _run(self, start: int) -> None:
        config, last, bad = self.config, self.config.max_train_steps, 0
        self.model.train()
        with progress(last, self.folder.path.name, initial=start, unit="step", disable=not self.main) as bar:
            for step in range(start + 1, last + 1):
                figures, finite, signum = self._step(step)
                self.window.add(figures, finite)
                bad = 0 if finite else bad + 1
                bar.update()
                if step % config.logging_steps == 0 or step == last or bad:
                    bar.set_postfix(self._log(step), refresh=False)
                if bad >= config.max_nonfinite_steps:
                    self._give_up(step, bad)
                if not bad and (signum or step % config.checkpointing_steps == 0 or step == last):
                    self._save(step)  # after a bad step the weights may be broken: keep the checkpoint before it
                if signum:
                    bar.close()
                    self._leave(step, signum)
                if config.validation_steps and (step % config.validation_steps == 0 or step == last):
                    with self.window.paused():
                        self._validate(step)

    def _step(self, step: int) -> tuple[dict[str, Tensor], bool, int]:
        """One update; returns its figures on this process, whether it was finite, and a signal to stop or 0."""
        indices = global_batch(self.recipe.num_examples, self.batch_size, self.config.seed, step)
        draws = self.recipe.draw(
            self.batch_size, seeds.generator(self.config.seed, STEP, step, device=self.accelerator.device), step
        )
        self.schedule.set(self._groups(), step - 1)
        with self.window.computing():
            figures = self._forward_backward(indices, draws)
        figures["grad_norm"] = self._clip()
        finite, signum = self._agree(figures["grad_norm"].isfinite() & figures["loss"].isfinite())
        if finite or self.accelerator.scaler is not None:  # fp16's loss scaler has to see the overflow
            for optimizer in self.optimizers:
                optimizer.step()
        if finite:
            self.recipe.after_step(step)
            self.ema.update_parameters(self.accelerator.unwrap_model(self.model))
        else:
            self._restore_buffers()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return figures, finite, signum

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def _forward_backward(self, indices: Int64[Tensor, " g"], draws: dict[str, Tensor]) -> dict[str, Tensor]:
        """Accumulate the gradient of this process's share of the global batch; returns the mean figures."""
        parts = self._parts()
        totals: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                losses = self.recipe.loss(self.model, indices[part], {k: v[part] for k, v in draws.items()})
                self.accelerator.backward(losses["loss"] / len(parts))
            for key, value in losses.items():
                totals[key] = totals.get(key, torch.zeros_like(value)) + value.detach() / len(parts)
        return totals

    def _parts(self) -> list[slice]:
        """This process's share of the global batch: one slice for each forward pass."""
        size, world = self.config.train_batch_size, self.accelerator.num_processes
        starts = range(self.accelerator.process_index * size, self.batch_size, world * size)
        return [slice(start, start + size) for start in starts]

    def _clip(self) -> Tensor:
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        return join(torch.as_tensor(norm, device=self.accelerator.device))

    @torch.no_grad()
    def _restore_buffers(self) -> None:
        """Undo what a bad forward pass did to running statistics: the average holds those of the last good step."""
        buffers = self.accelerator.unwrap_model(self.model).buffers()
        for buffer, kept in zip(buffers, self.ema.module.buffers(), strict=True):
            buffer.copy_(kept)

    def _agree(self, finite: Tensor) -> tuple[bool, int]:
        """All processes skip, and stop, together. The one synchronisation with the device in a step."""
        signum = self.stop.signum or 0
        if self.accelerator.num_processes == 1:
            return bool(finite), signum
        flags = torch.stack([finite.float(), torch.tensor(-float(signum), device=finite.device)])
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MIN)
        return bool(flags[0]), int(-flags[1])

    # ---- what is written ---------------------------------------------------------------------------------------------

    def _log(self, step: int) -> dict[str, str]:
        window = self.window
        means = self.accelerator.reduce(window.means(), reduction="mean")
        figures = {key: value.item() for key, value in means.items()}
        figures |= {"lr": self._groups()[0]["lr"], **window.speed(self.batch_size)}
        if window.skipped:
            figures["skipped_steps"] = window.skipped
        window.restart()
        self._record_figures(step, figures)
        return {k: f"{figures[k]:.3g}" for k in ("loss", "lr", "images_per_second") if k in figures}

    def _record_figures(self, step: int, figures: dict[str, float]) -> None:
        self.metrics.write(step, figures)
        self.accelerator.log(figures, step=step)

    def _save(self, step: int) -> None:
        final = checkpoints.folder_of(self.folder.checkpoints, step)
        partial = final.with_suffix(".tmp")
        try:
            self._write(partial)
            if self.main:
                checkpoints.seal(partial, final, step)
                checkpoints.prune(final, self.config.checkpoints_total_limit)
        except BaseException:  # a full disk, say: leave it no fuller
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def _write(self, partial: Path) -> None:
        self.window.sums = self.accelerator.reduce(self.window.sums, reduction="mean")
        if self.main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        for name, (network, template) in self._networks().items():
            complete = whole(network, template)
            if self.main:
                save_model(complete, str(partial / f"{name}.safetensors"))
        if self.main:
            (partial / "window.json").write_text(json.dumps(self.window.state()))
        self.accelerator.wait_for_everyone()

    def _validate(self, step: int) -> None:
        model = self._averaged()
        if self.main:
            figures = dict(self.recipe.validate(model, self.folder.samples, step))
            if figures:
                self._record_figures(step, figures)
        self.model.train()
        self.accelerator.wait_for_everyone()

    def _publish(self) -> None:
        model = self._averaged()
        if self.main:
            record = {
                "command": command_line(), "versions": versions(), "settings": self._settings(),
                "figures": self.metrics.last,
            }  # fmt: skip
            self.folder.publish(
                self.config.max_train_steps,
                lambda folder: self.recipe.publish(model, folder, record),
            )
        self.accelerator.wait_for_everyone()
        self._end()

    def _averaged(self) -> nn.Module:
        model = self.ema.module if self.config.ema_decay else self.accelerator.unwrap_model(self.model)
        return whole(model, self.template.module)

    # ---- ends --------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        for tracker in self.accelerator.trackers:
            tracker.finish()
        if not self.among_runs:
            self.accelerator.state.destroy_process_group()

    def _leave(self, step: int, signum: int) -> None:
        self._say(f"\nStopped after step {step}; the run is saved. Go on with:\n  {resume_command()}")
        self._end()
        raise SystemExit(128 + signum)

    def _give_up(self, step: int, bad: int) -> None:
        kept = checkpoints.latest(self.folder.checkpoints)
        raise UserError(
            f"the loss or its gradient was not finite {bad} steps in a row, up to step {step}; the last good "
            f"checkpoint is {kept or 'none yet'}; try a lower --learning-rate, or --mixed-precision no"
        )

    def _say(self, text: str) -> None:
        if self.main:
            print(text, file=sys.stderr)


def ema_update(decay: float) -> Callable[[Any, Any, Any], None]:
    """The update of `AveragedModel`: its decay rises as (1 + k) / (10 + k) after k updates, up to `decay`."""

    @torch.no_grad()
    def update(averaged: Any, current: Any, count: Any) -> None:
        k = int(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + k) / (10 + k)))

    return update


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """accelerate's engine for this run's device, precision and tracker. Raises UserError when one is not there."""
    device = choose_device(config.device)
    tracker = None if config.report_to == "none" else config.report_to
    if tracker and find_spec(tracker) is None:
        raise UserError(f"--report-to {tracker} needs a package that is not installed; run: pip install {tracker}")
    precision = resolve_precision(config.mixed_precision, device)
    if precision == "fp16" and config.optimizer == "muon":
        raise UserError("--optimizer muon does not work with --mixed-precision fp16; give bf16, no or auto")
    if precision == "fp16" and device.type == "cpu":
        raise UserError("--mixed-precision fp16 does not work on a CPU; give bf16, no or auto")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run of this program may have differed
    accelerator = Accelerator(
        mixed_precision=precision, cpu=device.type == "cpu", log_with=tracker, project_dir=str(config.output_dir),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )  # fmt: skip
    check_sharding(accelerator, config)
    return accelerator


def _warn_if_world_is_small(world: int) -> None:
    asked = processes_asked()
    if asked and asked > world:
        warnings.warn(
            f"{asked} processes were asked for but {world} started; on a CPU start them with "
            f"torchrun --standalone --nproc_per_node {asked} instead of accelerate launch",
            RuntimeWarning, stacklevel=3,
        )  # fmt: skip
