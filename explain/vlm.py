"""A vision-language model asked about a region: first without the label, then with it, then with a wrong one.

Any model of transformers' image-text-to-text task with a chat template: SmolVLM, LLaVA, Qwen-VL. Its answers are
untrusted text: tidied, held against the facts (`explain.claims`), and shown with the model's name.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import UInt8
from torch import Tensor

from explain.claims import agreement, claims, tidied
from explain.describe import SPEC_HELP, Description
from explain.facts import Facts, block
from explain.region_views import RegionViews
from workbench.errors import UserError

PROMPTS = Path(__file__).parent / "prompts_text"
MAX_NEW_TOKENS = 160
UNTRAINED = "untrained"  # in a folder's name: for tests of the plumbing, never for a result
TOLD_WRONG = (
    "a control: {author} was told the wrong class {label}; where it goes along, its text on the right one says little"
)


class VisionLanguageModel:
    """A model, its processor, and the questions it is asked."""

    def __init__(self, model: Any, processor: Any, name: str, prompts: Mapping[str, str], prompt: str) -> None:
        self.model, self.processor, self.name = model, processor, name
        self.prompts, self.prompt = prompts, prompt
        self.trained = UNTRAINED not in Path(name).name

    @classmethod
    def load(cls, name: str, device: str = "cpu", prompts: str = "default") -> "VisionLanguageModel":
        """From a folder or the hub's cache; what is in neither is downloaded. Raises `UserError` where it cannot be
        had, is of another kind, or lacks weights."""
        asked = read_prompts(prompts)
        model, processor = _open(name, device)
        if not getattr(processor, "chat_template", None):
            raise UserError(f"{name} has no chat template, so it cannot be asked: choose an instruction model")
        return cls(model.to(device).eval(), processor, name, asked, prompts)

    def describe(self, views: RegionViews, facts: Facts) -> tuple[Description, ...]:
        """What it sees without the label, with it, and with the runner-up's in its place."""
        pictures = (views.region, views.outlined)
        wrong = next((name for name, _ in facts.predictions if name != facts.label), None)
        found = [self._describe(pictures, self.prompts["blind"], facts)]
        for label in filter(None, (facts.label, wrong)):
            found.append(self._describe(pictures, self.prompts["informed"], facts, label))
        return tuple(found)

    def _describe(
        self, pictures: Sequence[UInt8[Tensor, "3 _ _"]], question: str, facts: Facts, label: str | None = None
    ) -> Description:
        control = label not in (None, facts.label)
        told = "" if control else block(facts)  # the figures belong to the right class
        text, finished = self.answer(pictures, question.format(label=label, facts=told))
        text, notes = tidied(text, finished)
        if not text:
            notes = (*notes, f"{self.name} had nothing to say; the measured sentences stand alone")
        if control:
            notes = (TOLD_WRONG.format(author=self.name, label=label), *notes)
        blind = label is None  # who was told the class agrees on it, which says nothing
        verdict = agreement(text, facts.label, dict(facts.predictions)) if blind else "unclear"
        checked = tuple(claim for claim in claims(text, facts) if blind or (not control and claim.about != "class"))
        return Description(text, self.name, self.prompt, label, control, verdict, checked, notes)

    @torch.no_grad()
    def answer(self, pictures: Sequence[UInt8[Tensor, "3 _ _"]], question: str) -> tuple[str, bool]:
        """Its most likely words on some pictures and a question, and whether it came to an end by itself."""
        content = [{"type": "image", "image": _pillow(picture)} for picture in pictures]
        message = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
        inputs = self.processor.apply_chat_template(
            [message], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self.model.device)
        written = self.model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        new = written[:, inputs["input_ids"].shape[1] :]
        text = self.processor.batch_decode(new, skip_special_tokens=True)[0]
        return str(text), new.shape[1] < MAX_NEW_TOKENS


def read_prompts(name: str) -> dict[str, str]:
    """The questions of a YAML file, ours by name (default, sonar, paper) or another by path: `blind` and `informed`.

    Raises `UserError` where there is no such file, or it lacks one.
    """
    path = PROMPTS / f"{name}.yaml" if (PROMPTS / f"{name}.yaml").is_file() else Path(name)
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        ours = ", ".join(sorted(file.stem for file in PROMPTS.glob("*.yaml")))
        raise UserError(f"there are no prompts {name!r}: give {ours}, or a YAML file of your own") from error
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in ("blind", "informed")):
        raise UserError(f"{path} is no file of prompts: write a text each for `blind` and `informed`")
    try:
        for question in found.values():
            str(question).format(label="", facts="")
    except (LookupError, ValueError) as error:
        raise UserError(f"{path}: only {{label}} and {{facts}} may stand in braces") from error
    return found


def _open(name: str, device: str) -> tuple[Any, Any]:
    """From disk where all of it is there, else from the hub."""
    try:
        return _from_pretrained(name, device, local_files_only=True)
    except Exception as error:  # the hub and the libraries each fail in types of their own
        if isinstance(error, UserError) or Path(name).is_dir():
            raise _unusable(name, error) from error
    try:
        return _from_pretrained(name, device, local_files_only=False)
    except Exception as error:
        raise _unusable(name, error) from error


def _from_pretrained(name: str, device: str, local_files_only: bool) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    dtype = torch.float32 if device == "cpu" else "auto"
    options = {"local_files_only": local_files_only, "trust_remote_code": False}
    processor = AutoProcessor.from_pretrained(name, **options)
    model, loading = AutoModelForImageTextToText.from_pretrained(
        name, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
    )
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise UserError(f"{name} lacks trained weights ({missing} ...), and random ones mean nothing; give {SPEC_HELP}")
    return model, processor


def _unusable(name: str, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(f"{name} cannot be opened as a vision-language model ({reason}); give {SPEC_HELP}")


def _pillow(picture: UInt8[Tensor, "3 h w"]) -> Any:
    from PIL import Image

    return Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy())
