"""Who describes a region in words: a vision-language model, a small captioner of ours, or nobody.

    describer = open_describer("auto")
    for description in describer.describe(region_views(image, mask), facts):
        print(description.author, description.text)

The measured sentences (`explain.facts`) stand in every explanation, whoever describes. What a describer adds is
generated text: it says how the region looks to it, carries its author's name, and is no evidence of anything.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from explain.claims import Claim, Verdict
from explain.facts import Facts
from explain.region_views import RegionViews
from workbench.errors import UserError

DEFAULT = "HuggingFaceTB/SmolVLM-256M-Instruct"
ZOO = Path(__file__).parents[1] / "zoo"
SMALL_CAPTIONER = "zoo:small-captioner"
TEMPLATE = "template"
SPEC_HELP = (
    f"auto, template, {SMALL_CAPTIONER}, the folder of a captioner or of an image-text-to-text model, or the name of "
    f"such a model on the hub, such as {DEFAULT}"
)


@dataclass(frozen=True)
class Description:
    """A generated text and where it comes from: `author` is the badge it must be shown with."""

    text: str
    author: str
    prompt: str = ""  # its name
    label_given: str | None = None  # the class that the author was told, if any
    control: bool = False  # the class told was a wrong one, to see whether the author goes along with it
    agreement: Verdict = "unclear"  # whether the text names the class explained
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()


@runtime_checkable
class Describer(Protocol):
    """Writes about a region; several texts, or none. `trained` is False for random weights, which nobody may show."""

    name: str
    trained: bool

    def describe(self, views: RegionViews, facts: Facts) -> tuple[Description, ...]: ...


class NoDescriber:
    """The measured sentences alone."""

    name, trained = "template, no language model", True

    def describe(self, views: RegionViews, facts: Facts) -> tuple[Description, ...]:
        """Nothing: all that can be said without a model is in the facts."""
        return ()


def open_describer(spec: str = "auto", device: str = "cpu", prompts: str = "default") -> Describer:
    """The describer that `spec` names; `prompts` as in `explain.vlm.read_prompts`.

    auto: SmolVLM where it is on disk, else our captioner of the zoo, else none; only a model that is named is ever
    downloaded. Raises `UserError` for a spec that names nothing, weights that cannot be had or are of another kind, and
    a model that is not trained.
    """
    describer = _first_at_hand(device, prompts) if spec == "auto" else _named(spec, device, prompts)
    if not describer.trained:
        raise UserError(f"{describer.name} is not trained, and what it writes means nothing; give {SPEC_HELP}")
    return describer


def _first_at_hand(device: str, prompts: str) -> Describer:
    if on_disk(DEFAULT):
        return _named(DEFAULT, device, prompts)
    small = ZOO / SMALL_CAPTIONER.removeprefix("zoo:")
    return _named(SMALL_CAPTIONER, device, prompts) if small.is_dir() else NoDescriber()


def _named(spec: str, device: str, prompts: str) -> Describer:
    if spec == TEMPLATE:
        return NoDescriber()
    from explain.captioner import CaptionDescriber, Captioner, captioner_folder

    folder = captioner_folder(spec)
    if folder is not None:
        return CaptionDescriber(Captioner.load(folder, device), spec)
    from explain.vlm import VisionLanguageModel

    return VisionLanguageModel.load(spec, device, prompts)


def on_disk(name: str) -> bool:
    """Whether the hub's cache holds a model's settings and weights."""
    from huggingface_hub import try_to_load_from_cache

    files = ("config.json", "model.safetensors")
    return all(isinstance(try_to_load_from_cache(name, file), str) for file in files)
