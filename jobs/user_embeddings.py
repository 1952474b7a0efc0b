"""The table of users' vectors: a row per user, moment and teacher that wrote it.

A vector holds what had become known of a user by `as_of`, by a teacher that had learnt nothing
after it. Its numbers are bytes of eight bits, to be multiplied by `scale`; see
`model.representations.quantise`. Rows lie under the local day of `as_of`.
"""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs import delta
from jobs.config import RunConfig
from jobs.errors import ConfigError

TABLE = "user_embeddings"
ORDER = ["as_of", "user_id"]
"""Columns that order a day's rows; together they are its key."""
SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "as_of": pa.timestamp("us", "UTC"),
        "trained_until": pa.timestamp("us", "UTC"),
        "teacher_run": pa.string(),
        "reason": pa.string(),
        "num_events": pa.int32(),
        "dim": pa.int32(),
        "scale": pa.float32(),
        "vector": pa.binary(),
    }
)


def write_vectors(
    config: RunConfig, rows: pa.Table, inputs: Mapping[str, int | None]
) -> tuple[dict[date, int], int | None]:
    """Write vectors, a commit per day; a day that holds exactly them already is left alone.

    Args:
        config: The run's configuration.
        rows: Columns of `SCHEMA`.
        inputs: Versions of the tables that they were made from.

    Returns:
        Rows by day, and the table's version.
    """
    check_vectors(rows)
    uri, zone, run = config.table(TABLE), config.contract.time_zone, config.run
    commit = {
        "run_id": run.run_id,
        "config_hash": run.config_hash,
        "code_hash": run.code_hash,
        "inputs": dict(inputs),
    }
    local = days_of(rows["as_of"], zone)
    written: dict[date, int] = {}
    for day in sorted(set(local.to_pylist())):
        own = rows.filter(pc.equal(local, day))
        delta.write_arrow_day(uri, own, day, ORDER, commit)
        written[day] = own.num_rows
    return written, delta.latest_version(uri)


def days_of(moments: pa.ChunkedArray, time_zone: str) -> pa.ChunkedArray:
    """Local days of moments."""
    return pc.local_timestamp(moments.cast(pa.timestamp("us", time_zone))).cast(pa.date32())


def read_vectors(
    config: RunConfig, days: tuple[date, date], lookback_days: int, dim: int, version: int | None
) -> pa.Table:
    """Vectors that impressions of some days may read.

    Args:
        config: The run's configuration.
        days: First and last day of the impressions.
        lookback_days: A vector that is older is not read.
        dim: Numbers of a vector; those of another width are left out.
        version: Version of the table.

    Raises:
        ConfigError: A vector comes from a teacher that had learnt past its moment.
    """
    uri = config.table(TABLE)
    first = days[0] - timedelta(days=lookback_days)
    held = delta.partition_days(delta.open_table(uri, version))
    wanted = [day for day in held if first <= day <= days[1]]
    if not wanted:
        return SCHEMA.empty_table()
    rows = delta.read_days(uri, wanted, SCHEMA.names, version, pc.field("dim") == dim)
    check_vectors(rows)
    return rows


def check_vectors(rows: pa.Table) -> None:
    """Refuse vectors of a teacher that had learnt past the moment they stand for.

    Raises:
        ConfigError: There is one; the first moment is named, and never whose it is.
    """
    late = pc.greater(rows["trained_until"], rows["as_of"])
    if pc.any(late).as_py():
        row: dict[str, Any] = rows.filter(late).slice(0, 1).to_pylist()[0]
        raise ConfigError(
            f"{TABLE}: a vector must come from a teacher trained until its moment at the latest; "
            f"found one as of {row['as_of']} by a teacher trained until {row['trained_until']}; "
            "run jobs.score_teacher for that day again"
        )
