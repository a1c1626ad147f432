"""Tiny generators are those of the tests of `gen`; the digits and their experts are made once."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "gen"))


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as a data set on disk. Not to be changed."""
    from tiny_sets import write_digits

    return write_digits(tmp_path_factory.mktemp("data") / "digits")


@pytest.fixture(scope="session")
def experts_folder(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished experts of the digits. Not to be changed."""
    from tiny_runs import experts_config

    from distill.experts import train_experts

    folder = tmp_path_factory.mktemp("runs") / "experts"
    train_experts(experts_config(digits_folder, folder))
    return folder
