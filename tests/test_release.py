"""What the first release saved still opens and answers the same: module paths and file formats are kept."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import gen
from workbench.classifiers import load_classifier
from workbench.datasets import load_images
from workbench.verify import verify

RELEASES = sorted((Path(__file__).parent / "data").glob("release-*"))


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_a_saved_pipeline_still_generates_the_same(release: Path) -> None:
    pipe = gen.load(release / "pipeline")
    labels = list(pipe.label_names)
    images = pipe(labels, 16, 12, 3, 1.5, generator=torch.Generator().manual_seed(7), output_type="pt").images
    torch.testing.assert_close(images, load_file(release / "expected.safetensors")["images"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_a_saved_classifier_still_sees_the_same(release: Path) -> None:
    expected = load_file(release / "expected.safetensors")
    logits = load_classifier(release / "classifier")(expected["images"])
    torch.testing.assert_close(logits, expected["logits"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_a_saved_data_set_still_reads(release: Path) -> None:
    assert verify(release / "dataset").ok
    data = load_images(release / "dataset")
    expected = (load_file(release / "expected.safetensors")["images"] * 255).round().byte()
    assert torch.equal(data.images, expected)
    assert data.labels.tolist() == [0, 1]
