"""Why the labels of one impression are what they are: each outcome, and whether it counts.

The rule of `jobs/spark/labels.py`, told for a single row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from jobs.config import day_of
from jobs.contract import LogContract, Task

COUNTED = "counted"


def explain_labels(
    contract: LogContract,
    shown: Mapping[str, Any],
    outcomes: Sequence[Mapping[str, Any]],
    label: Mapping[str, Any],
    repaired_until: date | None,
) -> dict[str, dict[str, Any]]:
    """Each task's label with its window, its maturity and the outcomes behind it.

    Args:
        contract: The log contract.
        shown: The impression's row.
        outcomes: The outcomes of the impression.
        label: The impression's row of `labels`; empty if there is none yet.
        repaired_until: Arrival day that a repair of the impression's day has reached.

    Returns:
        By task. `label` is null until it is mature; `follows` is what the outcomes give now, which
        differs from it where some arrived again since the label was built.
    """
    found = {}
    for name, task in contract.tasks.items():
        told = _explain(contract, task, task.window, shown, outcomes, repaired_until)
        told["label"] = label.get(f"label_{name}")
        seconds = label.get(f"zipper_seconds_{name}")
        if seconds is not None:
            window = timedelta(seconds=seconds)
            zipper = _explain(contract, task, window, shown, outcomes, repaired_until)
            told["zipper"] = {**zipper, "label": label.get(f"zipper_label_{name}")}
        found[name] = told
    return found


def _explain(
    contract: LogContract,
    task: Task,
    window: timedelta,
    shown: Mapping[str, Any],
    outcomes: Sequence[Mapping[str, Any]],
    repaired_until: date | None,
) -> dict[str, Any]:
    closes: datetime = shown["event_ts"] + window
    mature_ts = max(closes, shown["known_ts"])
    mature_day = day_of(mature_ts, contract.time_zone)
    until = max(mature_day, repaired_until or mature_day)
    known = [row for row in outcomes if row["day"] <= until]
    clicks = [row["event_ts"] for row in known if row["outcome_type"] in task.clicks]
    behind = []
    for row in sorted(outcomes, key=lambda row: (row["event_ts"], row["outcome_id"])):
        if row["outcome_type"] not in task.read_types:
            continue
        if row["event_ts"] > closes:
            verdict = f"past the window, which closed {closes:%Y-%m-%d %H:%M:%S}"
        elif row["day"] > until:
            verdict = f"arrived on {row['day']}; the label counts what was known by {until}"
        elif row["outcome_type"] not in task.outcomes:
            verdict = "a click"
        elif task.attribution == "click_through" and not any(
            click <= row["event_ts"] for click in clicks
        ):
            verdict = "no click came before it"
        else:
            verdict = COUNTED
        behind.append({**row, "verdict": verdict})
    return {
        "window": window,
        "attribution": task.attribution,
        "mature_ts": mature_ts,
        "mature_day": mature_day,
        "counts_until": until,
        "follows": int(any(row["verdict"] == COUNTED for row in behind)),
        "outcomes": behind,
    }
