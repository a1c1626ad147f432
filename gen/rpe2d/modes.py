"""The ways to place a grid of patches, by name. Light (no torch), because `--help` reads it."""

from typing import Literal, get_args

PositionMode = Literal["equispaced", "isotropic", "centered", "random"]
"""Within the trained range of random positions."""

PositionSampling = Literal["uniform", "stratified"]
"""How positions are drawn in training."""

Extrapolation = Literal[
    "extrapolation", "interpolation", "vision_interpolation", "ntk", "vision_ntk", "ntk_by_parts", "yarn",
    "vision_yarn", "dype_ntk", "dype_yarn",
]  # fmt: skip
"""Beyond the trained range: the rules of other papers."""

EXTRAPOLATIONS = get_args(Extrapolation)
POSITION_MODES = (*get_args(PositionMode), *EXTRAPOLATIONS)
