"""New images without a spurious feature, from a trained generator that learns one new word for them.

Textual inversion (Gal et al., 2022): a word's embedding, all else frozen, optimised on the edits of one class with the
generator's own loss. `rpe2d_tokens.py` does it for a generator of this workbench, `diffusers_tokens.py` for a text-to-
image model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from augment_synth.aspire import Discovery
from augment_synth.components import ComponentKind
from augment_synth.debias_config import DebiasConfig
from augment_synth.debias_data import DebiasData
from augment_synth.edit_log import EditRow, content_hash
from augment_synth.filters import Filters
from augment_synth.likeness import open_likeness
from augment_synth.synthetic import Synthetic, decoded, direct
from workbench import seeds
from workbench.devices import choose_device
from workbench.files import make_folder, sha256_file
from workbench.pictures import resize_images

DIRECT, DIFFUSERS = "direct", "diffusers:"
SHARE, LEAST = 0.25, 100
SAMPLE_STREAM = 52
Embedding = Float[Tensor, "..."]


@runtime_checkable
class TokenLearner(Protocol):
    """A frozen generator that can learn a new word for a label. `hash` is of its weights."""

    kind: ComponentKind
    editor: str
    size: tuple[int, int]
    hash: str
    num_inference_steps: int
    guidance_scale: float

    def invert(self, images: UInt8[Tensor, "n 3 h w"], label: int, steps: int, seed: int) -> Embedding: ...

    def sample(self, label: int, embedding: Embedding, drawn_seeds: Sequence[int]) -> UInt8[Tensor, "n 3 h w"]: ...


@dataclass(frozen=True)
class Concept:
    """A token that was learned from edits of one class."""

    label: int
    token: str
    embedding: Embedding
    removed: str
    edits: int
    sha256: str


def synthetic_images(config: DebiasConfig, discovery: Discovery, edits: Sequence[EditRow], folder: Path) -> Synthetic:
    """What to train on besides the data: the edits, or what a generator makes of them; filtered, but in paper mode."""
    editing, data = discovery.editing, discovery.editing.subject.data
    if config.generator == DIRECT or not edits:
        made = direct(discovery, edits)
    else:
        made = generated(config, open_learner(config, data.label_names), edits, data, folder)
    if config.mode == "paper":
        return made
    likeness = open_likeness(config.semantic_filter, str(choose_device(config.device)))
    return Filters(editing.classify, editing.subject.probabilities, likeness).apply(made, data)


def open_learner(config: DebiasConfig, label_names: Sequence[str]) -> TokenLearner:
    """The generator of the settings. Raises `UserError` for one that cannot learn tokens, or of other labels."""
    device, name = str(choose_device(config.device)), config.generator
    if name.startswith(DIFFUSERS):
        from augment_synth.diffusers_tokens import DiffusersTokens

        name = name.removeprefix(DIFFUSERS)
        return DiffusersTokens.load(name, label_names, config.num_inference_steps, config.guidance_scale, device)
    from augment_synth.rpe2d_tokens import RPE2DTokens

    return RPE2DTokens.load(name, label_names, config.num_inference_steps, config.guidance_scale, device)


def generated(
    config: DebiasConfig, learner: TokenLearner, edits: Sequence[EditRow], data: DebiasData, folder: Path
) -> Synthetic:
    """A new token for each class with edits, learned once and kept in `folder`, and images made with it."""
    parts = []
    for label in sorted({row.label for row in edits}):
        own = [row for row in edits if row.label == label]
        concept = personalise(learner, label, own, config.personalisation_steps, config.seed, folder)
        parts.append(new_images(config, learner, concept, images_to_make(data, label), data))
    return Synthetic(torch.cat([part.images for part in parts]), [row for part in parts for row in part.rows])


def images_to_make(data: DebiasData, label: int) -> int:
    """A quarter of the class's real images, and 100 at least."""
    return max(LEAST, round(SHARE * int((data.labels == label).sum())))


def personalise(
    learner: TokenLearner, label: int, edits: Sequence[EditRow], steps: int, seed: int, folder: Path
) -> Concept:
    """Learn a token from edits of one class, or read it where it was learned from the same ones before."""
    from safetensors.torch import load_file, save_file

    key = content_hash([learner.hash, learner.editor, steps, seed, [row.png for row in edits]])
    path = folder / f"token-{label}-{key}.safetensors"
    if not path.exists():
        make_folder(folder)
        pixels = resize_images(decoded(edits, learner.size), learner.size)
        partial = path.with_suffix(".partial")
        save_file({"embedding": learner.invert(pixels, label, steps, seed)}, partial)
        partial.rename(path)
    removed = ", ".join(sorted({row.phrase for row in edits}))
    return Concept(label, f"<{label}>", load_file(path)["embedding"], removed, len(edits), sha256_file(path))


def new_images(
    config: DebiasConfig, learner: TokenLearner, concept: Concept, count: int, data: DebiasData
) -> Synthetic:
    """Images of a learned token, at the data's size."""
    drawn = [sample_seed(config.seed, concept.label, number) for number in range(count)]
    made = learner.sample(concept.label, concept.embedding, drawn)
    rows = [_row(concept, config.generator, learner, seed) for seed in drawn]
    return Synthetic(resize_images(made, (data.images.shape[-2], data.images.shape[-1])), rows)


def sample_seed(seed: int, label: int, number: int) -> int:
    """Of one image."""
    return seeds.generator(seed, SAMPLE_STREAM, label + 1, number + 1).initial_seed() % 2**31


def _row(concept: Concept, generator: str, learner: TokenLearner, seed: int) -> dict[str, Any]:
    """Provenance of a generated image."""
    height, width = learner.size
    return {
        "label": concept.label, "source": "generated", "generator": generator, "generator_hash": learner.hash,
        "seed": seed, "guidance_scale": learner.guidance_scale, "num_inference_steps": learner.num_inference_steps,
        "generated_height": height, "generated_width": width, "concept_token": concept.token,
        "concept_sha256": concept.sha256, "concept_edits": concept.edits, "removed_feature": concept.removed,
        "replaced_by": None, "background": None, "editor": learner.editor, "editor_kind": learner.kind,
    }  # fmt: skip
