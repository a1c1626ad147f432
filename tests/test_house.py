"""The house holds: arrows run one way, files stay short, help answers at once, documented commands exist."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ui.cli import COMMANDS, overview

ROOT = Path(__file__).parents[1]
STAGES = ("workbench", "gen", "explain", "distill", "augment_synth", "ui")
ALLOWED = {  # who may import whom, besides itself
    "workbench": set(),
    "gen": {"workbench"},
    "explain": {"workbench"},
    "distill": {"workbench", "gen", "explain"},
    "augment_synth": {"workbench", "gen", "explain"},
    "ui": {"workbench", "gen", "explain", "distill", "augment_synth"},
}
FILES = [path for stage in STAGES for path in sorted((ROOT / stage).rglob("*.py"))]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
HELP_SECONDS = 0.7
TRIES = 5


def imported(path: Path) -> set[str]:
    """First words of all modules that a file imports, at any depth of nesting."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_run_one_way(path: Path) -> None:
    stage = path.relative_to(ROOT).parts[0]
    others = imported(path) & {*STAGES, "bench", "tests"} - {stage}
    assert others <= ALLOWED[stage]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_can_be_read_in_a_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_functions_are_short() -> None:
    lengths = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno is not None
                lengths.append((node.end_lineno - node.lineno + 1, f"{path.name}:{node.name}"))
    lengths.sort()
    assert lengths[len(lengths) // 2][0] <= 12
    assert lengths[len(lengths) * 9 // 10][0] <= 40
    assert lengths[-1][0] <= 90, lengths[-1]


def test_no_file_shadows_a_dependency() -> None:
    """`python gen/train.py` puts gen/ first on the import path."""
    dependencies = {"datasets", "diffusers", "transformers", "accelerate", "torch", "shap", "gradio", "inspect"}
    for stage in STAGES[1:]:
        assert not dependencies & {path.stem for path in (ROOT / stage).glob("*.py")}


def run(*words: str, **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, **options)  # type: ignore[call-overload]


HELPS = [
    *([name, "--help"] for name in COMMANDS),
    ["train", "rpe2d", "--help"],
    ["train", "ttame", "--help"],
    ["train", "inpaint", "--help"],
    ["train", "pixel", "--help"],
    ["classify", "train", "--help"],
    ["classify", "eval", "--help"],
]


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_answers_at_once(words: list[str]) -> None:
    """The best of a few tries, because a busy machine can only make it slower."""
    seconds = []
    for _ in range(TRIES):
        began = time.perf_counter()
        answer = run("-m", "ui.cli", *words)
        seconds.append(time.perf_counter() - began)
        assert answer.returncode == 0, answer.stderr
        assert "usage:" in answer.stdout
        if seconds[-1] < HELP_SECONDS:
            return
    pytest.fail(f"workbench {' '.join(words)} took {min(seconds):.2f} s")


@pytest.mark.parametrize("script", ["gen/train.py", "gen/sample.py", "distill/train.py", "explain/train.py"])
def test_scripts_answer_too_from_another_folder(script: str, tmp_path: Path) -> None:
    answer = run(str(ROOT / script), "--help", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr


def test_overview_names_every_command() -> None:
    assert all(re.search(rf"^  {name} ", overview(), re.MULTILINE) for name in COMMANDS)


def test_unknown_commands_are_a_sentence() -> None:
    answer = run("-m", "ui.cli", "quickstrat")
    assert answer.returncode == 2
    assert answer.stderr == "error: there is no command 'quickstrat'; did you mean 'quickstart'?\n"


def test_readme_reading_order_exists() -> None:
    section = (ROOT / "README.md").read_text().split("## Read the code")[1].split("\n## ")[0]
    named = re.findall(r"\]\(([\w/]+\.py)\)", section)
    assert len(named) == 6
    assert all((ROOT / path).exists() for path in named)


def test_links_in_documents_exist() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_dependencies_import_together() -> None:
    names = "torch torchvision diffusers transformers accelerate segment_anything shap gradio datasets torchmetrics"
    answer = run("-c", f"import {', '.join(names.split())}, safetensors")
    assert answer.returncode == 0, answer.stderr


def test_the_product_never_reads_the_neighbours() -> None:
    for path in [*FILES, *sorted((ROOT / "tests").rglob("*.py"))]:
        if path != Path(__file__):
            assert "/shared/" not in path.read_text(), path


def test_constraints_pin_names_and_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[\w.-]+==[\w.+!-]+|#.*|", line), line


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_recipe_files_are_understood(path: Path) -> None:
    from ui.run import config_of

    text = path.read_text()
    assert config_of(yaml.safe_load(text)) is not None
    for word in ("command:", "time:", "machine:", "expect:"):
        assert f"# {word}" in text, f"{path.name} does not say its {word}"
