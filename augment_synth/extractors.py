"""From captions to features: by rules, or by an instruction model that answers in JSON and is asked at most twice."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from augment_synth.components import Component
from augment_synth.features import Features, rule_features
from workbench.errors import UserError

RULES = "rules"
MAX_NEW_TOKENS = 200
INSTRUCTION = """A picture's caption and its label are given. Answer with one JSON object and nothing else:
{{"foreground": [phrases of the caption that name objects, none of which means the label, even by another name],
"background": "the one main background that the caption names, or nothing",
"alternate": "a background that could be there instead, or nothing"}}
Caption: a small dog lying on a bed next to a coke can
Label: dog
{{"foreground": ["coke can"], "background": "bed", "alternate": "playground"}}
Caption: {caption}
Label: {label}
"""
AGAIN = "That was no JSON object with foreground (a list of texts), background and alternate (texts). Answer again.\n"


@runtime_checkable
class Extractor(Protocol):
    """Features of pairs of caption and label."""

    component: Component

    @property
    def notes(self) -> tuple[str, ...]: ...  # what must be known of the answers so far

    def extract(self, pairs: Sequence[tuple[str, str]]) -> list[Features]: ...


class RuleExtractor:
    """`features.rule_features`, with words that mean a label besides its own."""

    component = Component("extract", RULES, "offline_standin", "rules for prepositions, and a list of places")
    notes: tuple[str, ...] = ()

    def __init__(self, synonyms: Mapping[str, Sequence[str]] | None = None) -> None:
        self.synonyms = synonyms or {}

    def extract(self, pairs: Sequence[tuple[str, str]]) -> list[Features]:
        """One each."""
        return [rule_features(caption, label, self.synonyms.get(label, ())) for caption, label in pairs]


class LanguageModelExtractor:
    """Any function from a prompt to a text. Broken answers are asked for once more, then left to the rules."""

    def __init__(self, ask: Callable[[str], str], rules: RuleExtractor, name: str) -> None:
        self.ask, self.rules = ask, rules
        self.asked = self.retries = self.left_to_rules = 0
        self.component = Component("extract", name, "real", "JSON, one retry, else rules")

    @classmethod
    def load(cls, name: str, rules: RuleExtractor, device: str = "cpu") -> "LanguageModelExtractor":
        """A text-generation model of transformers, by folder or hub name."""
        from transformers import pipeline

        try:
            generate = pipeline("text-generation", model=name, device=device, model_kwargs={"use_safetensors": True})
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{name} cannot be opened as a language model ({str(error).splitlines()[0]}); give the folder or hub "
                "name of an instruction model, or --extractor rules"
            ) from error
        chat = bool(getattr(generate.tokenizer, "chat_template", None))

        def ask(prompt: str) -> str:
            asked: Any = [{"role": "user", "content": prompt}] if chat else prompt
            [said] = generate(asked, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, return_full_text=False)
            return str(said["generated_text"])

        return cls(ask, rules, name)

    @property
    def notes(self) -> tuple[str, ...]:
        """How often its answers were no JSON of the form that was asked for."""
        if not self.retries:
            return ()
        return (
            f"{self.component.name}: {self.retries} of {self.asked} answers were broken and asked for again, and "
            f"{self.left_to_rules} were broken then too and left to the rules",
        )

    def extract(self, pairs: Sequence[tuple[str, str]]) -> list[Features]:
        """One each; equal pairs are asked once."""
        known = {pair: self._one(*pair) for pair in dict.fromkeys(pairs)}
        return [known[pair] for pair in pairs]

    def _one(self, caption: str, label: str) -> Features:
        self.asked += 1
        prompt = INSTRUCTION.format(caption=caption, label=label)
        said = self.ask(prompt)
        found = parsed(said)
        if found is None:
            self.retries += 1
            found = parsed(self.ask(prompt + AGAIN))
        if found is None:
            self.left_to_rules += 1
            return self.rules.extract([(caption, label)])[0]
        return found


def parsed(said: str) -> Features | None:
    """The features in an answer, wherever in it the JSON object stands; None where it is broken or of another form."""
    match = re.search(r"\{.*?\}", said, re.DOTALL)
    try:
        answer = json.loads(match[0]) if match else None
    except ValueError:
        return None
    if not isinstance(answer, dict) or not _texts(answer.get("foreground")):
        return None
    background, alternate = (answer.get(key) or None for key in ("background", "alternate"))
    if not all(text is None or isinstance(text, str) for text in (background, alternate)):
        return None
    objects = tuple(dict.fromkeys(text.strip().lower() for text in answer["foreground"] if text.strip()))
    return Features(objects, background and background.lower(), alternate and alternate.lower(), said)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def open_extractor(spec: str, synonyms: Mapping[str, Sequence[str]], device: str = "cpu") -> Extractor:
    """rules, or an instruction model's folder or hub name."""
    rules = RuleExtractor(synonyms)
    return rules if spec == RULES else LanguageModelExtractor.load(spec, rules, device)
