"""Where a stage begins: a fresh network, or the weights of an earlier stage's run."""

import json
from pathlib import Path
from typing import Any

import torch

from gen.loading import find_pipeline, read_component
from gen.pixel.config import ConsistencyConfig, GeneratorConfig, PixelTrainingConfig
from gen.pixel.data import PixelData
from gen.pixel.encoder import EPGEncoderModel, EPGModel
from gen.pixel.presets import PixelPreset
from gen.pixel.transformer import EPGTransformer2DModel, PredictionType
from workbench import seeds
from workbench.errors import UserError

INITIAL = 2  # stream of randomness
WEIGHTS = ("in_channels", "patch_size", "sample_size", "num_class_embeds", "id2label", *PixelPreset._fields)


def build_encoder(config: PixelTrainingConfig, data: PixelData) -> EPGEncoderModel:
    """A freshly initialised encoder for these images, the same for the same seed."""
    shape = {k: v for k, v in config.shape._asdict().items() if not k.startswith("decoder_")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.generator(config.seed, INITIAL).initial_seed())
        return EPGEncoderModel(**shape, **_settings(config, data))


def build_generator(config: GeneratorConfig, data: PixelData, prediction_type: PredictionType) -> EPGTransformer2DModel:
    """A generator of such images: fresh, or with the weights of `config.init_from`, of which it has all or the encoder.

    Raises UserError where there are none, or they are of another network or other labels.
    """
    start = open_run(config.init_from) if config.init_from is not None else None
    shape = {k: v for k, v in config.shape._asdict().items() if not k.startswith("projector_")}
    settings = {
        **shape,
        **_settings(config, data),
        "num_class_embeds": len(data.label_names) or None,
        "id2label": dict(enumerate(data.label_names)),
        "prediction_type": prediction_type,
        "decoder_dropout": config.dropout if isinstance(config, ConsistencyConfig) else 0.0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.generator(config.seed, INITIAL).initial_seed())
        if isinstance(start, EPGEncoderModel):
            return EPGTransformer2DModel.from_encoder(start, **settings)
        model = EPGTransformer2DModel(**settings)
    if isinstance(start, EPGTransformer2DModel):
        _inherit(model, start, str(config.init_from))
    return model


def open_run(folder: str | Path) -> EPGModel:
    """The encoder or the generator in the folder of a run or of its result. Raises UserError where there is neither."""
    for candidate in (Path(folder), Path(folder) / "encoder"):
        if _class_name(candidate) == EPGEncoderModel.__name__:
            return read_component(EPGEncoderModel, candidate)
    transformer = find_pipeline(folder) / "transformer"
    if _class_name(transformer) != EPGTransformer2DModel.__name__:
        raise UserError(f"{folder} holds a {_class_name(transformer)}; give a run of one of the pixel recipes")
    return read_component(EPGTransformer2DModel, transformer)


def open_encoder(folder: str | Path) -> EPGEncoderModel:
    """A pre-trained encoder. Raises UserError where there is none."""
    found = open_run(folder)
    if not isinstance(found, EPGEncoderModel):
        raise UserError(f"{folder} holds a generator; give a run of pixel-pretrain")
    return found


def _class_name(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / "config.json").read_text())["_class_name"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _settings(config: PixelTrainingConfig, data: PixelData) -> dict[str, Any]:
    """What an encoder and a generator are built with alike."""
    channels, height, width = data.shape
    scaling = data.scaling
    return {
        "sample_size": (height, width), "in_channels": channels, "patch_size": config.patch_size,
        "sigma_min": config.sigma_min, "sigma_max": config.sigma_max, "sigma_shift": config.sigma_shift,
        "data_mean": scaling.mean, "data_std": scaling.std, "data_range": (scaling.low, scaling.high),
    }  # fmt: skip


@torch.no_grad()
def _inherit(model: EPGTransformer2DModel, trained: EPGTransformer2DModel, folder: str | Path) -> None:
    """Copy all weights. Raises UserError where the networks differ."""
    ours, theirs = (_weight_settings(one) for one in (model, trained))
    different = [name for name in ours if ours[name] != theirs[name]]
    if different:
        told = ", ".join(f"{name} is {theirs[name]!r:.60} there and {ours[name]!r:.60} here" for name in different)
        raise UserError(f"a run cannot start from {folder}: {told}; give the same settings and data")
    model.load_state_dict(trained.state_dict())
    if (model.config.prediction_type, trained.config.prediction_type) == ("consistency", "sample"):
        # where there is most noise, which one step begins with, a consistency model is c_out F = sigma_data F
        for end in model.proj_out.parameters():
            end /= model.noise_range.sigma_data


def _weight_settings(model: EPGTransformer2DModel) -> dict[str, Any]:
    """The settings that must agree, as they look after a round trip through JSON."""
    chosen = {name: model.config[name] for name in WEIGHTS if name in model.config}
    chosen["id2label"] = {str(key): name for key, name in (chosen["id2label"] or {}).items()}
    return json.loads(json.dumps(chosen))
