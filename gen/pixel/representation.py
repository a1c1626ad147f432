"""Stage 1 of EPG: an encoder that sees the same in two views of an image, and at neighbouring noise levels.

Lei et al. 2025 (arXiv 2510.12586); it extends rRCM (Lei et al. 2025, arXiv 2501.13094).
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gen.pixel.contrast import nce
from gen.pixel.encoder import EPGEncoderModel
from gen.pixel.noise import NoiseRange

Images = Float[Tensor, "b c h w"]
Noisy = tuple[Images, Float[Tensor, " b"]]  # and their noise level


def represent(
    encoder: EPGEncoderModel, noisy: Images, sigma: Float[Tensor, " b"], noise_range: NoiseRange
) -> Float[Tensor, "b d"]:
    """What the encoder sees in noisy images, before any projection. `sigma` is shifted."""
    scaled = noisy * noise_range.c_in(sigma)[:, None, None, None]
    return encoder(scaled, noise_range.c_noise(sigma)).representation


class RepresentationLearner(nn.Module):
    """The encoder that is trained, the slow copy that its views are compared with, and the loss of a step.

    Args:
        encoder: the one that is trained.
        noise_range: its levels, from which `forward` is given some.
        momentum: share of its weights that the copy keeps in each step.
        contrast_weight, consistency_weight: of the two parts; one of 0 is not computed.
        contrast_temperature: of the contrast of views.
    """

    def __init__(
        self,
        encoder: EPGEncoderModel,
        noise_range: NoiseRange,
        momentum: float = 0.99,
        contrast_weight: float = 1.0,
        consistency_weight: float = 1.0,
        contrast_temperature: float = 0.2,
    ) -> None:
        super().__init__()
        self.online = encoder
        self.target = copy.deepcopy(encoder).requires_grad_(False)
        self.noise_range, self.momentum = noise_range, momentum
        self.contrast_weight, self.consistency_weight = contrast_weight, consistency_weight
        self.contrast_temperature = contrast_temperature
        if not contrast_weight:
            self.online.projector.requires_grad_(False)  # it would get no gradient, for which processes wait

    def forward(
        self,
        images: Images,
        views: tuple[Images, Images],
        noise: Images,
        sigmas: Float[Tensor, " 2"],
        temperature: Float[Tensor, ""],
    ) -> dict[str, Tensor]:
        """The parts of the loss, `contrast` and `consistency`, without their weights.

        Args:
            images, views, noise: scaled, of one shape; one noise for all three.
            sigmas: the more and the less noisy of two neighbouring levels, one pair for all images: at different
                levels an image would be told by its noise. Shifted.
            temperature: of the consistency between the two levels.
        """
        least = self.noise_range.shifted(torch.full_like(sigmas[0], self.noise_range.sigma_min))
        near = [_noisy(view, noise, least) for view in views] if self.contrast_weight else []
        far = [_noisy(images, noise, sigma) for sigma in sigmas] if self.consistency_weight else []
        with torch.no_grad():
            keys = [self.target.project(seen) for seen in self._see(self.target, near)]
            neighbours = self._see(self.online, far[1:])
        seen = self._see(self.online, near + far[:1])  # all that is trained, in one pass
        queries = [self.online.project(one) for one in seen[: len(near)]]  # batch statistics are of one view each
        parts = {}
        if near:
            pairs = zip(queries, reversed(keys), strict=True)
            parts["contrast"] = torch.stack([nce(*pair, self.contrast_temperature) for pair in pairs]).sum()
        if far:
            parts["consistency"] = nce(seen[-1], neighbours[0], temperature)
        return parts

    def _see(self, encoder: EPGEncoderModel, batches: list[Noisy]) -> tuple[Float[Tensor, "b d"], ...]:
        """Representations of each of the batches, by one pass over all."""
        if not batches:
            return ()
        images, sigmas = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return represent(encoder, images, sigmas, self.noise_range).chunk(len(batches))

    @torch.no_grad()
    def move_target(self) -> None:
        """Let the slow copy follow, after each step."""
        slow, fast = list(self.target.parameters()), list(self.online.parameters())
        torch._foreach_lerp_(slow, fast, 1 - self.momentum)


def _noisy(images: Images, noise: Images, sigma: Float[Tensor, ""]) -> Noisy:
    return images + sigma * noise, sigma.expand(len(images))
