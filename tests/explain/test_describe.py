"""Describers: who is opened, who is refused, and what a vision-language model is asked and allowed to say."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_facts import box, facts
from tiny_vlms import save_idefics3, save_llava

from explain import describe, vlm
from explain.claims import Claim
from explain.describe import NoDescriber, open_describer
from explain.region_views import RegionViews, region_views
from explain.vlm import PROMPTS, VisionLanguageModel, read_prompts
from workbench.errors import UserError

SAVE = {"llava": save_llava, "idefics3": save_idefics3}


@pytest.fixture(scope="module", params=list(SAVE))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each family, under a name that says what its weights are."""
    return SAVE[request.param](tmp_path_factory.mktemp("vlm") / f"untrained-{request.param}")


@pytest.fixture(scope="module")
def views() -> RegionViews:
    image = torch.randint(0, 255, (3, 24, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return region_views(image, box(4, 6, 10, 12))


class Scripted(VisionLanguageModel):
    """A model that says what the test wants, and remembers what it was asked."""

    def __init__(self, *answers: tuple[str, bool]) -> None:
        super().__init__(None, None, "scripted", read_prompts("default"), "default")
        self.answers, self.asked = iter(answers), []  # type: tuple[Any, list[str]]

    def answer(self, pictures: Any, question: str) -> tuple[str, bool]:
        assert [picture.shape[0] for picture in pictures] == [3, 3]
        self.asked.append(question)
        return next(self.answers)


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_it_is_asked_blind_then_informed_then_misled(views: RegionViews) -> None:
    model = Scripted(("A brown ankle boot.", True), ("The laces fit.", True), ("Its strap fits.", True))
    blind, informed, control = model.describe(views, facts())
    assert "ankle boot" not in model.asked[0]
    assert "93.1%" in model.asked[1]
    assert "bag" in model.asked[2]
    assert "93.1%" not in model.asked[2]
    assert (blind.label_given, informed.label_given, control.label_given) == (None, "ankle boot", "bag")
    assert (blind.agreement, informed.agreement) == ("yes", "unclear")
    assert [(claim.about, claim.agrees) for claim in blind.claims] == [("class", True), ("colour", True)]
    assert control.control
    assert "control" in control.notes[0]
    assert control.claims == ()


def test_what_it_was_told_is_no_agreement(views: RegionViews) -> None:
    model = Scripted(("A thing.", True), ("An ankle boot, blue.", True), ("A bag.", True))
    _, informed, _ = model.describe(views, facts())
    assert informed.agreement == "unclear"
    assert informed.claims == (Claim("colour", "blue", "brown", False),)


def test_nothing_and_ramblings_are_said_to_be_that(views: RegionViews) -> None:
    model = Scripted(("  ", True), ("Fine. " * 40 + "and so", False), ("Removing it lowers p to 0.2.", True))
    silent, rambling, figures = model.describe(views, facts())
    assert silent.text == ""
    assert "nothing to say" in silent.notes[-1]
    assert rambling.text == "Fine."
    assert any("too long" in note for note in rambling.notes)
    assert figures.text == ""


def test_a_picture_of_one_class_has_no_control(views: RegionViews) -> None:
    alone = replace(facts(), predictions=(("ankle boot", 1.0),))
    assert len(Scripted(("A.", True), ("B.", True)).describe(views, alone)) == 2


# ---- real classes, random weights ------------------------------------------------------------------------------------


def test_models_of_transformers_answer(folder: Path, views: RegionViews, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a real one: processor, pictures, generation; the words mean nothing."""
    monkeypatch.setattr(vlm, "MAX_NEW_TOKENS", 6)
    model = VisionLanguageModel.load(str(folder))
    text, finished = model.answer((views.region, views.outlined), "describe the boot .")
    assert text == model.answer((views.region, views.outlined), "describe the boot .")[0]
    assert "<image>" not in text
    assert len(text.split()) <= 6
    assert isinstance(finished, bool)


def test_random_weights_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="is not trained"):
        open_describer(str(folder))


def test_missing_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    weights = load_file(copy / "model.safetensors")
    dropped = next(name for name in weights if "norm" in name)
    save_file({k: v for k, v in weights.items() if k != dropped}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks trained weights"):
        open_describer(str(copy))


def test_without_a_chat_template_nobody_can_ask(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        open_describer(str(copy))


# ---- who is opened ---------------------------------------------------------------------------------------------------


def test_auto_without_models_is_the_template(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(describe, "on_disk", lambda name: False)
    monkeypatch.setattr(describe, "ZOO", tmp_path)
    found = open_describer("auto")
    assert isinstance(found, NoDescriber)
    assert "no language model" in found.name


@pytest.mark.parametrize("spec", ["nobody/knows-this-model", "zoo:nobody", "."])
def test_what_names_nothing_is_a_sentence(spec: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="workbench caption train" if "zoo" in spec else "cannot be opened"):
        open_describer(spec)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no prompts"),
        ("blind: x", "a text each"),
        ("- x", "a text each"),
        ("blind: '{x}'\ninformed: y", "braces"),
    ],
)
def test_bad_prompts_are_a_sentence(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_prompts(str(path))


@pytest.mark.parametrize("path", sorted(PROMPTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_our_prompts_ask_blind_without_the_label(path: Path) -> None:
    prompts = read_prompts(path.stem)
    assert "{" not in prompts["blind"]
    assert "{label}" in prompts["informed"]
