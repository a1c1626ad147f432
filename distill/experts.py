"""Experts: networks trained on the real images, their weights kept after every epoch.

Plain SGD, because a student that takes plain steps on the distilled set has to follow them; or with steps that seek
flat places (FTD, arXiv 2211.11004), from where such a student strays less. Expert k depends on (seed, k) alone.
Processes share out the experts; a process trains several side by side, each on its own batches.
"""

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import yaml
from jaxtyping import Float, Int64
from torch import Tensor
from tqdm import tqdm

from distill import augment
from distill.buffer import finished_experts, network_spec, open_folder, read_sources, write_expert
from distill.config import ExpertsConfig
from distill.data import Sources, as_float
from distill.ensemble import gradients
from distill.evaluate import accuracy
from distill.flat import FlatNetwork
from distill.nets import build_network
from distill.preprocess import Transform
from distill.processes import start_processes
from distill.sharpness import PastLogits, flat_direction, sharpness, top_eigenvalue, trajectory_kl
from workbench import seeds
from workbench.config import to_mapping
from workbench.devices import autocast
from workbench.errors import UserError
from workbench.files import user_errors_for_disk
from workbench.launch import resume_command
from workbench.progress import progress
from workbench.signals import StopRequest

INITIAL, ORDER, AUGMENTATION, PROBE, DIRECTION = range(131, 136)  # streams of randomness
SIDE_BY_SIDE = 5  # experts, on a GPU
PROBE_IMAGES, PROBE_RADIUS = 500, 0.1  # sharpness: on so many training images, within this distance

Thetas = Float[Tensor, "k p"]
PerExpert = Float[Tensor, " k"]


def train_experts(config: ExpertsConfig) -> bool:
    """Train the experts that are missing; whether this process is the main one.

    Raises UserError for what a person can mend, and SystemExit(130) or (143) when stopped; finished experts are kept.
    """
    _check(config)
    state = start_processes(config.device)
    with user_errors_for_disk(config.output_dir), StopRequest() as stop:
        with state.main_process_first():
            folder = open_folder(config, overwrite=config.overwrite and state.is_main_process)
        groups = missing_groups(config, state.device)
        state.wait_for_everyone()  # all look before one writes
        groups = groups[state.process_index :: state.num_processes]
        training = ExpertTraining(config, folder.network, folder.sources, folder.transform, state.device)
        epochs = sum(map(len, groups)) * config.epochs
        with progress(epochs, config.output_dir.name, unit="epoch", disable=not state.is_main_process) as bar:
            for numbers in groups:
                trajectory, records = training.run(numbers, stop, bar)
                for number, theta, record in zip(numbers, trajectory, records, strict=True):
                    write_expert(config.output_dir, number, theta, record)
        state.wait_for_everyone()
    return state.is_main_process


