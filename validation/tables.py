"""Table contracts: the columns of every table, with their Spark SQL types.

A transform ends in a `select` of exactly these columns, and a write of anything else is refused.
Columns that a log contract adds (context, attributes, counts, labels) are passed in by name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

Columns = dict[str, str]

EVENTS: Columns = {
    "event_id": "string",
    "user_id": "string",
    "item_id": "string",
    "surface": "string",
    "event_type": "string",
    "value": "double",
    "event_ts": "timestamp",
    "known_ts": "timestamp",
    "time_is_synthetic": "boolean",
    "impression_id": "string",
    "day": "date",
}

OUTCOMES: Columns = {
    "outcome_id": "string",
    "impression_id": "string",
    "outcome_type": "string",
    "value": "double",
    "event_ts": "timestamp",
    "known_ts": "timestamp",
    "day": "date",
}

QUARANTINE: Columns = {
    "feed": "string",
    "reason": "string",
    "source_file": "string",
    "row": "string",
    "day": "date",
}

TIMELINES: Columns = {
    "user_id": "string",
    "num_prior": "int",
    "num_cut": "int",
    "event_type": "array<string>",
    "surface": "array<string>",
    "item_id": "array<string>",
    "value": "array<double>",
    "event_ts": "array<timestamp>",
    "known_ts": "array<timestamp>",
    "time_is_synthetic": "array<boolean>",
    "day": "date",
}


def impressions(context: Mapping[str, str]) -> Columns:
    """One ad shown; `day` is the arrival day, `event_day` the day it was shown."""
    return {
        "impression_id": "string",
        "user_id": "string",
        "ad_id": "string",
        "surface": "string",
        "event_ts": "timestamp",
        "known_ts": "timestamp",
        "bid": "double",
        "propensity": "double",
        **context,
        "event_day": "date",
        "day": "date",
    }


def attributes(names: Sequence[str], bags: Collection[str] = ()) -> Columns:
    """Attributes of one user or ad from `known_ts` on; undated ones are known since 1970.

    Those in `bags` are lists.
    """
    return {
        "entity_id": "string",
        "known_ts": "timestamp",
        **{name: "array<string>" if name in bags else "string" for name in names},
        "day": "date",
    }


def label_columns(tasks: Sequence[str], zippers: Sequence[str] = ()) -> Columns:
    """Labels as examples hold them.

    A label is null until `mature_ts_<task>` has passed. A task with a Zipper has a second one,
    under the window of `zipper_seconds_<task>` that its impression was assigned.
    """
    columns: Columns = {}
    for task in tasks:
        columns[f"label_{task}"] = "tinyint"
        columns[f"mature_ts_{task}"] = "timestamp"
    for task in zippers:
        columns[f"zipper_label_{task}"] = "tinyint"
        columns[f"zipper_mature_ts_{task}"] = "timestamp"
        columns[f"zipper_seconds_{task}"] = "int"
    return columns


def labels(tasks: Sequence[str], zippers: Sequence[str] = ()) -> Columns:
    """One impression; `is_mature_<task>` says that the window has closed and the label is known."""
    return {
        "impression_id": "string",
        "event_ts": "timestamp",
        **label_columns(tasks, zippers),
        **{f"is_mature_{task}": "boolean" for task in tasks},
        "day": "date",
    }


def count_columns(counts: Sequence[str], windows_days: Sequence[int]) -> list[str]:
    """Names of an entity's counts: `<count>_<window>d`."""
    return [f"{count}_{window}d" for count in counts for window in windows_days]


def last_columns(recency: Iterable[str]) -> list[str]:
    """Names of an entity's moments: `<count>_last_ts`."""
    return [f"{count}_last_ts" for count in recency]


def recency_columns(recency: Mapping[str, Sequence[str]]) -> list[str]:
    """Names of the moments that examples hold: `<entity>_<count>_last_ts`."""
    return [f"{entity}_{count}_last_ts" for count in recency for entity in recency[count]]


def entity_features(
    counts: Sequence[str], windows_days: Sequence[int], recency: Iterable[str] = ()
) -> Columns:
    """Counts of one entity over the last days, `day` included.

    Of the counts in `recency` also when the last event of the longest window became known.
    """
    return {
        "entity": "string",
        "key": "string",
        **dict.fromkeys(count_columns(counts, windows_days), "bigint"),
        **dict.fromkeys(last_columns(recency), "timestamp"),
        "day": "date",
    }


def examples(
    categorical: Sequence[str],
    numeric: Sequence[str],
    count_features: Sequence[str],
    tasks: Sequence[str],
    recency_features: Sequence[str] = (),
    zippers: Sequence[str] = (),
    bags: Sequence[str] = (),
) -> Columns:
    """One impression with everything a model reads; `day` is the day it was shown.

    `history_end` points into the user's timeline of the day: a model reads the N events before it.
    """
    base = {
        "impression_id": "string",
        "user_id": "string",
        "ad_id": "string",
        "surface": "string",
        "hour": "string",
        "event_ts": "timestamp",
        "known_ts": "timestamp",
        "domain": "string",
        "vertical": "string",
        "history_end": "int",
    }
    return {
        **base,
        **{name: "string" for name in categorical if name not in base},
        **dict.fromkeys(bags, "array<string>"),
        **dict.fromkeys(numeric, "double"),
        **dict.fromkeys(count_features, "bigint"),
        **dict.fromkeys(recency_features, "timestamp"),
        **label_columns(tasks, zippers),
        "day": "date",
    }
