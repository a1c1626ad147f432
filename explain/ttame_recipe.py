"""Training T-TAME's attention module on the one loop: the masked image has to keep the class that was seen."""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from explain.attention import AttentionModule
from explain.fills import FILLS
from explain.layers import Reading, Size, read, show
from explain.ttame import RESULT, TTame, enlarged
from explain.ttame_card import write_card
from explain.ttame_config import TTameConfig
from explain.ttame_data import given_pictures, read_pictures
from explain.ttame_loss import area_loss, confidence_loss, own_prediction, variation_factor, variation_loss
from explain.ttame_memory import Memory, megabytes, remember
from workbench.classifiers import load_classifier
from workbench.devices import autocast
from workbench.errors import UserError
from workbench.files import write_atomic
from workbench.pictures import encode_png, image_grid
from workbench.pixel_classifier import PixelClassifier
from workbench.recipe import Draws, Recipe
from workbench.training import Training

SHOWN = 8  # images of a validation picture
BATCH = 32
GIVEN = "(in memory)"
OWNS_BLACK = 0.5  # probability from which a class is said to own the black image


def fit(classifier: PixelClassifier, images: UInt8[Tensor, "n c h w"], output_dir: Path, **settings: Any) -> TTame:
    """Train T-TAME of a classifier in memory on images in memory; `settings` are those of TTameConfig."""
    config = TTameConfig(classifier=GIVEN, data=GIVEN, output_dir=output_dir, **settings)
    folder = Training(TTameRecipe(config, classifier, images)).train()
    return TTame.load(folder, classifier)


