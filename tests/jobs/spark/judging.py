"""Raw rows as they are read, and a log to judge them by."""

from __future__ import annotations

from datetime import date

from pyspark.sql import functions as F

from jobs.contract import LogContract
from jobs.spark.raw import ADDED
from tests.jobs.samples import contract
from tests.jobs.spark.frames import by, frame

FIRST = date(2024, 3, 1)
SHOWN = "id string, user string, ad string, place string, at timestamp, known timestamp"
FOLDERS = {
    "feeds__shown__path": "shown/{day}",
    "feeds__acts__path": "acts/{day}",
    "feeds__visits__path": "visits/{day}",
}

PAST = {
    "kind": "sequences",
    "path": "past.parquet",
    "user_id": "user",
    "last_ts": "at",
    "spacing": "10s",
    "surface": "old",
    "sequences": {"seen": "seen"},
}
USERS = {
    "kind": "attributes",
    "entity": "user",
    "path": "users.parquet",
    "key": "user",
    "known_ts": "known",
    "attributes": {"city": "place"},
}


def raw(spark, schema, *rows, folder=None, bad=None):
    """Raw rows as `read_feed` returns them."""
    df = frame(spark, schema, *rows)
    given = {"_source_file": "file", "_folder_day": folder, "_bad_column": bad, "_bad_row": None}
    assert set(given) == set(ADDED)
    kinds = dict.fromkeys(given, "string") | {"_folder_day": "date"}
    return df.withColumns({n: F.lit(v).cast(kinds[n]) for n, v in given.items()})


def log(**changes) -> LogContract:
    """The small contract, reading plain timestamps."""
    times = {
        f"feeds__{feed}__{name}": {"column": column}
        for feed in ("shown", "acts", "visits")
        for name, column in (("event_ts", "at"), ("known_ts", "known"))
    }
    shown = {"feeds__shown__context": {"position": {"expr": "3"}}}
    return contract(**{**times, **shown, **changes})


def verdict_by(judged, key="id"):
    return by(judged, key, "_verdict")
