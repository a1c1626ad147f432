"""The whole chain: that it finds a planted block, what it says, what it leaves out, and what it writes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from colour_blocks import HEIGHT, WIDTH, blocks, colour_classifier
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor
from toy_classifiers import linear, quadrants

import explain.vale as vale_module
from explain.describe import Description, NoDescriber
from explain.facts import Facts
from explain.prompts import Prompts
from explain.region_views import RegionViews
from explain.report import read_result
from explain.segment import open_segmenter
from explain.vale import LONGEST, Vale, ValeExplanation
from explain.vale_files import write_vale
from explain.vale_page import add_vale
from explain.verification import Verification
from workbench.errors import UserError
from workbench.report import Report

NASTY = "</script><script>alert(1)</script> **bold** `code`"


class Talker:
    """Says something nasty, and remembers what it was shown."""

    name, trained = "talker", True

    def __init__(self) -> None:
        self.told: list[Facts] = []

    def describe(self, views: RegionViews, facts: Facts) -> tuple[Description, ...]:
        self.told.append(facts)
        return (Description(NASTY, "talker", notes=("a note",)),)


class Everything:
    """A segmenter whose masks are the whole picture, and that counts its embeddings."""

    name, trained, classical = "everything", True, True

    def __init__(self) -> None:
        self.embedded = 0

    def embed(self, image: UInt8[Tensor, "3 h w"]) -> tuple[int, int]:
        self.embedded += 1
        return image.shape[1], image.shape[2]

    def masks(self, embedding: Any, prompts: Prompts) -> tuple[Bool[Tensor, "n h w"], Float[Tensor, " n"]]:
        return torch.ones(1, *embedding, dtype=torch.bool), torch.full((1,), torch.nan)


def vale(**changes: Any) -> Vale:
    parts = {"segmenter": open_segmenter("threshold"), "describer": NoDescriber(), "budget": 200}
    return Vale(colour_classifier(), **{**parts, **changes})


@pytest.fixture(scope="module")
def explanation() -> ValeExplanation:
    return vale(describer=Talker()).explain(blocks(1)[0][0], why_not="blue", name="block")


def test_it_finds_the_block(explanation: ValeExplanation) -> None:
    _, colours, masks = blocks(1)
    [finding] = explanation.findings
    assert finding.attribution.target == int(colours[0, 0])
    assert finding.mask is not None
    truth = masks[0, 0]
    assert (finding.mask & truth).sum() / (finding.mask | truth).sum() > 0.6
    verified = finding.facts.verifications[0]
    assert verified.remove < verified.probability
    assert verified.remove < verified.control_remove
    assert verified.keep > verified.control_keep
    assert finding.facts.region is not None
    assert finding.facts.region.evidence > 0.6
    assert set(finding.seconds) == {"attribute", "prompt", "segment", "verify", "describe"}


def test_the_text_is_of_measured_figures(explanation: ValeExplanation) -> None:
    [finding] = explanation.findings
    one = finding.facts.verifications[0]
    assert f"{one.remove:.1%} instead of {one.probability:.1%}" in finding.text
    assert "Why not blue?" in finding.text
    assert NASTY not in finding.text


def test_a_comparison_is_the_difference_of_two_maps(explanation: ValeExplanation) -> None:
    [finding] = explanation.findings
    every = finding.attribution.all_values
    assert every is not None
    assert finding.contrast is not None
    assert torch.equal(finding.contrast, finding.attribution.values - every[2])
    assert finding.facts.why_not_verifications[0].target == 2


def test_the_same_class_is_not_compared_with_itself() -> None:
    image, colours, _ = blocks(1)
    [finding] = vale().explain(image[0], why_not=int(colours[0, 0])).findings
    assert finding.contrast is None
    assert finding.facts.why_not is None


def test_one_embedding_serves_all_classes() -> None:
    segmenter = Everything()
    found = vale(segmenter=segmenter).explain(blocks(1, objects=2)[0][0], "top2")
    assert len(found.findings) == 2
    assert segmenter.embedded == 1


def test_masks_of_a_further_segmenter_are_candidates_and_the_better_one_is_named(tmp_path: Path) -> None:
    several = vale(segmenter=Everything(), others=(open_segmenter("threshold"),))
    found = several.explain(blocks(1)[0][0])
    [finding] = found.findings
    assert [one.segmenter for one in finding.candidates] == ["everything", several.others[0].name]
    assert finding.chosen == 1
    assert finding.facts.stability is None or finding.facts.stability == 1  # the evidence whatever the points
    write_vale(found, tmp_path)
    report = Report("test")
    add_vale(report, tmp_path)
    assert f"drawn by {several.others[0].name}" in report.html()


def test_a_mask_that_is_not_the_evidence_is_no_region() -> None:
    talker = Talker()
    [finding] = vale(segmenter=Everything(), describer=talker).explain(blocks(1)[0][0]).findings
    assert finding.mask is None
    assert finding.control is not None
    assert finding.control.evidence > 0.5  # the evidence itself would have done better
    assert finding.facts.region is None
    assert any("no segment will do" in warning for warning in finding.facts.warnings)
    assert "the strongest half of what speaks for" in finding.text
    assert talker.told == []


def test_a_mask_that_does_no_more_than_others_is_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures are those of regions elsewhere; with a little more to it, it is one."""
    talker, image = Talker(), blocks(1)[0][0]

    def verified(more: float, nothing: float = 0.0) -> list[Verification]:
        return [Verification(0, "mean", 0.9, 0.5 + more, 0.8, 0.5, 0.8, nothing)]

    monkeypatch.setattr(vale_module, "verify_region", lambda *args, **options: verified(0.02, nothing=0.52))
    assert vale().explain(image).findings[0].mask is None
    monkeypatch.setattr(vale_module, "verify_region", lambda *args, **options: verified(0.0))
    [finding] = vale(describer=talker).explain(image).findings
    assert finding.mask is None
    assert finding.facts.region is None
    assert finding.facts.verifications == ()
    assert any("regions of its shape elsewhere" in one.rejected for one in finding.candidates)
    assert any("no segment will do" in warning for warning in finding.facts.warnings)
    assert talker.told == []
    monkeypatch.setattr(vale_module, "verify_region", lambda *args, **options: verified(0.02))
    assert vale().explain(image).findings[0].mask is not None


