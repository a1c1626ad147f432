"""The methods of the resolution benchmark: a few trainings, and what each is asked to do at other sizes.

Letters are those of the method's usual comparison: a to h change a model of fixed positions at inference, i is RPE-2D.
Every part is saved as it finishes, so that a benchmark can be stopped and gone on with.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

import gen
from gen.rpe2d.config import RPE2DConfig
from gen.rpe2d.recipe import RPE2DRecipe
from workbench.devices import choose_device, has_fast_bf16
from workbench.run_folder import RunFolder
from workbench.training import Training

Size = tuple[int, int]
BATCH = 64


@dataclass(frozen=True)
class Task:
    """One data set at one training resolution, and the sizes that are asked for."""

    name: str
    data: str
    resolution: int
    sizes: tuple[Size, ...]
    patch_size: int
    max_positions: int
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """Where to sample: where training would be."""
        return choose_device(self.settings["device"]).type

    @property
    def grid(self) -> int:
        """Patches along a side of a training image."""
        return self.resolution // self.patch_size


FIXED = {"crop_probability": 0.0, "crop_conditioning": False}  # with as many positions as patches
ARMS: dict[str, dict[str, Any]] = {
    "fixed rope": FIXED,
    "fixed sin-cos": FIXED | {"pos_embed_type": "sincos"},
    "learned table": FIXED | {"pos_embed_type": "table"},
    "random positions": FIXED,
    "rpe2d": {},
    "fixed rope, crops": {},
    "crop-aligned": {"crop_aligned_positions": True},
    "stratified": {"position_sampling": "stratified"},
    "crop-aligned, stratified": {"crop_aligned_positions": True, "position_sampling": "stratified"},
}
RANDOM = (
    "random positions",
    "rpe2d",
    "crop-aligned",
    "stratified",
    "crop-aligned, stratified",
)  # trained on the larger range


@dataclass(frozen=True)
class Method:
    """A row of the table: a training and its inference."""

    key: str
    name: str
    arm: str
    mode: str


METHODS = (
    Method("a", "RoPE extrapolation", "fixed rope", "extrapolation"),
    Method("b", "position interpolation", "fixed rope", "vision_interpolation"),
    Method("c", "VisionNTK", "fixed rope", "vision_ntk"),
    Method("d", "NTK-by-parts", "fixed rope", "ntk_by_parts"),
    Method("e", "VisionYaRN", "fixed rope", "vision_yarn"),
    Method("f1", "Dy-NTK", "fixed rope", "dype_ntk"),
    Method("f2", "Dy-YaRN", "fixed rope", "dype_yarn"),
    Method("g1", "sin-cos extrapolation", "fixed sin-cos", "extrapolation"),
    Method("g2", "sin-cos interpolation", "fixed sin-cos", "vision_interpolation"),
    Method("h", "learned table, bicubic", "learned table", "vision_interpolation"),
    Method("i1", "random positions", "random positions", "equispaced"),
    Method("i2", "RPE-2D: + crops and box", "rpe2d", "equispaced"),
)
UPSCALED = Method("k", "fixed RoPE at the training size, bicubic", "fixed rope", "upscaled")
EXTRA = (
    Method("x1", "fixed RoPE + crops, extrapolation", "fixed rope, crops", "extrapolation"),
    Method("x2", "fixed RoPE + crops, interpolation", "fixed rope, crops", "vision_interpolation"),
    Method("x3", "crop-aligned positions", "crop-aligned", "equispaced"),
    Method("x7", "crop-aligned, stratified positions", "crop-aligned, stratified", "equispaced"),
    Method("x8", "stratified positions", "stratified", "equispaced"),
    Method("x4", "RPE-2D, isotropic", "rpe2d", "isotropic"),
    Method("x5", "RPE-2D, centered", "rpe2d", "centered"),
    Method("x6", "RPE-2D, random", "rpe2d", "random"),
)
TRICKS: dict[str, dict[str, Any]] = {  # the same for every method
    "none": {"attention_scale": None, "timestep_shift": None},
    "lambda": {"attention_scale": "auto", "timestep_shift": None},
    "shift": {"attention_scale": None, "timestep_shift": "auto"},
    "lambda + shift": {"attention_scale": "auto", "timestep_shift": "auto"},
}


def train_arm(task: Task, arm: str, seed: int, folder: Path) -> Path:
    """Train, or go on training, or find trained; returns the run's folder."""
    positions = task.max_positions if arm in RANDOM else task.grid
    settings = {**task.settings, **ARMS[arm]}
    name = f"{arm.replace(' ', '-').replace(',', '')}-{settings['preset']}-{positions}-{settings['max_train_steps']}"
    run = folder / task.name / f"{name}-{seed}"
    config = RPE2DConfig(
        data=task.data, output_dir=run, resolution=str(task.resolution), patch_size=task.patch_size, seed=seed,
        max_positions=str(positions), checkpoints_total_limit=1, validation_steps=0, **settings,
    )  # fmt: skip
    if not RunFolder(run, "pipeline").finished(config.max_train_steps):
        Training(RPE2DRecipe(config)).train()
    return run


def images_of(
    task: Task, method: Method, size: Size, tricks: str, seed: int, folder: Path, options: dict[str, Any]
) -> UInt8[Tensor, "n c h w"]:
    """Images from the same labels and noise for every method; sampled, or read again.

    `options`: `count` of images, and what the pipeline is called with.
    """
    native = (task.resolution, task.resolution)
    if method is UPSCALED:
        return upscaled(images_of(task, METHODS[0], native, "none", seed, folder, options), size)
    if size == native and method.arm not in RANDOM:  # there all ways to place fixed positions are one
        method = next(first for first in (*METHODS, *EXTRA) if first.arm == method.arm)
    run = train_arm(task, method.arm, seed, folder)
    about = "-".join([tricks.replace(" ", ""), *(f"{name}{value:g}" for name, value in options.items())])
    path = run / "images" / f"{method.key}-{size[0]}x{size[1]}-{about}.safetensors"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        pipe = gen.load(run, task.device)
        save_file({"images": _sample(pipe, method, size, tricks, **options)}, path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
    return load_file(path)["images"]


def upscaled(images: UInt8[Tensor, "n c h w"], size: Size) -> UInt8[Tensor, "n c h2 w2"]:
    """Bicubic, as an image program does it."""
    larger = F.interpolate(images.float(), size, mode="bicubic", antialias=True, align_corners=False)
    return larger.round().clamp(0, 255).byte()


def _sample(pipe: Any, method: Method, size: Size, tricks: str, count: int, **options: Any) -> UInt8[Tensor, "n c h w"]:
    pipe.set_progress_bar_config(disable=True)
    classes = len(pipe.label_names)
    batches = []
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        with torch.autocast(pipe.device.type, torch.bfloat16, enabled=has_fast_bf16(pipe.device)):
            images = pipe(
                [k % classes for k in numbers], *size, position_mode=method.mode, output_type="pt",
                generator=[torch.Generator().manual_seed(k) for k in numbers], **TRICKS[tricks], **options,
            ).images  # fmt: skip
        batches.append((images * 255).round().byte().cpu())
    return torch.cat(batches)
