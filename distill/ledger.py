"""Figures that are kept as they are measured, so that a long evaluation can be stopped and gone on with."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from workbench.files import make_folder, user_errors_for_disk, write_atomic

Figures = dict[str, dict[str, float]]  # name -> mean, std over networks, and n of these


class Ledger:
    """Figures by name, in a file beside the output until all are there; what the file has is not measured again."""

    def __init__(self, output: Path | None, asked: Mapping[str, Any]) -> None:
        self.output, self.asked = output, json.loads(json.dumps(asked))
        self.partial = output.with_name(output.name + ".partial") if output else None
        self.figures: Figures = {}
        if self.partial and self.partial.exists():
            stored = json.loads(self.partial.read_text())
            self.figures = stored["figures"] if stored["asked"] == self.asked else {}
        PartialState().wait_for_everyone()  # all look before one writes

    def note(self, name: str, accuracies: Callable[[], list[float]]) -> None:
        """Measure what is not there yet."""
        if name not in self.figures:
            self._keep(name, summary(accuracies()))

    def difference(self, name: str, first: str, second: str) -> None:
        """One mean less another, with the spread of two independent figures; over the smaller number of networks."""
        one, other = self.figures[first], self.figures[second]
        spread = (one["std"] ** 2 + other["std"] ** 2) ** 0.5
        self._keep(name, {"mean": one["mean"] - other["mean"], "std": spread, "n": min(one["n"], other["n"])})

    def close(self) -> Figures:
        """Give the file its name; returns all figures."""
        if self.output and self.partial and PartialState().is_main_process:
            write_atomic(self.output, json.dumps({**self.asked, "figures": self.figures}, indent=1) + "\n")
            self.partial.unlink()
        return self.figures

    def _keep(self, name: str, figure: dict[str, float]) -> None:
        self.figures[name] = figure
        if self.partial and PartialState().is_main_process:
            with user_errors_for_disk(self.partial):
                make_folder(self.partial.parent)
                write_atomic(self.partial, json.dumps({"asked": self.asked, "figures": self.figures}))


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation over networks, and their number."""
    return {"mean": statistics.mean(values), "std": statistics.stdev(values) if values[1:] else 0.0, "n": len(values)}
