"""Opened models, kept for the next click; the one that was not used for longest goes first."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.config import Device
from workbench.devices import choose_device

KEPT = 2


def generator(folder: str, device: Device) -> Any:
    """A generator of labelled images; opened anew when its folder has changed."""
    return _generator(folder, _stamp(folder), device)


def inpainter(spec: str, device: Device) -> Any:
    """Whatever fills holes."""
    return _inpainter(spec, _stamp(spec), device)


def classifier(spec: str, device: Device) -> Any:
    """A classifier."""
    return _classifier(spec, _stamp(spec), device)


def _stamp(folder: str) -> float:
    path = Path(folder)
    return path.stat().st_mtime if path.is_dir() else 0.0


@lru_cache(KEPT)
def _generator(folder: str, stamp: float, device: Device) -> Any:
    from gen.loading import load_generator

    return load_generator(folder, str(choose_device(device)))


@lru_cache(KEPT)
def _inpainter(spec: str, stamp: float, device: Device) -> Any:
    from gen.inpaint.baselines import open_inpainter

    return open_inpainter(spec, str(choose_device(device)))


@lru_cache(KEPT)
def _classifier(spec: str, stamp: float, device: Device) -> Any:
    from workbench.classifiers import load_classifier

    return load_classifier(spec, choose_device(device))
