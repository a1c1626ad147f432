"""What the pipelines of all recipes share: labels by name or id, starting noise, and folders that diffusers opens."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, Int64
from torch import Tensor

from workbench.errors import UserError
from workbench.files import write_atomic

Generators = torch.Generator | list[torch.Generator] | None
Labels = int | str | Sequence[int | str] | None
Callback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]

# What lets `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` open our folders too.
REMOTE_DOOR = '''"""Opens this folder through diffusers' generic door; needs the `workbench` package."""

import {module}


class {name}({module}.{name}):
    """See {module}."""
'''


class FolderPipeline(DiffusionPipeline):
    """A pipeline whose saved folder diffusers' generic door opens too."""

    _home: str  # the module of the class, by which that door finds it

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """As in diffusers; also adds what diffusers' generic door needs to find this class."""
        super().save_pretrained(save_directory, **kwargs)
        folder, name = Path(save_directory), type(self).__name__
        index = json.loads((folder / "model_index.json").read_text())
        index["_class_name"] = ["pipeline", name]
        write_atomic(folder / "model_index.json", json.dumps(index, indent=2) + "\n")
        write_atomic(folder / "pipeline.py", REMOTE_DOOR.format(module=self._home, name=name))

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """As in diffusers, but this class is the code that the folder would bring: it is never run."""
        config = super().load_config(*args, **kwargs)
        if isinstance(config, dict):
            config["_class_name"] = cls.__name__
        return config


class LabelledPipeline(FolderPipeline):
    """A pipeline whose `transformer` learned `num_classes` labels, named by its config's `id2label`."""

    _callback_tensor_inputs = ["latents"]

    @property
    def num_classes(self) -> int:
        """Number of labels; also the id of "no label"."""
        raise NotImplementedError

    @property
    def native_size(self) -> tuple[int, int]:
        """Height and width in pixels of a training image."""
        raise NotImplementedError

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels, in order of their ids."""
        names = self.transformer.config.id2label or {}
        return tuple(names[key] for key in sorted(names, key=int))

    def label_ids(self, class_labels: Labels, num_images: int = 1) -> Int64[Tensor, " b"]:
        """Ids of labels given by name or id; without any, `num_images` times "no label".

        Raises UserError for an unknown one.
        """
        null, names = self.num_classes, self.label_names
        if class_labels is None:
            return torch.full((num_images,), null)
        if isinstance(class_labels, int | str):
            class_labels = [class_labels] * num_images
        ids = [names.index(label) if label in names else label for label in class_labels]
        for label in ids:
            if not isinstance(label, int) or not 0 <= label < null:
                allowed = (
                    ", ".join(names) if names else f"0 to {null - 1}" if null else "none: this model has no labels"
                )
                raise UserError(f"unknown label {label!r}; choose from: {allowed}")
        return torch.tensor(ids)

    def starting_noise(
        self, shape: tuple[int, int, int, int], generator: Generators, latents: Tensor | None, dtype: torch.dtype
    ) -> Float[Tensor, "b c h w"]:
        """Unit noise: drawn, or the given one. Raises UserError where that, or the number of generators, is another."""
        count, device = shape[0], self._execution_device
        if count == 0:
            raise UserError("no image is asked for; give class_labels, or num_images of 1 or more")
        if isinstance(generator, list) and len(generator) != count:
            raise UserError(f"{len(generator)} generators for {count} images; give one for all or one per image")
        if latents is None:
            return randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        if latents.shape != shape:
            raise UserError(f"latents have shape {tuple(latents.shape)}; give {shape}")
        return latents.to(device, dtype)

    def after_step(
        self, callback: Callback | None, step: int, timestep: Tensor, latents: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """The latents of a finished step, or those that the caller's `callback_on_step_end` puts in their place."""
        changed = callback(self, step, timestep, {"latents": latents}) if callback is not None else None
        return changed.get("latents", latents) if changed else latents