class TTameRecipe(Recipe):
    """The classifier is frozen and no part of the model: neither checkpoints nor the result hold it."""

    name = "ttame"
    result = RESULT
    config: TTameConfig
    model: AttentionModule

    def __init__(
        self,
        config: TTameConfig,
        classifier: PixelClassifier | None = None,
        images: UInt8[Tensor, "n c h w"] | None = None,
    ) -> None:
        config.check()
        given = load_classifier(config.classifier) if classifier is None else copy.deepcopy(classifier)
        self.classifier = given.eval().requires_grad_(False)
        self.config = _with_fingerprint(config, self.classifier)
        size = config.asked_size or self.classifier.preprocessing.size or _size_of(images)
        self.ttame = TTame.build(
            self.classifier, config.layers or "auto", config.num_layers, size, config.max_map_size, config.seed
        )
        channels = self.classifier.channels
        self.pictures = (
            read_pictures(config, _required(size), channels)
            if images is None
            else given_pictures(config, images, _required(size))
        )
        self.model, self.num_examples = self.ttame.module, len(self.pictures.images)
        self.memory: Memory | None = None
        layers = ", ".join(map(str, self.ttame.layers))
        told = (f"the layers read are {layers}", *self._memory_note(), *self._black_note())
        self.notes = (*self.pictures.notes, *told)

    def to(self, device: torch.device) -> None:
        """Keep the classifier and the images beside the module."""
        self.device = device
        self.classifier.to(device)
        self.pictures.to(device)
        if self.config.cache_features:
            with self._autocast():
                self.memory = remember(self.classifier, self.ttame.layers, self.pictures.images, BATCH)

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """Crops and flips, and which of several classes is looked at."""
        choice = torch.rand(batch_size, generator=generator, device=generator.device)
        return {"choice": choice, **self.pictures.draw(batch_size, self.config.random_flip, generator)}

    def loss(self, model: nn.Module, indices: Int64[Tensor, " b"], draws: Draws) -> dict[str, Tensor]:
        """One step of the paper's training: see, mask by the map of what was seen, see again."""
        images, classifier = self.pictures.shown(indices, draws), self.classifier
        features, logits = self._seen(indices, images)
        classes = own_prediction(classifier, logits, draws["choice"])
        whole_batch = self.config.regularise == "batch"
        masks = model(features, classes if whole_batch else classes[:, None]).float().sigmoid()
        own = masks.diagonal().permute(2, 0, 1) if whole_batch else masks[:, 0]
        with self._autocast():
            masked_logits = show(classifier, self._masked(images, enlarged(own, images.shape[-2:])))
        parts = {
            "confidence_loss": confidence_loss(classifier, masked_logits, classes),
            "area_loss": area_loss(masks, self.config.loss_settings.area_exponent),
            "variation_loss": variation_loss(masks),
        }
        return {"loss": self._weighted(parts), **parts, "mask_area": own.mean()}

    @torch.no_grad()
    def _seen(self, indices: Int64[Tensor, " b"], images: Float[Tensor, "b c h w"]) -> Reading:
        """What the classifier sees in whole images."""
        if self.memory is not None:
            return self.memory.of(indices, self.device)
        with self._autocast():
            return read(self.classifier, self.ttame.layers, images)

    def _masked(
        self, images: Float[Tensor, "b c height width"], masks: Float[Tensor, "b height width"]
    ) -> Float[Tensor, "b c height width"]:
        """What the mask keeps, in pixel space."""
        return torch.lerp(FILLS[self.config.fill](images), images, masks[:, None])

    def _weighted(self, parts: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        settings = self.config.loss_settings
        return (
            settings.confidence_weight * parts["confidence_loss"]
            + settings.area_weight * parts["area_loss"]
            + settings.variation_weight * variation_factor(self.config.regularise) * parts["variation_loss"]
        )

    def _autocast(self) -> torch.autocast:
        return autocast(self.config.mixed_precision, self.device)

    def _memory_note(self) -> tuple[str, ...]:
        size = megabytes(self.ttame.layers, self.num_examples) if self.config.cache_features else 0
        return (f"the classifier's features take {size:,.1f} MB of memory (--cache-features)",) if size else ()

    @torch.no_grad()
    def _black_note(self) -> tuple[str, ...]:
        """Of the class that owns the black image, nothing at all need be kept."""
        black = torch.zeros(1, self.classifier.channels, *self.pictures.size, device=self.classifier.mean.device)
        share, number = self.classifier.probabilities(show(self.classifier, black)).max(1)
        if self.config.fill != "black" or share < OWNS_BLACK:
            return ()
        name = self.classifier.label_name(int(number))
        return (
            f"the classifier sees {name} in a black image ({float(share):.0%}), so maps of {name} may come out empty; "
            "--fill mean or --fill blur avoids that",
        )

    # ---- what is shown and written -----------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Average drop under the mask, and the mask's area; a picture of image, mask and masked image."""
        model.eval()
        images = self.pictures.held_out.float() / 255
        if not len(images):
            return {}
        drops, masks = zip(*(self._drop(model, part) for part in images.split(BATCH)), strict=True)
        area = torch.cat(masks).mean()
        self._show(images[:SHOWN], torch.cat(masks)[:SHOWN], folder / f"step-{step:08d}.png")
        return {"validation_average_drop": torch.cat(drops).mean().item(), "validation_mask_area": area.item()}

    def _drop(
        self, model: nn.Module, images: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, "b h w"]]:
        """The share of its probability that the class seen loses under its mask, and the mask."""
        features, logits = read(self.classifier, self.ttame.layers, images)
        classes = own_prediction(self.classifier, logits, torch.zeros(len(images), device=images.device))[:, None]
        masks = enlarged(model(features, classes)[:, 0].float().sigmoid(), images.shape[-2:])
        masked = show(self.classifier, self._masked(images, masks))
        before, after = (self.classifier.probabilities(x.float()).gather(1, classes)[:, 0] for x in (logits, masked))
        return (1 - after / before).clamp(min=0), masks

    def _show(self, images: Float[Tensor, "b c h w"], masks: Float[Tensor, "b h w"], path: Path) -> None:
        gray = masks[:, None].expand_as(images)
        cells = torch.stack([images, gray, self._masked(images, masks)]).transpose(0, 1).flatten(0, 1)
        pictures = list((cells * 255).round().byte().cpu())
        write_atomic(path, encode_png(image_grid(pictures, columns=6)))

    def publish(self, model: nn.Module, folder: Path, record: Mapping[str, Any]) -> None:
        """The module without the classifier, with its card."""
        assert isinstance(model, AttentionModule)
        told = {"data": self.pictures.name, "images": self.num_examples, **record}
        TTame(self.classifier, self.ttame.layers, model, told).write(folder)
        write_card(folder, self.ttame.layers, told)


def _with_fingerprint(config: TTameConfig, classifier: PixelClassifier) -> TTameConfig:
    fingerprint = classifier.fingerprint()
    if config.classifier_fingerprint not in (None, fingerprint):
        raise UserError(
            f"the classifier {config.classifier} is not the one that the settings were made for (fingerprint "
            f"{fingerprint}, not {config.classifier_fingerprint}); give that one, or leave classifier_fingerprint out"
        )
    return dataclasses.replace(config, classifier_fingerprint=fingerprint)


def _size_of(images: Tensor | None) -> Size | None:
    return None if images is None else (images.shape[-2], images.shape[-1])


def _required(size: Size | None) -> Size:
    assert size is not None  # TTame.build has asked for it
    return size
