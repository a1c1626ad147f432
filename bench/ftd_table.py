"""The tables of the distillation benchmark."""

import statistics
from collections.abc import Sequence
from typing import Any

from ftd_tasks import Task
from measured import table
from scipy import stats

Rows = Sequence[dict[str, Any]]

COLUMNS = {
    "accumulated_share": "distance, share of the way",
    "restarted_share": "restarted",
    "loss_gap": "loss gap",
    "loss_gap_restarted": "restarted",
    "loss": "student's loss",
    "loss_expert": "expert's loss",
}


def accuracy_table(task: Task, rows: Rows) -> str:
    """Accuracies by number of images, paired differences, and how far students stray."""
    parts = []
    for count in sorted({row["images_per_class"] for row in rows}):
        own = [row for row in rows if row["images_per_class"] == count]
        parts += [f"## {task.name}, images of each class: {count}", accuracies(own), strays(own)]
    return "\n\n".join(part for part in parts if part)


def accuracies(rows: Rows) -> str:
    """A row an arm: test accuracy, its spread over seeds and over networks, paired differences, and time."""
    heads = ["arm", "accuracy %", "std over networks", "minus random", "minus mtt", "seconds", "of experts", "seeds"]
    return table(heads, [_accuracy_row(rows, arm) for arm in dict.fromkeys(row["arm"] for row in rows)])


def _accuracy_row(rows: Rows, arm: str) -> list[str]:
    own = [row for row in rows if row["arm"] == arm]
    values = [100 * row["accuracy"] for row in own]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return [
        arm,
        f"{statistics.mean(values):.1f}{spread}",
        f"{100 * statistics.mean(row['std_networks'] for row in own):.1f}",
        "" if arm == "random" else paired(rows, arm, "random"),
        "" if arm == "mtt" else paired(rows, arm, "mtt"),
        f"{statistics.mean(row['seconds'] for row in own):.0f}",
        f"{statistics.mean(row['seconds_experts'] for row in own):.0f}"
        if any(r["seconds_experts"] for r in own)
        else "",
        str(len(own)),
    ]


def paired(rows: Rows, arm: str, other: str) -> str:
    """The mean difference of two arms over the seeds that both have, with its 95 % t interval."""
    found = {name: {row["seed"]: row["accuracy"] for row in rows if row["arm"] == name} for name in (arm, other)}
    both = sorted(found[arm].keys() & found[other].keys())
    differences = [100 * (found[arm][seed] - found[other][seed]) for seed in both]
    if len(differences) < 2:
        return f"{differences[0]:+.1f}" if differences else ""
    half = stats.t.ppf(0.975, len(both) - 1) * statistics.stdev(differences) / len(both) ** 0.5
    mean = statistics.mean(differences)
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def strays(rows: Rows) -> str:
    """How far students stray from experts that were not matched: after the first, the third and the last segment."""
    own = [row for row in rows if "accumulated_1" in row]
    if not own:
        return ""
    ends = sorted({int(name.rsplit("_", 1)[1]) for name in own[0] if name.startswith("accumulated_share_")})
    lines = [
        [arm, str(end), *(_mean(own, arm, f"{name}_{end}") for name in COLUMNS)]
        for arm in dict.fromkeys(row["arm"] for row in own)
        for end in ends
    ]
    told = (
        "Students trained on the set from the initial weights of experts that were not matched, and others that "
        "restart from the expert at every segment: distance from the expert as a share of its way, and test losses."
    )
    return f"{told}\n\n{table(['arm', 'segments', *COLUMNS.values()], lines)}"


def _mean(rows: Rows, arm: str, name: str) -> str:
    return f"{statistics.mean(row[name] for row in rows if row['arm'] == arm):.3f}"
