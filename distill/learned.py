"""What matching learns: the images, their soft labels if any, and the step size; with their momentum and average."""

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class Learned:
    """Tensors by name (images, labels, step_size), updated by SGD with momentum, as Cazenavette et al. do."""

    def __init__(self, values: Tensors, rates: dict[str, float], momenta: dict[str, float], ema_decay: float) -> None:
        """`rates` and `momenta` by the same names; `ema_decay` 0 keeps no average."""
        self.values, self.rates, self.momenta, self.ema_decay = values, rates, momenta, ema_decay
        self.velocity = {name: torch.zeros_like(value) for name, value in values.items()}
        averaged = [name for name in values if name != "step_size"] if ema_decay else []
        self.average = {name: values[name].clone() for name in averaged}

    def update(self, gradients: Tensors, min_step_size: float) -> bool:
        """One step against the gradients; whether the step size had to be held at its floor."""
        for name, gradient in gradients.items():
            self.velocity[name] = self.momenta[name] * self.velocity[name] + gradient
            self.values[name] = self.values[name] - self.rates[name] * self.velocity[name]
        for name, average in self.average.items():
            average.lerp_(self.values[name], 1 - self.ema_decay)
        held = bool(self.values["step_size"] < min_step_size)
        self.values["step_size"] = self.values["step_size"].clamp(min=min_step_size)
        return held

    def candidates(self) -> dict[str, Tensors]:
        """Sets to choose from: the raw one, and the averaged one where there is one, with the present step size."""
        raw = dict(self.values)
        return {"raw": raw, "average": raw | self.average} if self.average else {"raw": raw}

    def state(self) -> Tensors:
        """All tensors, for a checkpoint."""
        parts = {"value": self.values, "velocity": self.velocity, "average": self.average}
        return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def load_state(self, state: Tensors) -> None:
        """Take up a checkpoint's tensors. Raises ValueError where they are of another set."""
        mine = self.state()
        if {n: t.shape for n, t in mine.items()} != {n: t.shape for n, t in state.items()}:
            raise ValueError("the checkpoint is of another set")
        for part, tensors in (("value", self.values), ("velocity", self.velocity), ("average", self.average)):
            for name, tensor in tensors.items():
                tensors[name] = state[f"{part}.{name}"].to(tensor.device)
