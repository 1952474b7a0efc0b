"""Labels: which outcomes followed an impression within a task's attribution window.

A label is mature once its window has closed and its impression has arrived; until then it is null.
It counts the outcomes that were known by the end of the day on which it matured, so that it is the
same in every later run. What arrives later than that is the business of label repair: a day that
was repaired also counts what was known by the end of the day that the repair's ledger names.

A task with a Zipper has a second label, under the one window that its impression was assigned.

Paper: Lattice (arXiv 2512.09200), Zipper.
Differs: the hash is of the impression's id, which stands for user, ad and time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import accumulate
from typing import TYPE_CHECKING

from jobs.contract import Task
from jobs.spark.raw import local_day
from validation import tables

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_HASH_BITS = 52


@dataclass(frozen=True)
class _Rule:
    """What makes one label."""

    name: str
    """The task's name."""
    label: str
    mature_ts: str
    task: Task
    seconds: Column
    """Attribution window."""


def label_rows(
    impressions: DataFrame,
    outcomes: DataFrame,
    tasks: Mapping[str, Task],
    last_day: date,
    time_zone: str,
    repaired_until: Mapping[date, date],
) -> DataFrame:
    """Label impressions.

    Args:
        impressions: Columns `impression_id`, `event_ts`, `known_ts`, `event_day`, `day`.
        outcomes: The outcomes table's columns.
        tasks: Tasks by name.
        last_day: Last arrival day that the tables hold.
        time_zone: The time zone that defines a day.
        repaired_until: By day of impression, the arrival day up to which outcomes count even after
            their label has matured; none for a day that was never repaired.

    Returns:
        The labels table's columns; `day` is the day of the impression. An outcome whose own clock
        lies before its impression's counts too, except where a click has to come first.
    """
    from pyspark.sql import functions as F

    until = _until(repaired_until)
    columns: list[Column] = []
    for rule in _rules(tasks):
        mature_ts = _mature_ts(rule)
        mature_day = local_day(mature_ts, time_zone)
        known = F.col("outcome_day") <= F.greatest(mature_day, until)
        mature = F.max(mature_day) <= F.lit(last_day)
        label = F.when(mature, _positive(rule, known)).cast("tinyint")
        columns += [label.alias(rule.label), F.max(mature_ts).alias(rule.mature_ts)]
    for name, task in _zippers(tasks).items():
        columns.append(F.max(zipper_seconds(task)).alias(f"zipper_seconds_{name}"))
    grouped = _joined(impressions, outcomes, "left").groupBy("impression_id")
    rows = grouped.agg(
        F.max("event_ts").alias("event_ts"), F.max("event_day").alias("day"), *columns
    )
    mature = {f"is_mature_{name}": F.col(f"label_{name}").isNotNull() for name in tasks}
    return rows.withColumns(mature).select(*tables.labels(list(tasks), list(_zippers(tasks))))


def late_outcomes(
    impressions: DataFrame, outcomes: DataFrame, tasks: Mapping[str, Task], time_zone: str
) -> DataFrame:
    """Days of impressions with a label that an outcome might have changed, had it come in time.

    Args:
        impressions: As `label_rows` takes them.
        outcomes: The outcomes that are asked about.
        tasks: Tasks by name.
        time_zone: The time zone that defines a day.

    Returns:
        `day` of the impressions, `num_late` outcomes, and the `last_day` on which one arrived.
    """
    from pyspark.sql import functions as F

    late = F.lit(False)
    for rule in _rules(tasks):
        decides = F.col("outcome_type").isin(sorted(rule.task.read_types))
        matured = local_day(_mature_ts(rule), time_zone)
        late |= decides & _within(rule) & (F.col("outcome_day") > matured)
    return (
        _joined(impressions, outcomes, "inner")
        .where(late)
        .groupBy(F.col("event_day").alias("day"))
        .agg(F.count(F.lit(1)).alias("num_late"), F.max("outcome_day").alias("last_day"))
    )


