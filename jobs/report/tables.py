"""The tables of a run: which versions it read and wrote, and what embeddings know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from jobs import delta
from jobs.config import RunConfig
from jobs.report.runs import Job


@dataclass(frozen=True)
class Table:
    """A table at the version that the run read or wrote."""

    name: str
    version: int
    pinned: bool
    """Whether the run recorded that version; otherwise it is the newest."""
    written: bool
    rows: int
    files: int
    num_bytes: int
    days: list[str]


@dataclass(frozen=True)
class Vocabulary:
    """Rows of an embedding table."""

    field: str
    rows: int
    admitted: int
    """Admitted by this run."""


def read_tables(config: RunConfig, jobs: Sequence[Job]) -> list[Table]:
    """Every table of the family, at the version that the run left or read."""
    read: dict[str, int] = {}
    written: dict[str, int] = {}
    for job in sorted(jobs, key=lambda job: job.started + job.seconds):
        read.update({name: v for name, v in job.inputs.items() if v is not None})
        written.update({name: v for name, v in job.outputs.items() if v is not None})
    root = Path(config.table(""))
    found = []
    for name in _table_names(root):
        version = written.get(name, read.get(name))
        table = delta.open_table(str(root / name), version)
        assert table is not None, "the folder holds a table"
        files = pa.table(table.get_add_actions(flatten=True)).to_pandas()
        held = Table(
            name=name,
            version=table.version(),
            pinned=version is not None,
            written=name in written,
            rows=int(files["num_records"].sum()),
            files=len(files),
            num_bytes=int(files["size_bytes"].sum()),
            days=_days(files),
        )
        found.append(held)
    return found


def _table_names(root: Path) -> list[str]:
    logs = [*root.glob("*/_delta_log"), *root.glob("*/*/_delta_log")]
    return sorted(log.parent.relative_to(root).as_posix() for log in logs)


def _days(files: pd.DataFrame) -> list[str]:
    """Days of a table's files, in order; none for a table without days."""
    name = "partition.day"
    return sorted({str(day) for day in files[name]}) if name in files else []


def read_vocabulary(config: RunConfig, tables: Sequence[Table]) -> list[Vocabulary]:
    """Rows of every embedding table, the largest first."""
    table = next((t for t in tables if t.name == "vocabulary" and t.pinned), None)
    if table is None:
        return []
    held = delta.read_days(config.table("vocabulary"), version=table.version).to_pandas()
    own = held[held["run_id"] == config.run.run_id]
    ever = held[["field", "row"]][held["row"] > 0].drop_duplicates()
    rows, admitted = Counter(ever["field"]), Counter(own["field"][own["row"] > 0])
    # Row 0 of every embedding table is for values out of the vocabulary.
    return [Vocabulary(name, number + 1, admitted[name]) for name, number in rows.most_common()]
