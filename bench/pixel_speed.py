"""Speed of the pixel recipes' training steps and of one-step sampling, against plain ways to do the same, in one run.

    python bench/pixel_speed.py --output docs/results/pixel_speed.md
    python bench/pixel_speed.py --preset B --resolution 64 --channels 3 --batch-size 256 --output speed.md

A training step is forward, backward, AdamW and, in stage 1, the slow copy, from images that are already scaled. The
plain way is that of the released code: a network call for each noisy batch, all tokens of an encoder of which the class
token is wanted, graphs built and thrown away where no gradient is wanted, a copy of the weights as the consistency
target, averages weight by weight, and `nn.Linear`; in fp32, and in the precision that ours takes here. Weights and
losses are the same. Sampling: the consistency model's one evaluation, the 18 of a diffusion model by Euler's method,
and diffusers' consistency pipeline with its UNet of about as many weights. All arms take turns, so that a busy machine
slows them alike; reported are medians over turns.
"""

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as our commands do, for all sides
import torch
import torch.nn.functional as F
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel
from measured import table, write_result
from torch import Tensor, nn

from gen.layers import TokenLinear
from gen.pixel.consistency import pair_loss
from gen.pixel.contrast import nce
from gen.pixel.encoder import EPGEncoderModel
from gen.pixel.noise import NoiseRange, consistency, denoise
from gen.pixel.pipeline import EPGPipeline, make_scheduler
from gen.pixel.presets import PIXEL_PRESETS
from gen.pixel.representation import RepresentationLearner, represent
from gen.pixel.scheduler import KarrasX0HeunScheduler
from gen.pixel.transformer import EPGTransformer2DModel
from workbench.allocator import keep_freed_memory
from workbench.devices import autocast

Step = Callable[[], object]
NOISE = NoiseRange(sigma_max=20.0)
MANY = 18
PLAIN = {"plain, fp32": "no", "plain": "auto"}  # as --mixed-precision
STAGES = ("pre-training", "diffusion", "consistency, with a guide")


def main() -> None:
    """Measure and print; write the table where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PIXEL_PRESETS, default="tiny")
    parser.add_argument("--resolution", type=int, default=28)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--patch-size", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--steps", type=int, default=2, help="steps in a turn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", help="markdown file for the table")
    options = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    seconds = take_turns({**training_steps(options), **sampling_steps(options)}, options)
    write_result("Speed of the pixel recipes", __doc__ or "", result(options, seconds), options.output)


def take_turns(steps: dict[tuple[str, str], Step], options: argparse.Namespace) -> dict[tuple[str, str], list[float]]:
    """Seconds of each arm's turns."""
    seconds: dict[tuple[str, str], list[float]] = {arm: [] for arm in steps}
    for turn in range(options.turns + 1):
        for arm, step in steps.items():
            began = time.perf_counter()
            for _ in range(options.steps):
                step()
            if options.device == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first one warms up
                seconds[arm].append(time.perf_counter() - began)
    return seconds


def result(options: argparse.Namespace, seconds: dict[tuple[str, str], list[float]]) -> str:
    """A table for training and one for sampling."""
    images = options.batch_size * options.steps
    training = []
    for stage in STAGES:
        mine = seconds[stage, "ours"]
        row = [stage, f"{images / statistics.median(mine):,.0f}"]
        for precision in PLAIN:
            theirs = seconds[stage, precision]
            ratio = statistics.median(b / a for a, b in zip(mine, theirs, strict=True))
            row += [f"{images / statistics.median(theirs):,.0f}", f"{ratio:.2f}"]
        training.append(row)
    sampling = []
    base = seconds["sampling", "one step"]
    for (kind, arm), values in seconds.items():
        if kind == "sampling":
            ratio = statistics.median(b / a for a, b in zip(base, values, strict=True))
            sampling.append([arm, f"{images / statistics.median(values):,.0f}", f"{ratio:.2f}"])
    about = (
        f"Preset {options.preset}, {options.resolution} px, {options.channels} channels, patches of "
        f"{options.patch_size}, batch {options.batch_size}, {options.device}, {torch.get_num_threads()} threads, "
        f"{options.turns} turns of {options.steps} steps."
    )
    return "\n\n".join([
        about,
        "## Training\n\n" + table(
            ["stage", "images/s", "plain, fp32", "times as fast", "plain, same precision", "times as fast"], training
        ),
        "## Sampling\n\n" + table(["sampler", "images/s", "time, one step = 1"], sampling),
    ])  # fmt: skip


# ---- training --------------------------------------------------------------------------------------------------------