def test_a_flat_picture_has_no_region() -> None:
    flat = linear(torch.zeros(3, HEIGHT, WIDTH))
    [finding] = replace(vale(), classifier=flat).explain(torch.full((3, HEIGHT, WIDTH), 99, dtype=torch.uint8)).findings
    assert finding.prompts is None
    assert finding.candidates == ()
    assert finding.control is None
    assert any("no part of the picture speaks for class" in warning for warning in finding.facts.warnings)
    assert any("not certain" in warning for warning in finding.facts.warnings)


def test_a_class_that_is_seen_in_the_hidden_picture_is_said_to_be_that() -> None:
    """A picture that is red all over, and only a little less so in one place: the mean colour is red as well."""
    red = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    red[0] = 200
    red[0, :8, :8] = 150
    [finding] = vale().explain(red).findings
    assert finding.facts.base > 0.9
    hidden = f"the probability is {finding.facts.base:.1%} even with the whole picture in the mean colour"
    assert any(hidden in warning for warning in finding.facts.warnings)
    corner = torch.full((3, HEIGHT, WIDTH), 25, dtype=torch.uint8)
    corner[:, : HEIGHT // 2, : WIDTH // 2] = 230
    [other] = replace(vale(), classifier=quadrants(HEIGHT, WIDTH)).explain(corner).findings
    assert not any("even with the whole picture" in warning for warning in other.facts.warnings)


def test_log_odds_are_told_and_the_hidden_picture_is_a_probability_all_the_same() -> None:
    image = blocks(1)[0][0]
    [plain], [odds] = (vale(scale=scale).explain(image).findings for scale in ("probability", "log-odds"))
    assert odds.facts.base == pytest.approx(plain.facts.base)
    assert odds.facts.scale == "log-odds"
    assert "measured in log-odds" in odds.text


def test_a_class_that_is_not_there_is_said_to_be_that() -> None:
    images, colours, _ = blocks(1)
    other = (int(colours[0, 0]) + 1) % 3
    sure = replace(vale(), classifier=colour_classifier(scale=200))
    [finding] = sure.explain(images[0], other).findings
    assert any("hardly sees" in warning for warning in finding.facts.warnings)


def test_untrained_parts_are_refused() -> None:
    talker = Talker()
    talker.trained = False  # type: ignore[misc]
    with pytest.raises(UserError, match="not trained"):
        vale(describer=talker)


def test_stages_are_told_as_they_begin() -> None:
    told: list[str] = []
    vale(budget=20).explain(blocks(1)[0][0], report=told.append)
    assert told == ["attribute", "prompt", "segment", "verify", "describe"]


def test_gray_and_large_pictures(tmp_path: Path) -> None:
    large = torch.full((1, 900, 1400), 100, dtype=torch.uint8)
    large[:, 300:600, 400:900] = 250
    found = vale(budget=60).explain(large)
    assert max(found.picture.shape) == LONGEST
    write_vale(found, tmp_path)
    stem = json.loads((tmp_path / "vale.json").read_text())["findings"][0]["file"]
    assert np.load(tmp_path / f"{stem}.npy").shape == (900, 1400)


# ---- files and page --------------------------------------------------------------------------------------------------


def test_files_are_what_was_found(explanation: ValeExplanation, tmp_path: Path) -> None:
    write_vale(explanation, tmp_path, {"seed": 3})
    result = json.loads((tmp_path / "vale.json").read_text())
    [finding], [found] = explanation.findings, result["findings"]
    assert result["seed"] == 3
    assert result["classical_segmentation"]
    assert found["text"] == finding.text
    assert found["descriptions"][0]["text"] == NASTY
    assert found["facts"]["verifications"][0]["remove"] == finding.facts.verifications[0].remove
    values = np.load(tmp_path / f"{found['file']}.npy")
    assert values.sum() + found["attribution"]["base"] == pytest.approx(found["attribution"]["fx"], abs=1e-4)
    mask = np.asarray(Image.open(tmp_path / f"{found['file']}-mask.png")) > 0
    assert (mask == finding.mask.numpy()).all()  # type: ignore[union-attr]
    for ending in ("kept", "removed", "region", "contrast", "candidate-0"):
        assert (tmp_path / f"{found['file']}-{ending}.png").exists()


def test_the_page_shows_everything_and_runs_nothing(explanation: ValeExplanation, tmp_path: Path) -> None:
    write_vale(explanation, tmp_path)
    report = Report("x")
    add_vale(report, tmp_path)
    page = report.html()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; **bold** `code`" in page
    assert "generated text, may be wrong: talker" in page
    assert 'class="statement measured"' in page
    assert "classical segmentation" in page
    assert page.count("<img") >= 6


def test_the_page_of_nothing(tmp_path: Path) -> None:
    flat = linear(torch.zeros(3, HEIGHT, WIDTH))
    found = replace(vale(), classifier=flat).explain(torch.full((3, HEIGHT, WIDTH), 99, dtype=torch.uint8))
    write_vale(found, tmp_path)
    report = Report("x")
    add_vale(report, tmp_path)
    assert "Nobody described the region" in report.html()
    with pytest.raises(FileNotFoundError):
        read_result(tmp_path)  # vale.json alone
