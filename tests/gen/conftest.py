from pathlib import Path

import pytest
from tiny_models import random_pipeline


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline with random weights: gray, 8 x 12 pixels natively, three labels. Not to be changed."""
    folder = tmp_path_factory.mktemp("generator") / "pipeline"
    random_pipeline().save_pretrained(folder)
    return folder
