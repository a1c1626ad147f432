"""Checkpoint folders by themselves: sealed, complete, newest, pruned. (In a run: test_resume.py.)"""

import json
from pathlib import Path

import pytest

from workbench import checkpoints
from workbench.errors import UserError


def make(root: Path, step: int) -> Path:
    final = checkpoints.folder_of(root, step)
    partial = final.with_suffix(".tmp")
    (partial / "part").mkdir(parents=True)
    (partial / "model.bin").write_bytes(bytes(range(step % 200, step % 200 + 50)))
    (partial / "part" / "state.json").write_text(f'{{"step": {step}}}')
    checkpoints.seal(partial, final, step)
    return final


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_sealing_renames_a_whole_folder(tmp_path: Path) -> None:
    final = make(tmp_path, 7)
    assert names(tmp_path) == ["step-00000007"]
    assert json.loads((final / "manifest.json").read_text())["files"].keys() == {"model.bin", "part/state.json"}
    assert checkpoints.is_complete(final)
    assert checkpoints.step_of(final) == 7


def test_sealing_replaces_one_of_the_same_step(tmp_path: Path) -> None:
    first = make(tmp_path, 7)
    (first / "model.bin").write_bytes(b"broken")
    (first / "extra").write_text("old")
    assert checkpoints.is_complete(make(tmp_path, 7))
    assert not (first / "extra").exists()


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"files": 3}', '{"step": 1, "files": {"gone": "0"}}'])
def test_a_bad_manifest_is_no_checkpoint(tmp_path: Path, text: str) -> None:
    (make(tmp_path, 7) / "manifest.json").write_text(text)
    assert not checkpoints.is_complete(tmp_path / "step-00000007")
    assert checkpoints.latest(tmp_path) is None


def test_the_newest_complete_one_by_number(tmp_path: Path) -> None:
    assert checkpoints.latest(tmp_path / "none yet") is None
    for step in (100, 9, 20):
        make(tmp_path, step)
    make(tmp_path, 300).rename(tmp_path / "step-00000300.tmp")
    (tmp_path / "step-00000400").mkdir()  # never sealed
    assert checkpoints.latest(tmp_path) == tmp_path / "step-00000100"
    (tmp_path / "step-00000100" / "model.bin").unlink()
    assert checkpoints.latest(tmp_path) == tmp_path / "step-00000020"


def test_choosing(tmp_path: Path) -> None:
    older, newer = make(tmp_path, 1), make(tmp_path, 2)
    assert checkpoints.choose(tmp_path, "latest") == newer
    assert checkpoints.choose(tmp_path, "none") is None
    assert checkpoints.choose(tmp_path, str(older)) == older
    (older / "model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"step-00000001 is not a complete checkpoint; .*latest, or none"):
        checkpoints.choose(tmp_path, str(older))


@pytest.mark.parametrize("keep", [1, 2, 3, 9])
def test_pruning_keeps_the_newest(tmp_path: Path, keep: int) -> None:
    made = [make(tmp_path, step) for step in (1, 2, 3, 4)]
    (tmp_path / "step-00000005.tmp").mkdir()
    checkpoints.prune(made[-1], keep)
    assert names(tmp_path) == [path.name for path in made[-keep:]]


def test_pruning_after_going_back_drops_what_came_later(tmp_path: Path) -> None:
    for step in (1, 2, 5, 6):
        make(tmp_path, step)
    checkpoints.prune(make(tmp_path, 3), 2)
    assert names(tmp_path) == ["step-00000002", "step-00000003"]
