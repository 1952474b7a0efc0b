"""Gate `examples` (2): one example per impression, nothing from the future in it, usual base rates?

Reads `examples`, `impressions` and `timelines` at the versions the run built. Writes the verdict.

    python -m jobs.gate_examples --config var/runs/<run>/config.json
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when imported.
from __future__ import annotations

from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import delta
from jobs.command import JobSummary, main, read_summary
from jobs.config import RunConfig, day_start
from jobs.days import arrival_days, shown_days
from jobs.errors import GateFailed
from jobs.gating import gate
from jobs.training.inputs import timeline_rows


def run(config: RunConfig) -> JobSummary:
    """Judge the days that the run built."""
    import pandas as pd

    from validation.frames import EXAMPLE_DAYS, EXAMPLE_TASKS

    built = read_summary(config, "build_tables").outputs
    days = shown_days(config)
    examples = delta.read_days(config.table("examples"), days, version=built["examples"])
    shown = delta.read_days(
        config.table("impressions"), arrival_days(config), ["impression_id", "event_day"]
    )
    shown = shown.filter(pc.is_in(shown["event_day"], value_set=pa.array(days)))
    leaking = _leaks(config, examples, built["timelines"])
    records = [_day(config, day, examples, shown, leaking) for day in days]
    tasks = [_task(config, task, examples) for task in config.contract.tasks]
    frames = {
        "days": pd.DataFrame(
            [r for r in records if r["impressions"]], columns=pd.Index(EXAMPLE_DAYS)
        ),
        "tasks": pd.DataFrame(tasks, columns=pd.Index(EXAMPLE_TASKS)),
    }
    verdict = gate(config, "examples", frames)
    if not verdict.passed:
        raise GateFailed(verdict.reason)
    return JobSummary(
        job="gate_examples",
        inputs={name: built[name] for name in ("examples", "timelines")},
        rows={"examples": examples.num_rows},
        details={"gate": verdict.summary(), "tasks": tasks},
    )


def _day(
    config: RunConfig, day: date, examples: pa.Table, shown: pa.Table, leaking: np.ndarray
) -> dict[str, Any]:
    here = pc.equal(examples["day"], pa.scalar(day))
    own = examples.filter(here)
    ids = own["impression_id"]
    impressions = shown.filter(pc.equal(shown["event_day"], pa.scalar(day)))
    without = pc.invert(pc.is_in(impressions["impression_id"], value_set=ids.combine_chunks()))
    return {
        "day": day.isoformat(),
        "impressions": impressions.num_rows,
        "examples": own.num_rows,
        "missing": int(pc.sum(without).as_py() or 0),
        "duplicates": own.num_rows - pc.count_distinct(ids).as_py(),
        "leaks": int(leaking[here.to_numpy(zero_copy_only=False)].sum()),
        "null_labels_ratio": _null_ratio(config, own),
    }


def _null_ratio(config: RunConfig, examples: pa.Table) -> float:
    """Share of labels that are null though their window closed before the run's last midnight."""
    closed = pa.scalar(day_start(config.plan.day, config.contract.time_zone))
    due, null = 0, 0
    for task in config.contract.tasks:
        mature = pc.less(examples[f"mature_ts_{task}"], closed)
        due += pc.sum(mature).as_py() or 0
        null += pc.sum(pc.and_(mature, pc.is_null(examples[f"label_{task}"]))).as_py() or 0
    return null / due if due else 0.0


def _task(config: RunConfig, task: str, examples: pa.Table) -> dict[str, Any]:
    """Base rate of the labels that matured on the run's day, beside that of earlier ones."""
    start = day_start(config.plan.day, config.contract.time_zone)
    now = _matured(examples, task, start, config.plan.gate_end)
    before = _matured(_earlier(config, task), task, None, start)
    rate = pc.mean(now).as_py() if len(now) else float("nan")
    usual = pc.mean(before).as_py() if len(before) else float("nan")
    shift = abs(rate / usual - 1.0) if len(before) and usual else 0.0
    return {
        "task": task,
        "rows": len(now),
        "rate": rate,
        "rate_before": usual,
        "rate_shift_ratio": shift,
    }


def _matured(
    examples: pa.Table, task: str, after: datetime | None, until: datetime
) -> pa.ChunkedArray:
    """Labels of a task that matured in (after, until]."""
    mature = examples[f"mature_ts_{task}"]
    inside = pc.less_equal(mature, pa.scalar(until))
    if after is not None:
        inside = pc.and_(inside, pc.greater(mature, pa.scalar(after)))
    return examples[f"label_{task}"].filter(inside).drop_null()


def _earlier(config: RunConfig, task: str) -> pa.Table:
    """Examples of the days whose labels matured in the week before the run's day."""
    uri = config.table("examples")
    held = [d for d in delta.partition_days(delta.open_table(uri)) if d < config.plan.day]
    num_days = 7 + config.contract.tasks[task].window.days
    return delta.read_days(uri, held[-num_days:], [f"label_{task}", f"mature_ts_{task}"])


def _leaks(config: RunConfig, examples: pa.Table, version: int | None) -> np.ndarray:
    """Whether a row's history shows an event known at or after its impression, or ends nowhere.

    Looks at the event just before `history_end`: timelines are sorted by `known_ts`, so if that one
    was known before the impression, all were.
    """
    days = sorted(set(examples["day"].to_pylist()))
    timelines = delta.read_days(
        config.table("timelines"), days, ["user_id", "day", "known_ts"], version=version
    )
    row = timeline_rows(examples, timelines)
    lengths = pc.list_value_length(timelines["known_ts"]).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    known = (
        pa.chunked_array(
            [chunk.flatten() for chunk in timelines["known_ts"].chunks],
            type=timelines["known_ts"].type.value_type,
        )
        .cast(pa.timestamp("us", "UTC"))
        .cast(pa.int64())
        .to_numpy()
    )
    end = examples["history_end"].to_numpy().astype(np.int64)
    shown = examples["event_ts"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    beyond = end > lengths[row]
    last = known[np.maximum(offsets[row] + np.minimum(end, lengths[row]) - 1, 0)]
    return beyond | ((end > 0) & (last >= shown))


if __name__ == "__main__":
    main(run, __doc__)
