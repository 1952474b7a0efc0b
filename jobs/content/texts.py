"""Items' texts as their attributes table holds them, read file by file, and as known over time."""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import dataset

from jobs import delta
from jobs.config import RunConfig
from jobs.content.settings import Content
from jobs.feeds import attribute_table

_BATCH_ROWS = 16_384
_MICROS = pa.timestamp("us", "UTC")
_STATES = pa.schema(
    [("item_id", pa.string()), ("known_ts", _MICROS), ("content_hash", pa.string())]
)


@dataclass(frozen=True)
class Texts:
    """The texts of a log's items at one version of their table."""

    version: int | None
    """Version of the attributes table; None where there is none yet."""
    table: str
    """Name of the table."""
    files: tuple[str, ...]
    columns: tuple[str, ...]

    def batches(self) -> Iterator[pa.Table]:
        """Rows in the order of the files, a bounded number at a time.

        Yields:
            `item_id`, `known_ts`, `text`, and `content_hash`, which is null where there is no text.
        """
        if not self.files:
            return
        names = ("entity_id", *self.columns)
        # Files of days before a column was declared lack it: null.
        schema = pa.schema([(n, pa.string()) for n in names] + [("known_ts", _MICROS)])
        shards = dataset.dataset(list(self.files), schema=schema, format="parquet")
        for batch in shards.to_batches(batch_size=_BATCH_ROWS, fragment_readahead=1):
            if batch.num_rows:
                text = joined([batch[name] for name in self.columns])
                yield pa.table(
                    {
                        "item_id": batch["entity_id"],
                        "known_ts": batch["known_ts"],
                        "text": text,
                        "content_hash": content_hashes(text),
                    }
                )

    def states(self) -> pa.Table:
        """What each item's text was from when on: `item_id`, `known_ts`, `content_hash`.

        Only changes are told, in order of item and time. A null hash says that the item had no text
        any more. Of texts known in the same microsecond the one with the greatest hash comes last.
        """
        parts = [batch.select(_STATES.names).cast(_STATES) for batch in self.batches()]
        rows = pa.concat_tables(parts) if parts else _STATES.empty_table()
        rows = rows.combine_chunks()
        keys = rows.set_column(2, "content_hash", pc.fill_null(rows["content_hash"], ""))
        rows = rows.take(pc.sort_indices(keys, [(name, "ascending") for name in _STATES.names]))
        item, text = (_codes(rows[name]) for name in ("item_id", "content_hash"))
        changed = np.ones(rows.num_rows, bool)
        changed[1:] = (item[1:] != item[:-1]) | (text[1:] != text[:-1])
        return rows.filter(pa.array(changed))

    def known_before(self, cut_off: datetime, limit: int) -> dict[str, str]:
        """Different texts known strictly before a moment, by hash, in order of hash.

        Args:
            cut_off: The moment, UTC.
            limit: How many at most: the least hashes, a sample that depends on the texts alone.
        """
        found: dict[str, str] = {}
        for batch in self.batches():
            known = pc.less(batch["known_ts"], pa.scalar(cut_off, _MICROS))
            found.update(_by_hash(batch.filter(known)))
            if len(found) > 2 * limit:
                found = _least(found, limit)
        return _least(found, limit)

    def of(self, hashes: pa.Array, size: int) -> Iterator[dict[str, str]]:
        """The texts of hashes, `size` at a time, each once."""
        left, group = set(hashes.to_pylist()), {}
        for batch in self.batches():
            for name, text in _by_hash(batch).items():
                if name in left:
                    left.remove(name)
                    group[name] = text
                    if len(group) == size:
                        yield group
                        group = {}
        assert not left, "every hash is of a text that the same table held a moment ago"
        if group:
            yield group


def open_texts(config: RunConfig, content: Content, version: int | None = None) -> Texts:
    """The texts that had arrived by the run's day.

    Args:
        config: The run.
        content: What the contract declares.
        version: Version of the attributes table; the newest if None.
    """
    name = attribute_table(content.feed)
    columns = tuple(f"ad_{field}" for field in content.fields)
    table = delta.open_table(config.table(name), version)
    if table is None:
        return Texts(None, name, (), columns)
    days = [day for day in delta.partition_days(table) if day <= config.plan.day]
    return Texts(table.version(), name, tuple(delta.day_files(table, days)), columns)


def joined(fields: list[pa.Array]) -> pa.Array:
    """Fields as one text, a line each; a missing field is an empty line."""
    filled = [pc.fill_null(field, "") for field in fields]
    return pc.binary_join_element_wise(*filled, "\n")


def content_hashes(text: pa.Array) -> pa.Array:
    """Hashes of texts; null for a text of white space alone."""
    # A daily listing repeats its texts: each is hashed once.
    coded = text.dictionary_encode()
    hashes = [
        hashlib.sha256(value.encode()).hexdigest()[:32] if value.strip() else None
        for value in coded.dictionary.to_pylist()
    ]
    return pa.array(hashes, pa.string()).take(coded.indices)


def digest(values: Mapping[str, object]) -> str:
    """Hash of settings, for names of encoders and their versions."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _by_hash(batch: pa.Table) -> dict[str, str]:
    told = batch.filter(pc.is_valid(batch["content_hash"]))
    return dict(zip(told["content_hash"].to_pylist(), told["text"].to_pylist(), strict=True))


def _least(found: dict[str, str], limit: int) -> dict[str, str]:
    return {name: found[name] for name in sorted(found)[:limit]}


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    codes = column.combine_chunks().dictionary_encode().indices
    return pc.fill_null(codes, -1).to_numpy(zero_copy_only=False)
