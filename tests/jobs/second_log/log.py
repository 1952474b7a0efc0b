"""A newspaper's log of three days, small enough to check by hand, and how its tables are made."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

from jobs import build_tables, ingest_log, pack_examples
from jobs.command import run_job
from jobs.config import REPOSITORY
from jobs.delta import live_commits, open_table, read_days

CONTRACT = REPOSITORY / "tests" / "data" / "second_log" / "contract.yaml"
DAYS = [date(2024, 3, day) for day in (1, 2, 3)]
TABLES = (
    "impressions",
    "outcomes",
    "events",
    "attributes_readers",
    "quarantine",
    "labels",
    "entity_features",
    "timelines",
    "examples",
)


def epoch(day: int, hour: int, minute: int = 0) -> int:
    """Seconds since 1970 of a moment in New York, five hours behind UTC."""
    return int(datetime(2024, 3, day, hour, minute, tzinfo=UTC).timestamp()) + 5 * 3600


VIEWS = {
    # (view_no, reader, creative, slot, epoch, px, price, agreed)
    1: [
        (1, "ann", "c1", "front", epoch(1, 10), 100, 0.5, "y"),
        (2, "bob", "c1", "article", epoch(1, 12), 50, "", "y"),
        (3, "ann", "c2", "front", epoch(1, 23, 50), "", "", "y"),
        (4, "cat", "c1", "front", epoch(1, 13), 100, "", "n"),
    ],
    2: [
        (5, "ann", "c1", "front", epoch(2, 0, 10), 100, "", "y"),
        (1, "ann", "c1", "front", epoch(1, 10), 100, 0.5, "y"),  # sent again
        (6, "bob", "c1", "app_home", epoch(2, 9), 100, "", "y"),
        (7, "bob", "c1", "shelf", epoch(2, 9), 100, "", "y"),
        (8, "ann", "c2", "front", "soon", 100, "", "y"),
        (9, "dan", "c2", "article", epoch(1, 22), 100, "", "y"),  # a day late
    ],
    3: [
        (10, "ann", "c1", "front", epoch(2, 7), 100, "", "y"),  # later than its click
        (11, "ann", "c1", "front", epoch(3, 8), 100, "", "y"),
        (12, "bob", "c2", "article", epoch(3, 9), 100, "", "y"),
        (6, "bob", "c1", "app_home", epoch(2, 9), 100, "", "y"),  # sent again
    ],
}
RESULTS = {
    # (no, view_no, kind, epoch, amount)
    1: [
        (1, 1, "click", epoch(1, 10, 5), ""),
        (2, 1, "subscribe", epoch(1, 20), 9.5),
    ],
    2: [
        (3, 3, "click", epoch(1, 23, 58), ""),
        (4, 5, "click", epoch(2, 0, 20), ""),
        (5, 10, "click", epoch(2, 8), ""),
    ],
    3: [
        (6, 2, "subscribe", epoch(2, 11), 9.5),  # in its window, but after the label matured
        (7, 6, "subscribe", epoch(3, 8), 9.5),
    ],
}
READING = {
    # (no, reader, article, section, act, epoch)
    1: [
        (1, "ann", "a1", "news", "read", epoch(1, 9)),
        (2, "bob", "a1", "news", "read", epoch(1, 12, 30)),
    ],
    2: [(3, "ann", "a2", "news", "read", epoch(2, 0, 5))],
}
READERS = {
    1: [("ann", "free"), ("bob", "free")],
    2: [("ann", "gold"), ("bob", "free")],
    3: [("ann", "gold"), ("bob", "free")],
}


def write_log(folder):
    """The log's files, each day's in its own."""

    def text(path, header, rows, sep):
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [sep.join(str(value) for value in row) for row in [header.split(), *rows]]
        path.write_text("\n".join(lines) + "\n")

    for day in DAYS:
        n = day.day
        header = "view_no reader creative slot epoch px price agreed"
        text(folder / "views" / f"{day}" / "part.csv", header, VIEWS[n], ";")
        header = "no view_no kind epoch amount"
        text(folder / "results" / f"{day}.csv", header, RESULTS[n], ",")
        text(folder / "readers" / f"{day}.csv", "reader plan", READERS[n], ",")
        if n in READING:
            names = ("no", "reader", "article", "section", "act", "epoch")
            rows = [json.dumps(dict(zip(names, row, strict=True))) for row in READING[n]]
            (folder / "reading").mkdir(exist_ok=True)
            (folder / "reading" / f"{day}.jsonl").write_text("\n".join(rows) + "\n")


def run(spark, config):
    """The data half: ingest, all tables, packed arrays; the ingest's summary."""
    summary = run_job(config, ingest_log.build, spark=spark)
    run_job(config, build_tables.build, spark=spark)
    run_job(config, pack_examples.run)
    return summary


def table(config, name, key, *columns):
    rows = read_days(config.table(name)).to_pylist()
    assert len({row[key] for row in rows}) == len(rows)
    return {row[key]: tuple(row[c] for c in columns) for row in rows}


def digests(config):
    return {
        name: {
            day: commit.digest
            for day, commit in live_commits(open_table(config.table(name))).items()
        }
        for name in TABLES
    }
