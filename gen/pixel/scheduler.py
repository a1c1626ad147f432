"""From noise to images over Karras' noise levels, by a network's estimates of the clean image (x_0).

Two ways: along the probability-flow ODE by Heun's method, and by a consistency model's jumps. Both count levels in
shifted units, and both are told x_0, whichever way it was read out of the network (`noise.py`).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from gen.pipelines import Generators
from gen.pixel.noise import C_NOISE, NoiseRange
from workbench.errors import UserError


@dataclass
class KarrasX0SchedulerOutput(BaseOutput):
    """`prev_sample`: the images at the next, lower noise level."""

    prev_sample: Tensor


class KarrasX0Scheduler(SchedulerMixin, ConfigMixin):
    """What both ways share: the levels at which the network is asked, one after the other.

    Args:
        sigma_min, sigma_max, rho, sigma_data, sigma_shift: the noise levels, see `noise.py`.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        sigma_data: float = 0.5,
        sigma_shift: float = 1.0,
    ) -> None:
        self.noise_range = NoiseRange(sigma_min, sigma_max, rho, sigma_data, sigma_shift)
        self.init_noise_sigma = sigma_max * sigma_shift
        self.num_inference_steps: int | None = None

    def _ask_at(self, sigmas: Float[Tensor, " k"], device: torch.device | str | None) -> None:
        """Plan the network's evaluations: one at each of these shifted levels."""
        self.evaluation_sigmas: list[float] = sigmas.tolist()  # on the host: no step waits for the device
        self.timesteps = self.noise_range.c_noise(sigmas).to(device)
        self._evaluation = 0

    def _levels(self, n: int) -> Float[Tensor, " n"]:
        return self.noise_range.shifted(self.noise_range.karras(n))

    def scale_model_input(self, sample: Float[Tensor, "b c h w"], timestep: object = None) -> Float[Tensor, "b c h w"]:
        """Noisy images as the network takes them at the current evaluation."""
        return sample * self.noise_range.c_in(torch.tensor(self.evaluation_sigmas[self._evaluation])).item()

    def add_noise(
        self,
        original_samples: Float[Tensor, "b c h w"],
        noise: Float[Tensor, "b c h w"],
        timesteps: Float[Tensor, "#b"],
    ) -> Float[Tensor, "b c h w"]:
        """Images at the noise level of a timestep."""
        return original_samples + (timesteps / C_NOISE).exp().to(noise)[:, None, None, None] * noise


class KarrasX0HeunScheduler(KarrasX0Scheduler):
    """Heun's method (arXiv 2206.00364, algorithm 1 without churn) for networks that estimate the clean image.

    `num_inference_steps` counts noise levels, as the authors of EPG do: n of them are 2 (n - 1) evaluations, and the
    images are those at sigma_min.

    Args:
        sigma_min, sigma_max, rho, sigma_data, sigma_shift: the noise levels, see `noise.py`.
        final_sigmas_type: end at "sigma_min", or go on to "zero" by one more evaluation.
        solver_order: 2 for Heun, 1 for Euler's method at one evaluation a step.
    """

    order = 2

    @register_to_config
    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        sigma_data: float = 0.5,
        sigma_shift: float = 1.0,
        final_sigmas_type: Literal["sigma_min", "zero"] = "sigma_min",
        solver_order: Literal[1, 2] = 2,
    ) -> None:
        super().__init__(sigma_min, sigma_max, rho, sigma_data, sigma_shift)

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Plan a trajectory over so many noise levels. Raises UserError when they make no step."""
        to_zero = self.config.final_sigmas_type == "zero"
        if num_inference_steps < 2 - to_zero:
            raise UserError(f"num_inference_steps is {num_inference_steps}; give {2 - to_zero} or more noise levels")
        levels = self._levels(num_inference_steps)
        first = torch.arange(num_inference_steps - 1)  # of each interval whose two ends are noisy
        if self.config.solver_order == 2:
            first = torch.stack([first, first + 1], dim=1).flatten()
        asked = levels[first]
        self.sigmas = levels.tolist()
        if to_zero:
            asked, self.sigmas = torch.cat([asked, levels[-1:]]), [*self.sigmas, 0.0]
        self.num_inference_steps = num_inference_steps
        self._interval = 0
        self._predictor: tuple[Tensor, Tensor] | None = None
        self._ask_at(asked, device)

    def step(
        self,
        model_output: Float[Tensor, "b c h w"],
        timestep: object,
        sample: Float[Tensor, "b c h w"],
        generator: Generators = None,
        return_dict: bool = True,
    ) -> KarrasX0SchedulerOutput | tuple[Tensor]:
        """One evaluation further; `model_output` is x_0 at the noise level that was planned next."""
        sigma, following = self.sigmas[self._interval : self._interval + 2]
        if self._predictor is None:  # Euler's step to the next level
            slope = (sample - model_output) / sigma
            result = sample + (following - sigma) * slope
            self._predictor = (sample, slope) if self.config.solver_order == 2 and following else None
        else:  # the same step along the mean of the slopes at both ends
            start, slope = self._predictor
            result = start + (following - sigma) * (slope + (sample - model_output) / following) / 2
            self._predictor = None
        self._interval += self._predictor is None
        self._evaluation += 1
        return KarrasX0SchedulerOutput(prev_sample=result) if return_dict else (result,)


class KarrasX0ConsistencyScheduler(KarrasX0Scheduler):
    """Multistep consistency sampling (arXiv 2303.01469, algorithm 1): jump to x_0, add noise again, at falling levels.

    n steps are n evaluations; the levels are Karras' n + 1 without the last.
    """

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Plan so many jumps. Raises UserError for less than one."""
        if num_inference_steps < 1:
            raise UserError(f"num_inference_steps is {num_inference_steps}; give 1 or more")
        self.num_inference_steps = num_inference_steps
        self._ask_at(self._levels(num_inference_steps + 1)[:-1], device)

    def step(
        self,
        model_output: Float[Tensor, "b c h w"],
        timestep: object,
        sample: Float[Tensor, "b c h w"],
        generator: Generators = None,
        return_dict: bool = True,
    ) -> KarrasX0SchedulerOutput | tuple[Tensor]:
        """x_0 itself after the last jump, else x_0 with the next level's noise."""
        self._evaluation += 1
        result = model_output
        if self._evaluation < len(self.evaluation_sigmas):
            least = self.config.sigma_min * self.config.sigma_shift
            noise = randn_tensor(result.shape, generator=generator, device=result.device, dtype=result.dtype)
            result = result + (self.evaluation_sigmas[self._evaluation] ** 2 - least**2) ** 0.5 * noise
        return KarrasX0SchedulerOutput(prev_sample=result) if return_dict else (result,)