def training_steps(options: argparse.Namespace) -> dict[tuple[str, str], Step]:
    """A step of each stage, ours and the plain one."""
    encoder, generator = build(EPGEncoderModel, options), build(EPGTransformer2DModel, options)
    one_step = build(EPGTransformer2DModel, options, prediction_type="consistency")
    kinds: dict[str, tuple[Any, Callable[..., Any], Callable[..., Any]]] = {
        STAGES[0]: (encoder, Pretraining, PlainPretraining),
        STAGES[1]: (generator, Diffusion, Diffusion),
        STAGES[2]: (one_step, Consistency, PlainConsistency),
    }
    steps: dict[tuple[str, str], Step] = {}
    for stage, (model, ours, plain) in kinds.items():
        steps[stage, "ours"] = ours(copy.deepcopy(model), options)
        for name, precision in PLAIN.items():
            steps[stage, name] = plain(plainly(model), options, precision)
    return steps


def build(kind: Any, options: argparse.Namespace, **settings: Any) -> Any:
    """A network of the preset."""
    shape = PIXEL_PRESETS[options.preset]._asdict()
    other = "decoder_" if kind is EPGEncoderModel else "projector_"
    shape = {name: value for name, value in shape.items() if not name.startswith(other)}
    return kind(
        options.resolution, options.channels, options.patch_size, **shape, sigma_max=NOISE.sigma_max, **settings
    ).to(options.device)


