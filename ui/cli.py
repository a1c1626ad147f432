"""The `workbench` command: one word for each thing a person does, each with its own --help and nothing heavy before.

A sub-command's module is imported only when it is called, so that `--help` answers at once.
"""

import importlib
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "quickstart": ("ui.quickstart:main", "the main job on real images: train, generate, measure, report"),
    "run": ("ui.run:main", "a recipe file: the quickstart on your data, or a training run's config.yaml again"),
    "train": ("ui.train:main", "train a generator, or what explanations are made with"),
    "sample": ("gen.sample:main", "generate a data set with a trained generator"),
    "inpaint": ("ui.inpaint:inpaint", "fill the holes of pictures, in several ways each"),
    "classify": ("ui.classify:classify", "train or evaluate a classifier"),
    "explain": ("ui.explain:explain", "show what a classifier looks at, and measure the maps"),
    "caption": ("ui.caption:caption", "train a small captioner of your own pictures"),
    "segment": ("ui.segment:segment", "train a small network that cuts out what you point at"),
    "debias": ("ui.debias:main", "find what a classifier wrongly relies on, and train it away"),
    "distill": ("ui.distill:main", "distil a data set to a few images of each class"),
    "datasheet": ("ui.datasheet:datasheet", "measure a data set against real images"),
    "verify": ("ui.records:verify", "check a data set's files, counts and labels"),
    "export": ("ui.records:export", "convert a data set: folder, parquet, WebDataset"),
    "ui": ("ui.serve:main", "all of this in a browser"),
    "doctor": ("ui.doctor:doctor", "find what is wrong with this installation"),
    "env": ("ui.doctor:env", "what a bug report should say about this machine"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one sub-command; exits with 2 after a mistake."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
    elif words[0] in ("--version", "-V"):
        from workbench import __version__

        print(f"workbench {__version__}")
    elif words[0] in COMMANDS:
        module, function = COMMANDS[words[0]][0].split(":")
        getattr(importlib.import_module(module), function)(words[1:], f"workbench {words[0]}")
    else:
        _unknown(words[0])


def overview() -> str:
    """What `workbench --help` says."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: workbench COMMAND ...",
            "",
            "Generate, measure and document image data sets for training classifiers.",
            "",
            *lines,
            "",
            "`workbench COMMAND --help` explains one. Begin with `workbench quickstart`.",
        ]
    )


def _unknown(word: str) -> None:
    import difflib

    near = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(COMMANDS)}"
    print(f"error: there is no command {word!r}; {hint}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
