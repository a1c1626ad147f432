"""The Debias tab: what it shows of a run, what it starts, stops and goes on with; through its endpoints too."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from app_places import furnish, served, write_classifier
from gradio_client import Client
from gradio_client.exceptions import AppError
from test_debias_command import BRIEF, JUDGE, NAMES, run, write_set

from augment_synth.debias_config import DebiasConfig
from ui import processes
from ui.shelf import Shelf
from ui.tabs.debias_result import edits_of, group_rows, pairs_page, read_debiasing
from workbench.command import parse
from workbench.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")  # gradio's and its servers' own, in other threads
NAME = "runs/debias"
GRASS, GRAVEL = "bag: grass (background)", "boot: gravel (background)"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A served folder with a finished run, of a classifier that sees backgrounds alone."""
    root = tmp_path_factory.mktemp("place")
    furnish(root)
    write_classifier(root / "knows-both", NAMES)
    (root / "judge.py").write_text(JUDGE)
    data = write_set(root / "data" / "places")
    words = ("debias", str(data), "--classifier", f"{root / 'judge.py'}:judge", "--output", str(root / NAME), *BRIEF)
    assert run(*words) == 0
    return root


@pytest.fixture(scope="module")
def address(place: Path) -> Iterator[str]:
    with served(place) as url:
        yield url


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False)


def refusal(client: Client, *words: Any, api_name: str) -> str:
    with pytest.raises(AppError) as caught:
        client.predict(*words, api_name=api_name)
    return str(caught.value)


def until(true: Any) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# ---- what it shows ---------------------------------------------------------------------------------------------------


def test_a_run_is_read_whole(place: Path) -> None:
    assert list(Shelf(place).debiasings())[:2] == [NAME, "debias"]
    found = read_debiasing(place / NAME, NAME)
    assert "finished. Of" in found.text
    assert "2 are relied on" in found.text
    assert found.vetoes() == {GRASS: "bag:grass", GRAVEL: "boot:gravel"}
    assert found.left_out() == []
    assert found.facts["counts"]["training images"] == 60


def test_pairs_are_of_the_feature_and_flipped_first(place: Path) -> None:
    feature = read_debiasing(place / NAME, NAME).choices()[GRASS]
    rows = edits_of(place / NAME, feature)
    assert 0 < len(rows) <= 8
    assert all(row["phrase"] == "grass" and row["label"] == 0 and not row["placebo"] for row in rows)
    flips = [row["flipped"] for row in rows]
    assert flips == sorted(flips, reverse=True)
    page = pairs_page(place / NAME, feature)
    assert page.count("<img") == 2 * len(rows)  # each before and after
    assert f"gravel for grass: bag {rows[0]['p_after']:.0%}" in page
    escaped = pairs_page(place / NAME, feature | {"class": "<i>bag</i>"})
    assert "<i>bag" not in escaped


def test_damaged_edits_are_a_sentence(place: Path, tmp_path: Path) -> None:
    (tmp_path / "edits.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="the edits cannot be read"):
        edits_of(tmp_path, read_debiasing(place / NAME, NAME).features[0])


def test_groups_stand_side_by_side() -> None:
    def table(*accuracies: float) -> dict[str, Any]:
        groups = [{"group": f"g{k}", "n": 1000, "accuracy": one} for k, one in enumerate(accuracies)]
        return {"groups": groups, "worst": min(accuracies), "average": sum(accuracies) / 2}

    rows = group_rows({"accuracy": {"trained": table(0.5, 1.0), "trained with ASPIRE": table(0.9, 0.8)}})
    assert rows == [
        ["group", "images", "trained", "trained with ASPIRE"],
        ["g0", "1,000", "50.0%", "90.0%"],
        ["g1", "1,000", "100.0%", "80.0%"],
        ["worst group", "", "50.0%", "80.0%"],
        ["all images", "", "75.0%", "85.0%"],
    ]
    assert group_rows({}) == []


def test_settings_become_the_command_that_has_them(tmp_path: Path) -> None:
    asked = DebiasConfig(
        data=str(tmp_path), classifier="c", output=tmp_path / "out", veto=["a b:c", "d"], min_flip_rate=0.25,
        group_column="place",
    )  # fmt: skip
    words = processes.words_of("debias", asked)
    assert parse(DebiasConfig, words[1:], "workbench debias") == asked
    with pytest.raises(UserError, match="may begin with a hyphen"):
        processes.words_of("debias", DebiasConfig(data="d", classifier="c", output=tmp_path, veto=["--overwrite"]))


# ---- through the endpoints -------------------------------------------------------------------------------------------


def test_the_page_shows_pairs_and_hands_out_the_report(client: Client, place: Path, address: str) -> None:
    text, ranking, features, first, vetoes, groups, _, report, _ = client.predict(NAME, api_name="/show_debiased")
    assert "2 are relied on" in text
    assert ranking["data"][0][-1] == "relied on"
    assert {one[0] for one in features["choices"]} >= {GRASS, GRAVEL}
    assert "<figure>" in first
    assert vetoes["value"] == []
    assert groups["headers"][2:] == ["given classifier", "trained", "trained with ASPIRE"]
    assert Path(report["value"]).read_text().startswith("<!DOCTYPE html>")
    assert "gravel for grass" in client.predict(NAME, GRASS, api_name="/pairs")
    assert "no feature here" in refusal(client, NAME, "../x", api_name="/pairs")
    assert Path(client.predict(NAME, api_name="/pack_debiased")["value"]).stat().st_size > 1000
    made = place / NAME / "report.html"
    assert httpx.get(f"{address.rstrip('/')}/gradio_api/file={made}").status_code == 403  # the copy alone is handed out


def test_a_veto_makes_the_rest_again(client: Client, place: Path) -> None:
    edits = {path: path.stat().st_mtime_ns for path in (place / NAME / "steps").glob("edits-*")}
    assert "no feature to leave out" in refusal(client, NAME, ["bag: kite (object)"], api_name="/debias_without")
    _, told = client.predict(NAME, [GRASS], api_name="/debias_without")
    assert "(done)" in told
    found = read_debiasing(place / NAME, NAME)
    assert found.left_out() == [GRASS]
    assert "1 is relied on" in found.text
    assert {path: path.stat().st_mtime_ns for path in edits} == edits
    counts = json.loads((place / NAME / "manifest.json").read_text())["counts"]
    assert 0 < counts["synthetic images trained on"] < 60


def test_a_run_is_started_stopped_and_gone_on_with(client: Client, place: Path) -> None:
    words = ("data/places", "knows-both", "auto", "place", 20, 0.1, 10)
    assert "is no classifier here" in refusal(client, words[0], "os:system", *words[2:], api_name="/debias")
    assert "maximum value 0.9" in refusal(client, *words[:5], 7, 10, api_name="/debias")
    job = client.submit(*words, api_name="/debias")
    until(lambda: list((place / "app").glob("debiased-*/debias.yaml")))
    (folder,) = (path.parent for path in (place / "app").glob("debiased-*/debias.yaml"))
    name = folder.relative_to(place).as_posix()
    assert "runs already" in refusal(client, name, [], api_name="/debias_without")
    client.predict(name, api_name="/stop_debiasing")
    assert "(stopped)" in job.result(timeout=120)[1]
    assert "not finished" in client.predict(name, api_name="/show_debiased")[0]
    assert "was not started here, or has ended" in refusal(client, name, api_name="/stop_debiasing")
    assert "(done)" in client.predict(name, [], api_name="/debias_without")[1]
    assert "finished" in client.predict(name, api_name="/show_debiased")[0]
