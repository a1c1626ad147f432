"""Noise levels, and the two ways to read a clean image out of a network: as a diffusion and as a consistency model.

x_sigma = x_0 + sigma eps. Levels, their random draws and the diffusion weights are in unshifted units; what meets an
image or a network is shifted, sigma' = shift sigma, because a larger picture needs more noise to lose the same detail
(Hoogeboom et al. 2023, arXiv 2301.11093). Functions here say which of the two they take.

Preconditioning: Karras et al. 2022 (arXiv 2206.00364), Song et al. 2023 (arXiv 2303.01469, appendix C).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

Images = Float[Tensor, "b c h w"]
Sigmas = Float[Tensor, " b"]
Network = Callable[..., tuple[Tensor, ...]]

C_NOISE = 250.0  # the network's timestep is 250 ln(sigma), as in the consistency models' code


@dataclass(frozen=True)
class NoiseRange:
    """From the least to the most noise, and how finely each part is walked.

    Args:
        sigma_min, sigma_max: unshifted standard deviations of the noise.
        rho: 7 puts most steps at low noise; 1 spaces them evenly.
        sigma_data: standard deviation of the images.
        shift: factor on every level that meets an image or a network.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    sigma_data: float = 0.5
    shift: float = 1.0

    def karras(self, n: int) -> Float64[Tensor, " n"]:
        """n unshifted levels from sigma_max down, and to sigma_min where n > 1 (arXiv 2206.00364, equation 5)."""
        return self._levels(torch.linspace(0, 1, n, dtype=torch.float64))

    def _levels(self, ramp: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return ((1 - ramp) * high + ramp * low) ** self.rho

    def shifted(self, sigma: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """What the images and the network see of an unshifted level."""
        return sigma * self.shift

    def c_in(self, sigma: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Factor that brings a noisy image to unit variance; of a shifted level."""
        return (sigma.float().square() + self.sigma_data**2).rsqrt()

    def c_noise(self, sigma: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """The network's timestep of a shifted level; negative below 1."""
        return C_NOISE * sigma.float().log()

    def c_skip(self, sigma: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Share of the noisy image in a consistency model's answer: 1 at the (shifted) least noise."""
        return self.sigma_data**2 / (self._above_least(sigma).square() + self.sigma_data**2)

    def c_out(self, sigma: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Share of the network in a consistency model's answer: 0 at the (shifted) least noise."""
        return self._above_least(sigma) * self.sigma_data * self.c_in(sigma)

    def _above_least(self, sigma: Tensor) -> Tensor:
        return sigma.float() - self.shift * self.sigma_min

    def diffusion_weight(self, index: Int64[Tensor, " b"], n: int) -> Sigmas:
        """1 / (sigma_j - sigma_j+1) of the j-th of n unshifted levels; the last has the weight of its neighbour."""
        index = index.clamp(max=n - 2)
        return (self._levels(index / (n - 1)) - self._levels((index + 1) / (n - 1))).reciprocal()


def denoise(
    network: Network, noisy: Images, sigma: Sigmas, labels: Int64[Tensor, " b"] | None, noise_range: NoiseRange
) -> Images:
    """A diffusion model's estimate of the clean images: the network's output as it is. `sigma` is shifted."""
    scaled = noisy * _per_image(noise_range.c_in(sigma))
    return network(scaled, noise_range.c_noise(sigma), labels, return_dict=False)[0].float()


def consistency(
    network: Network, noisy: Images, sigma: Sigmas, labels: Int64[Tensor, " b"] | None, noise_range: NoiseRange
) -> Images:
    """A consistency model's clean images, which at the least noise are the given ones exactly. `sigma` is shifted."""
    output = denoise(network, noisy, sigma, labels, noise_range)
    return _per_image(noise_range.c_skip(sigma)) * noisy + _per_image(noise_range.c_out(sigma)) * output


def _per_image(factor: Sigmas) -> Float[Tensor, "b 1 1 1"]:
    return factor[:, None, None, None]