def changed_labels(
    held: DataFrame, new: DataFrame, impressions: DataFrame, tasks: Mapping[str, Task]
) -> DataFrame:
    """Mature labels that differ, a row each.

    Args:
        held: The labels table's columns, before.
        new: The same afterwards.
        impressions: Gives the `surface` of each impression.
        tasks: Tasks by name.

    Returns:
        `impression_id`, `day`, `surface`, `task`, `column`, `before`, `after` and `mature_ts`.
    """
    from pyspark.sql import functions as F

    each = [
        F.struct(
            F.lit(rule.name).alias("task"),
            F.lit(rule.label).alias("column"),
            F.col(f"held.{rule.label}").alias("before"),
            F.col(f"new.{rule.label}").alias("after"),
            F.col(f"new.{rule.mature_ts}").alias("mature_ts"),
        )
        for rule in _rules(tasks)
        if rule.label in held.columns
    ]
    both = held.alias("held").join(new.alias("new"), on=["impression_id", "day"], how="inner")
    pairs = both.select("impression_id", "day", F.explode(F.array(*each)).alias("of"))
    changed = pairs.select("impression_id", "day", "of.*").where(F.col("before") != F.col("after"))
    shown = impressions.select("impression_id", "surface")
    # Few change: they go to the impressions, not the impressions to them.
    return shown.join(F.broadcast(changed), on="impression_id", how="inner").select(
        "impression_id", "day", "surface", "task", "column", "before", "after", "mature_ts"
    )


def zipper_seconds(task: Task) -> Column:
    """The window that an impression is assigned: a function of its id and the task's seed alone."""
    from pyspark.sql import functions as F

    salted = F.concat(F.lit(f"{task.zipper_seed}:"), F.col("impression_id"))
    digits = F.substring(F.sha2(salted, 256), 1, _HASH_BITS // 4)
    drawn = F.conv(digits, 16, 10).cast("bigint")
    ends = zipper_ends(task)
    chosen = F.lit(None).cast("int")
    for window, end in reversed(list(zip(task.zipper_windows, ends, strict=True))):
        chosen = F.when(drawn < end, F.lit(int(window.total_seconds()))).otherwise(chosen)
    return chosen


def zipper_ends(task: Task) -> list[int]:
    """Where each window's share of the hashes ends."""
    windows = task.zipper_windows
    shares = task.zipper_shares or [1.0 / len(windows)] * len(windows)
    ends = [round(total * (1 << _HASH_BITS)) for total in accumulate(shares)]
    return [*ends[:-1], 1 << _HASH_BITS]


def _rules(tasks: Mapping[str, Task]) -> Iterator[_Rule]:
    from pyspark.sql import functions as F

    for name, task in tasks.items():
        seconds = F.lit(int(task.window.total_seconds()))
        yield _Rule(name, f"label_{name}", f"mature_ts_{name}", task, seconds)
    for name, task in _zippers(tasks).items():
        seconds = zipper_seconds(task)
        yield _Rule(name, f"zipper_label_{name}", f"zipper_mature_ts_{name}", task, seconds)


def _zippers(tasks: Mapping[str, Task]) -> dict[str, Task]:
    return {name: task for name, task in tasks.items() if task.zipper_windows}


def _joined(impressions: DataFrame, outcomes: DataFrame, how: str) -> DataFrame:
    from pyspark.sql import functions as F

    happened = outcomes.select(
        "impression_id",
        "outcome_type",
        F.col("event_ts").alias("outcome_ts"),
        F.col("day").alias("outcome_day"),
    )
    return impressions.join(happened, on="impression_id", how=how)


def _mature_ts(rule: _Rule) -> Column:
    from pyspark.sql import functions as F

    return F.greatest(_closes(rule), F.col("known_ts"))


def _closes(rule: _Rule) -> Column:
    from pyspark.sql import functions as F

    return F.col("event_ts") + F.make_dt_interval(secs=rule.seconds)


def _within(rule: _Rule) -> Column:
    from pyspark.sql import functions as F

    return F.col("outcome_ts") <= _closes(rule)


def _positive(rule: _Rule, known: Column) -> Column:
    """1 where an outcome followed in time, else 0; over the rows of one impression."""
    from pyspark.sql import functions as F

    followed = F.col("outcome_type").isin(rule.task.outcomes) & _within(rule) & known
    if rule.task.attribution == "view_through":
        return F.max(F.when(followed, F.lit(1)).otherwise(F.lit(0)))
    clicked = F.col("outcome_type").isin(rule.task.clicks) & known
    first_click = F.min(F.when(clicked, F.col("outcome_ts")))
    last_outcome = F.max(F.when(followed, F.col("outcome_ts")))
    return F.coalesce((last_outcome >= first_click).cast("int"), F.lit(0))


def _until(repaired_until: Mapping[date, date]) -> Column:
    """By the impression's day, the arrival day that its repair reaches to; null for none."""
    from pyspark.sql import functions as F

    if not repaired_until:
        return F.lit(None).cast("date")
    pairs = [F.lit(day) for pair in sorted(repaired_until.items()) for day in pair]
    return F.create_map(*pairs)[F.col("event_day")]
