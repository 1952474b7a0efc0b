"""A shop whose ads have a title and a text, and what a run of it embeds."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa

from jobs import delta, embed_content
from jobs.command import JobSummary, run_job
from jobs.config import RunConfig, day_of, day_start
from jobs.contract import LogContract
from tests.jobs import samples

ADS: dict[str, Any] = {
    "kind": "attributes",
    "entity": "ad",
    "path": "ads/{day}.jsonl",
    "format": "jsonl",
    "key": "ad",
    "known_ts": {"column": "at", "unit": "us"},
    "attributes": {"title": "title", "text": "text", "brand": "brand"},
}
CONTENT = {
    "feed": "ads",
    "fields": ["title", "text"],
    "encoder": {"kind": "tfidf_svd", "dim": 4, "num_buckets": 256},
}
TABLE = "attributes_ads"
FIRST = date(2024, 3, 1)

Row = tuple[str, datetime, str | None, str | None]
"""Item, when its text became known, title, text."""


def contract(content: dict[str, Any] | None = None, **changes: Any) -> LogContract:
    """The small contract with ads that have content."""
    values = {"feeds__ads": ADS, "content": content or CONTENT, **changes}
    return samples.contract(**values)


def config(
    home: object,
    day: date,
    run_id: str | None = None,
    content: dict[str, Any] | None = None,
    **changes: Any,
) -> RunConfig:
    """A run of a day; its training cut-off is the day's start."""
    settings = samples.recipe(contract(content, **changes))
    return samples.run_config(home, settings, day, run_id=run_id or f"run-{day}")


def moment(day: date, hours: float) -> datetime:
    """Hours after a day's start in the contract's time zone."""
    return (day_start(day, samples.ZONE) + timedelta(hours=hours)).astimezone(UTC)


def arrive(config: RunConfig, rows: Iterable[Row]) -> None:
    """Make the ads' table hold rows, each on the day on which it became known."""
    by_day: dict[date, list[Row]] = {}
    for row in rows:
        by_day.setdefault(day_of(row[1], samples.ZONE), []).append(row)
    for day, some in by_day.items():
        item, known, title, text = zip(*some, strict=True)
        table = pa.table(
            {
                "entity_id": pa.array(item, pa.string()),
                "known_ts": pa.array(known, pa.timestamp("us", "UTC")),
                "ad_title": pa.array(title, pa.string()),
                "ad_text": pa.array(text, pa.string()),
                "ad_brand": pa.array(["some"] * len(some), pa.string()),
            }
        )
        uri = config.table(TABLE)
        order = ["entity_id", "known_ts", "ad_title"]
        delta.write_arrow_day(uri, table, day, order, samples.COMMIT)


def embed(config: RunConfig) -> JobSummary:
    """Run the job."""
    return run_job(config, embed_content.run)


def vectors(config: RunConfig) -> dict[tuple[str, str, str], list[float]]:
    """Vectors by item, content hash and encoder version."""
    rows = delta.read_days(config.table("content_embeddings")).to_pylist()
    found = {
        (row["item_id"], row["content_hash"], row["encoder_version"]): row["vector"] for row in rows
    }
    assert len(found) == len(rows)
    return found
