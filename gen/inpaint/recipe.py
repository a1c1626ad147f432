"""The `inpaint` recipe: its stages one after the other, joined into a pipeline."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from jaxtyping import Float
from torch import Tensor

from gen.card import write_card
from gen.inpaint.completion import Cut
from gen.inpaint.config import StructureConfig, VQVAEConfig
from gen.inpaint.examples import InpaintExamples
from gen.inpaint.masks import draw_masks
from gen.inpaint.pipeline import DiverseInpaintPipeline, Request
from gen.inpaint.prefill import trusted_distance
from gen.inpaint.structure import StructureModel
from gen.inpaint.texture import TextureGenerator
from gen.inpaint.texture_config import DiverseInpaintConfig, TextureConfig
from gen.inpaint.vqvae import open_vqvae
from gen.loading import read_component
from gen.stages import Stage, stage_config, train_stages
from gen.validation import write_rows
from workbench import seeds
from workbench.config import TrainingConfig, to_mapping
from workbench.devices import choose_device
from workbench.errors import UserError
from workbench.launch import command_line, versions
from workbench.metrics_log import read_metrics

EXAMPLE = 4  # stream of randomness
PICTURED, VARIANTS = 8, 6  # images of the card, and completions of each
KINDS: dict[str, type[TrainingConfig]] = {
    "vqvae": VQVAEConfig, "structure": StructureConfig, "texture": TextureConfig,
}  # fmt: skip
USE = """```python
import gen

pipe = gen.load("THIS_FOLDER")
completions = pipe("photo.png", "mask.png", num_variants=6)  # white is what to fill
completions.images[0].save("variant-00.png")
```

Or `workbench inpaint photo.png --mask mask.png --pipeline THIS_FOLDER --output DIR`."""

Network = TypeVar("Network", bound=ModelMixin)


def train_all(config: DiverseInpaintConfig, train: Callable[[TrainingConfig], None]) -> None:
    """Train what is not there yet, and join all."""
    stages = stages_of(config)
    train_stages("inpaint", config, list(stages.values()), train, lambda target: join(config, stages, target))


def stages_of(config: DiverseInpaintConfig) -> dict[str, Stage]:
    """What there is to train, in order."""
    vqvae = {"vqvae": run_of(config, "vqvae")}
    return {
        name: Stage(
            stage_config(config, kind, name, getattr(config, f"{name}_steps"), **({} if name == "vqvae" else vqvae)),
            result=name,
        )
        for name, kind in KINDS.items()
        if getattr(config, name) is None
    }


def run_of(config: DiverseInpaintConfig, stage: str) -> str:
    """The run of a stage: the given one, or that of the chain."""
    return getattr(config, stage) or str(config.output_dir / stage)


def join(config: DiverseInpaintConfig, stages: dict[str, Stage], target: Path) -> None:
    """One pipeline of all stages, with its card. Raises UserError where they do not belong together."""
    vqvae = open_vqvae(run_of(config, "vqvae"))
    examples = InpaintExamples(replace(config, channels=vqvae.config.channels))
    masks = draw_masks(config.masks, len(examples.validation), config.size, seeds.generator(config.seed, EXAMPLE))
    texture = open_network(TextureGenerator, run_of(config, "texture"), "texture")
    if texture.structure is None:
        raise UserError("the given --texture was trained as a single stage, without structures; give another")
    distance = trusted_distance(lambda images: vqvae.encode(images).top_ids, examples.validation, masks)
    structure = open_network(StructureModel, run_of(config, "structure"), "structure")
    pipe = DiverseInpaintPipeline(vqvae, structure, texture, distance)
    pipe.save_pretrained(target)
    count = min(PICTURED, len(masks))
    _write_picture(
        pipe.to(choose_device(config.device)), examples.validation[:count], masks[:count],
        Path(config.output_dir) / "samples" / "variants.png",
    )  # fmt: skip
    _write_card(config, stages, examples, target)


def open_network(kind: type[Network], folder: str | Path, name: str) -> Network:
    """A trained network of a run, a pipeline or its own folder. Raises UserError when there is none."""
    for candidate in (Path(folder), Path(folder) / name, Path(folder) / "pipeline" / name):
        if (candidate / "config.json").is_file():
            network: Network = read_component(kind, candidate)
            return network.eval()
    raise UserError(f"there is no {name} network in {folder}; give the run of gen/train.py inpaint-{name}")


def _write_picture(
    pipe: DiverseInpaintPipeline, images: Float[Tensor, "m c h w"], masks: Float[Tensor, "m 1 h w"], path: Path
) -> None:
    """Rows of masked images, of the true ones, and of completions."""
    pipe.set_progress_bar_config(disable=True)
    request = Request(num_variants=VARIANTS)
    pairs = zip(images.split(1), masks.split(1), strict=True)
    completions = [pipe.paint([Cut(*pair)], request).images[0][:, 0].cpu() for pair in pairs]
    write_rows(path, [images * (1 - masks), images, *torch.stack(completions, dim=1)])


def _write_card(
    config: DiverseInpaintConfig, stages: dict[str, Stage], examples: InpaintExamples, target: Path
) -> None:
    record: dict[str, Any] = {
        "command": command_line(),
        "versions": versions(),
        "settings": {"recipe": "inpaint", **to_mapping(config)},
        "figures": {name: _last_figures(stage.run.metrics) for name, stage in stages.items()},
    }
    steps = "".join(f", {name} for {stage.config.max_train_steps:,} steps" for name, stage in stages.items())
    trained = f"Trained on {len(examples):,} images of {examples.name} at {config.resolution} pixels{steps}."
    write_card(target, "Diverse inpainting", examples, record, USE, trained)


def _last_figures(path: Path) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for row in read_metrics(path):
        figures |= row
    return figures
