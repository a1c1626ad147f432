"""Who did what: every part of a run says its name, its kind and its weights."""

from dataclasses import dataclass
from typing import Literal

ComponentKind = Literal["real", "offline_standin", "data", "person", "oracle"]


@dataclass(frozen=True)
class Component:
    """`step`: what it does. `kind`: a released model, a small stand-in of ours, the data's own records, a person, or
    (in tests alone) the planted truth. `version`: weights or method, in words."""

    step: str
    name: str
    kind: ComponentKind
    version: str
