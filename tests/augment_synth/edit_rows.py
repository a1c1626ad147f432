"""Edit rows for tests."""

from typing import Any

from augment_synth.edit_log import EditRow


def row(**changes: Any) -> EditRow:
    """An edit that was made and flipped nothing, but for the changes."""
    values: dict[str, Any] = {
        "image_id": "0", "position": 0, "label": 0, "kind": "background", "phrase": "grass", "replaced_by": "gravel",
        "placebo": False, "made": True, "p_before": 0.9, "p_after": 0.8, "pred_before": 0, "pred_after": 0,
        "flipped": False, "label_change": 0.0, "seed": 0, "png": b"",
    }  # fmt: skip
    return EditRow(**(values | changes))


def rows(flips: int, n: int, **changes: Any) -> list[EditRow]:
    """So many edits, of which so many flipped."""
    return [row(image_id=str(k), position=k, flipped=k < flips, **changes) for k in range(n)]