def describe(config: ExpertsConfig) -> str:
    """The settings and what they cost, as YAML, for `--dry-run`."""
    _check(config)
    sources = read_sources(to_mapping(config))
    parameters = FlatNetwork(build_network(network_spec(config, sources))).size
    gradients_a_step = 2 if config.flatness in ("sam", "gsam") else 1
    steps = config.epochs * -(-len(sources.train) // config.train_batch_size)
    size = {
        "images": len(sources.train),
        "held_out": len(sources.validation),
        "parameters": parameters,
        "gradients_of_an_expert": steps * gradients_a_step,
        "megabytes_on_disk": round(4e-6 * parameters * (config.epochs_kept + 1) * config.num_experts, 1),
    }
    return yaml.safe_dump({"recipe": "experts", **to_mapping(config), **size}, sort_keys=False)


def missing_groups(config: ExpertsConfig, device: torch.device) -> list[list[int]]:
    """Numbers of the experts to train, those side by side together.

    An expert's group does not depend on the number of processes.
    """
    done = set(finished_experts(config.output_dir))
    size = config.experts_at_once or (1 if device.type == "cpu" else SIDE_BY_SIDE)
    groups = [range(k, min(k + size, config.num_experts)) for k in range(0, config.num_experts, size)]
    missing = [[k for k in group if k not in done] for group in groups]
    return [group for group in missing if group]


class Batch(NamedTuple):
    """One batch of each expert, and where its images are in the training set."""

    rows: Int64[Tensor, "k b"]
    images: Float[Tensor, "k b c h w"]
    labels: Int64[Tensor, "k b"]


class ExpertTraining:
    """The real images on a device, and how a group of experts is trained on them."""

    def __init__(
        self, config: ExpertsConfig, network: FlatNetwork, sources: Sources, transform: Transform, device: torch.device
    ) -> None:
        self.config, self.network, self.device = config, network, device
        self.num_classes = len(sources.train.label_names)
        self.images = transform.apply(as_float(sources.train)).to(device)
        self.labels = sources.train.labels.to(device)
        self.held_images = transform.apply(as_float(sources.validation)).to(device)
        self.held_labels = sources.validation.labels.to(device)
        order = torch.randperm(len(self.labels), generator=seeds.generator(config.split_seed, PROBE))
        self.probe = order[:PROBE_IMAGES].to(device)

    def run(
        self, numbers: list[int], stop: StopRequest, bar: "tqdm[Any]"
    ) -> tuple[Float[Tensor, "k epochs p"], list[dict[str, Any]]]:
        """Trajectories of these experts, the initial weights first, and what was measured after each epoch."""
        thetas = torch.stack([self.network.initial(seeds.generator(self.config.seed, INITIAL, k)) for k in numbers])
        thetas = thetas.to(self.device)
        trajectory = [thetas.cpu()]
        figures: list[list[dict[str, float]]] = [[] for _ in numbers]
        past = self._past_logits(len(numbers))
        for epoch in range(1, self.config.epochs + 1):
            losses = []
            for batch in self._batches(numbers, epoch):
                thetas, loss = self._step(thetas, batch, epoch, past)
                losses.append(loss)
                _leave_if_asked(stop)
            _check_finite(thetas, numbers, epoch)
            for row, theta, loss in zip(figures, thetas, torch.stack(losses).mean(0).tolist(), strict=True):
                row.append({"train_loss": loss, **self._measure(theta)})
            if epoch <= self.config.epochs_kept:
                trajectory.append(thetas.cpu())
            bar.update(len(numbers))
        records = [self._record(*one) for one in zip(numbers, thetas, figures, strict=True)]
        return torch.stack(trajectory, 1), records

    # ---- a step ------------------------------------------------------------------------------------------------------

    def _batches(self, numbers: list[int], epoch: int) -> Iterator[Batch]:
        """A pass over the real images, each expert's in its own order and with its own augmentation."""
        config, size = self.config, (self.images.shape[2], self.images.shape[3])
        drawing = [seeds.generator(config.seed, AUGMENTATION, epoch, number) for number in numbers]
        ordering = [seeds.generator(config.seed, ORDER, epoch, number) for number in numbers]
        orders = [torch.randperm(len(self.labels), generator=generator) for generator in ordering]
        for rows in torch.stack(orders).to(self.device).split(config.train_batch_size, 1):
            draws = [augment.draw(config.augmentation, rows.shape[1], size, generator) for generator in drawing]
            images = [augment.apply(self.images[own], drawn) for own, drawn in zip(rows, draws, strict=True)]
            yield Batch(rows, torch.stack(images), self.labels[rows])

    def _step(self, thetas: Thetas, batch: Batch, epoch: int, past: PastLogits | None) -> tuple[Thetas, PerExpert]:
        """One step of each expert, and its cross-entropy before."""
        config = self.config
        before = [past.read(epoch, batch.rows)] if past and epoch > config.saf_start else []
        seen: list[tuple[Tensor, ...]] = []

        def gradient(thetas: Thetas) -> Thetas:
            found, outputs = gradients(self._loss, thetas, batch.images, batch.labels, *before)
            seen.append(outputs)
            return found

        direction = flat_direction(gradient, thetas, config.flatness, config.rho, config.alpha, config.adaptive)
        cross_entropy, logits = seen[0]
        if past:
            past.write(epoch, batch.rows, logits)
        return thetas - config.learning_rate * direction, cross_entropy

    def _loss(
        self, theta: Tensor, images: Tensor, labels: Tensor, past: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Of one expert, with saf's share where past logits are given; beside it the cross-entropy and the logits."""
        with autocast(self.config.mixed_precision, self.device):
            logits = self.network(theta, images)
        logits = logits.to(theta.dtype)
        cross_entropy = F.cross_entropy(logits, labels)
        if past is None:
            return cross_entropy, (cross_entropy, logits)
        distance = trajectory_kl(logits, past, self.config.saf_temperature)
        return cross_entropy + self.config.saf_weight * distance, (cross_entropy, logits)

    def _past_logits(self, networks: int) -> PastLogits | None:
        if self.config.flatness != "saf":
            return None
        return PastLogits(networks, len(self.labels), self.num_classes, self.config.saf_lag, self.device)

    # ---- measures ----------------------------------------------------------------------------------------------------

    def _probe_loss(self, theta: Float[Tensor, " p"]) -> Float[Tensor, ""]:
        """Cross-entropy on the same training images every time, without augmentation."""
        return F.cross_entropy(self.network(theta, self.images[self.probe]), self.labels[self.probe])

    def _measure(self, theta: Float[Tensor, " p"]) -> dict[str, float]:
        """Sharpness, and accuracy on held-out images where there are any."""
        figures = {"sharpness": sharpness(self._probe_loss, theta, PROBE_RADIUS)}
        if len(self.held_labels):
            figures["validation_accuracy"] = accuracy(self.network, theta, self.held_images, self.held_labels)
        return figures

    def _record(self, number: int, theta: Float[Tensor, " p"], figures: list[dict[str, float]]) -> dict[str, Any]:
        """An expert's figures as JSON values: a list over the epochs of each, and the final Hessian's eigenvalue."""
        generator = seeds.generator(self.config.seed, DIRECTION, number)
        start = torch.randn(self.network.size, generator=generator).to(self.device)
        by_epoch = {name: [row[name] for row in figures] for name in figures[0]}
        eigenvalue = top_eigenvalue(self._probe_loss, theta, start)
        return {"number": number, "seed": self.config.seed, "top_eigenvalue": eigenvalue, **by_epoch}


def _check(config: ExpertsConfig) -> None:
    config.check()
    augment.families(config.augmentation)


def _check_finite(thetas: Thetas, numbers: list[int], epoch: int) -> None:
    finite = thetas.isfinite().all(1).tolist()
    lost = [str(number) for number, good in zip(numbers, finite, strict=True) if not good]
    if lost:
        raise UserError(
            f"the weights of expert {', '.join(lost)} were no longer finite after epoch {epoch}; "
            "give a lower --learning-rate, or a lower --rho"
        )


def _leave_if_asked(stop: StopRequest) -> None:
    if stop.signum:
        print(f"\nStopped; finished experts are kept. Go on with:\n  {resume_command()}", file=sys.stderr)
        raise SystemExit(128 + stop.signum)
