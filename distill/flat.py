"""A network as a function of one flat vector: what trajectories are made of.

network = FlatNetwork(build_network(spec))
theta = network.initial(generator)                       # (P,)
logits = network(theta, images)                          # also under torch.func.grad and vmap over theta
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from workbench.errors import UserError


class FlatNetwork:
    """A module whose parameters are views of one vector, in the order of `named_parameters()`.

    Raises UserError for a module with running statistics, which are no parameters and would be left out.
    """

    def __init__(self, module: nn.Module) -> None:
        norms = [name for name, part in module.named_modules() if isinstance(part, _NormBase)]
        if norms or list(module.buffers()):
            raise UserError(
                f"the network has running statistics ({', '.join(norms) or 'buffers'}), which a trajectory of "
                "parameters does not hold; use group or instance norm, such as --network convnet"
            )
        self.module = module
        self.shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
        self._sizes = [math.prod(shape) for shape in self.shapes.values()]
        self._features = _Features(module)

    @property
    def size(self) -> int:
        """Number of parameters, P."""
        return sum(self._sizes)

    def initial(self, generator: torch.Generator) -> Float[Tensor, " p"]:
        """Fresh parameters on the CPU, by torch's default initialisation of each layer; a copy, not a view."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_seed(generator))
            for part in self.module.modules():
                if reset := getattr(part, "reset_parameters", None):
                    reset()
        return self.flatten({name: p.detach() for name, p in self.module.named_parameters()})

    def __call__(self, theta: Float[Tensor, " p"], images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits."""
        return functional_call(self.module, self.unflatten(theta), (images,))

    def features(self, theta: Float[Tensor, " p"], images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """What the head sees."""
        parameters = {f"module.{name}": value for name, value in self.unflatten(theta).items()}
        return functional_call(self._features, parameters, (images,))

    def unflatten(self, theta: Float[Tensor, " p"]) -> dict[str, Tensor]:
        """The parameters by name, as views of `theta`."""
        parts = theta.split(self._sizes)
        return {name: part.view(shape) for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)}

    def flatten(self, parameters: dict[str, Tensor]) -> Float[Tensor, " p"]:
        """One vector from the parameters by name."""
        return torch.cat([parameters[name].flatten() for name in self.shapes])


class _Features(nn.Module):
    """Calls the module's `features` where torch calls `forward`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        return self.module.features(images)  # type: ignore[operator]


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))
