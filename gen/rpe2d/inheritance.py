"""Multi-stage training: a new run starts from the weights of a trained one, of another resolution or range."""

from pathlib import Path
from typing import Any

from gen.loading import find_pipeline, read_component
from gen.rpe2d.transformer import RPE2DTransformer2DModel
from workbench.errors import UserError

# What may differ: it shapes no weight (but for the rows of a learned table).
FREE = {"sample_size", "max_positions", "inference_positions"}


def inherit(model: RPE2DTransformer2DModel, folder: str | Path) -> None:
    """Copy the weights of the trained run or pipeline in `folder` into a freshly built model.

    Raises UserError where the two differ in more than their resolution and range of positions.
    """
    trained = read_component(RPE2DTransformer2DModel, find_pipeline(folder) / "transformer")
    different = [name for name in _fields(model) if _fields(model)[name] != _fields(trained).get(name)]
    if different:
        told = ", ".join(
            f"{name} is {_fields(trained).get(name)!r:.60} there and {_fields(model)[name]!r:.60} here"
            for name in different
        )
        raise UserError(f"a run cannot start from {folder}: {told}; give the same settings and data")
    ours, theirs = (list(one.config.max_positions) for one in (model, trained))
    if model.config.pos_embed_type in ("table", "lff") and ours != theirs:
        raise UserError(
            f"a run cannot start from {folder}: its {model.config.pos_embed_type} encoding belongs to its "
            f"--max-positions {'x'.join(map(str, theirs))}; give the same"
        )
    model.load_state_dict(trained.state_dict())


def _fields(model: RPE2DTransformer2DModel) -> dict[str, Any]:
    """The settings that must agree, as they look after a round trip through JSON."""
    config = {k: v for k, v in model.config.items() if not k.startswith("_") and k not in FREE}
    config["id2label"] = {str(k): name for k, name in (config["id2label"] or {}).items()}
    config["token_names"] = list(config["token_names"] or ())
    return config