def plainly(model: nn.Module) -> nn.Module:
    """A copy with torch's own linear layers."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, TokenLinear):
            module.__class__ = nn.Linear
    return model


class TrainingStep:
    """One step on images that are there; a subclass says the loss."""

    fused = True

    def __init__(self, model: nn.Module, options: argparse.Namespace, precision: str = "auto") -> None:
        self.model, self.device, self.precision = model.train(), torch.device(options.device), precision
        shape = (options.batch_size, options.channels, options.resolution, options.resolution)
        self.images, self.noise, *self.views = (0.5 * torch.randn(4, *shape, device=self.device)).unbind()
        self.noise = 2 * self.noise
        self.sigma = torch.rand(options.batch_size, device=self.device) + 0.5
        self.optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=self.fused)

    def loss(self) -> Tensor:
        """What is minimised."""
        raise NotImplementedError

    def __call__(self) -> None:
        with autocast(self.precision, self.device):
            loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def noisy(self, sigma: Tensor) -> Tensor:
        """The images at a level each."""
        return self.images + sigma[:, None, None, None] * self.noise


class Pretraining(TrainingStep):
    """Ours: three passes."""

    def __init__(self, model: EPGEncoderModel, options: argparse.Namespace) -> None:
        super().__init__(RepresentationLearner(model, NOISE), options)
        self.pair = torch.tensor([1.2, 1.0], device=self.device)

    def loss(self) -> Tensor:
        parts = self.model(self.images, tuple(self.views), self.noise, self.pair, torch.tensor(0.1))
        return torch.stack(list(parts.values())).sum()

    def __call__(self) -> None:
        super().__call__()
        self.model.move_target()


class PlainPretraining(TrainingStep):
    """A call for each noisy batch; that of the keys builds its graph for nothing."""

    fused = False

    def __init__(self, model: EPGEncoderModel, options: argparse.Namespace, precision: str) -> None:
        super().__init__(model, options, precision)
        self.target = copy.deepcopy(model).requires_grad_(False)

    def see(self, encoder: EPGEncoderModel, images: Tensor, sigma: float) -> Tensor:
        """Representations at one level."""
        level = torch.tensor([sigma], device=self.device)
        scaled = (images + sigma * self.noise) * NOISE.c_in(level)
        *_, tokens = encoder.encoder.states(encoder.encoder.embed(scaled, NOISE.c_noise(level), None)[0])
        return encoder.encoder.norm(tokens)[:, 0]

    def loss(self) -> Tensor:
        q_a, q_b = (self.model.project(self.see(self.model, view, 0.002)) for view in self.views)
        k_a, k_b = (self.target.project(self.see(self.target, view, 0.002)) for view in self.views)
        near, far = (self.see(self.model, self.images, sigma) for sigma in (1.2, 1.0))
        return nce(q_a, k_b, 0.2) + nce(q_b, k_a, 0.2) + nce(near, far.detach(), 0.1)

    @torch.no_grad()
    def __call__(self) -> None:
        with torch.enable_grad():
            super().__call__()
        for slow, fast in zip(self.target.parameters(), self.model.parameters(), strict=True):
            slow.mul_(0.99).add_(fast, alpha=0.01)


class Diffusion(TrainingStep):
    """The same for both: they differ by their layers."""

    def loss(self) -> Tensor:
        return F.mse_loss(denoise(self.model, self.noisy(self.sigma), self.sigma, None, NOISE), self.images)


class Consistency(TrainingStep):
    """Ours: the target is a pass without gradient of the same weights."""

    def __init__(self, model: EPGTransformer2DModel, options: argparse.Namespace, precision: str = "auto") -> None:
        super().__init__(model, options, precision)
        guide = build(EPGEncoderModel, options).eval().requires_grad_(False)
        self.guide = guide if self.fused else plainly(guide)

    def estimate(self, network: nn.Module, sigma: Tensor) -> Tensor:
        """Clean images."""
        return consistency(network, self.noisy(sigma), sigma, None, NOISE)

    def see(self, images: Tensor) -> Tensor:
        """What the guide sees."""
        return represent(self.guide, images, self.sigma.new_full((len(images),), 0.002), NOISE)

    def loss(self) -> Tensor:
        with torch.no_grad():
            target, keys = self.estimate(self.model, 0.8 * self.sigma), self.see(self.images)
        estimate = self.estimate(self.model, self.sigma)
        return pair_loss(estimate, target, 0.2 * self.sigma, 0.06) + nce(self.see(estimate), keys, 0.1)


class PlainConsistency(Consistency):
    """A copy of all weights in each step is the target, and its graph is thrown away."""

    fused = False

    def __init__(self, model: EPGTransformer2DModel, options: argparse.Namespace, precision: str = "auto") -> None:
        super().__init__(model, options, precision)
        self.copy = copy.deepcopy(model)

    def loss(self) -> Tensor:
        self.copy.load_state_dict(self.model.state_dict())
        estimate = self.estimate(self.model, self.sigma)
        target = self.estimate(self.copy, 0.8 * self.sigma).detach()
        return pair_loss(estimate, target, 0.2 * self.sigma, 0.06) + nce(
            self.see(estimate), self.see(self.images).detach(), 0.1
        )


# ---- sampling --------------------------------------------------------------------------------------------------------


def sampling_steps(options: argparse.Namespace) -> dict[tuple[str, str], Step]:
    """A batch of images from each sampler."""
    count, device = options.batch_size, torch.device(options.device)
    one_step = build(EPGTransformer2DModel, options, prediction_type="consistency").eval()
    many = build(EPGTransformer2DModel, options).eval()
    euler = KarrasX0HeunScheduler(sigma_max=NOISE.sigma_max, solver_order=1, final_sigmas_type="zero")
    pipes = {
        "one step": (EPGPipeline(one_step, make_scheduler(one_step)), {"num_images": count}),
        f"{MANY} steps": (EPGPipeline(many, euler), {"num_images": count, "num_inference_steps": MANY}),
    }
    unet = similar_unet(sum(p.numel() for p in one_step.parameters()), options).to(device).eval()
    weights = sum(p.numel() for p in unet.parameters())
    named = f"diffusers' UNet, one step ({weights:,} weights)"
    pipes[named] = (
        ConsistencyModelPipeline(unet, CMStochasticIterativeScheduler()),
        {"batch_size": count, "num_inference_steps": 1},
    )
    return {("sampling", name): sampler(pipe, device, arguments) for name, (pipe, arguments) in pipes.items()}


def sampler(pipe: Any, device: torch.device, arguments: dict[str, Any]) -> Step:
    """A call of the pipeline, in the precision that training takes."""
    pipe.set_progress_bar_config(disable=True)

    def step() -> None:
        with autocast("auto", device), quietly():
            pipe(output_type="pt", **arguments)

    return step


@contextmanager
def quietly() -> Iterator[None]:
    """No gradients."""
    with torch.no_grad():
        yield


def similar_unet(weights: int, options: argparse.Namespace) -> UNet2DModel:
    """diffusers' UNet of three levels, attention on the two lower ones, whose number of weights is the nearest."""
    built = []
    for width in range(8, 513, 4):
        with torch.device("meta"):
            built.append((abs(sum(p.numel() for p in unet_of(width, options).parameters()) - weights), width))
        if len(built) > 1 and built[-1] > built[-2]:
            break
    return unet_of(min(built)[1], options)


def unet_of(width: int, options: argparse.Namespace) -> UNet2DModel:
    """Of this width."""
    return UNet2DModel(
        options.resolution, options.channels, options.channels, layers_per_block=1, norm_num_groups=4,
        block_out_channels=(width, 2 * width, 2 * width), attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
