"""Digests of rows: equal where the rows are, whatever their order, their files or their columns'.

Every value is hashed with the name of its column, a row is the sum of its values' hashes, mixed,
and a digest is the number of rows and two sums over them. So digests of parts add up, and of a row
only what is not null counts: a column that a table has grown since changes no digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_ROWS_PER_BATCH = 16_384
"""So that what is worked on stays in the processor's caches."""
_LISTS_PER_BATCH = 1_024
"""The same where a row may hold thousands of values."""
_PEEK = 256
"""Values that are looked at to tell whether there are few different ones."""
_BYTES = (
    pa.types.is_dictionary,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_fixed_size_binary,
)
_MASK = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class RowSums(NamedTuple):
    """What rows add up to."""

    rows: int = 0
    low: int = 0
    high: int = 0

    def __add__(self, other: RowSums) -> RowSums:  # pyright: ignore[reportIncompatibleMethodOverride]
        return RowSums(
            self.rows + other.rows,
            (self.low + other.low) & _MASK,
            (self.high + other.high) & _MASK,
        )

    @property
    def digest(self) -> str:
        """As a commit records it."""
        return f"{self.rows:x}-{self.low:016x}-{self.high:016x}"


def rows_digest(rows: pa.Table) -> str:
    """Digest of rows in memory."""
    return _total(rows.to_batches(max_chunksize=_batch_size(rows.schema))).digest


def file_sums(path: str) -> RowSums:
    """What the rows of a Parquet file add up to."""
    with pq.ParquetFile(path) as file:
        size = _batch_size(file.schema_arrow)
        return _total(file.iter_batches(batch_size=size, use_threads=False))


def _batch_size(schema: pa.Schema) -> int:
    has_lists = any(pa.types.is_list(kind) or pa.types.is_large_list(kind) for kind in schema.types)
    return _LISTS_PER_BATCH if has_lists else _ROWS_PER_BATCH


def text_hashes(texts: pa.Array) -> np.ndarray:
    """A number per text, uint64, for ever the same.

    Args:
        texts: None is null.
    """
    return _mixed(_word_hashes(texts.cast(pa.binary())))


def _total(batches: Iterable[pa.RecordBatch]) -> RowSums:
    total = RowSums()
    for batch in batches:
        total += _sums(batch)
    return total


def _sums(batch: pa.RecordBatch) -> RowSums:
    row = np.zeros(batch.num_rows, np.uint64)
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        hashed = _mixed(_hashes(column) + _salt(name))
        if column.null_count:
            hashed[column.is_null().to_numpy(zero_copy_only=False)] = 0
        row += hashed
    low, high = _mixed(row), _mixed(row + _GOLDEN)
    return RowSums(batch.num_rows, *(int(each.sum(dtype=np.uint64)) for each in (low, high)))


def _hashes(column: pa.Array) -> np.ndarray:
    """A number per value, uint64; any where it is null.

    Raises:
        TypeError: Values of a kind that no table holds.
    """
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _list_hashes(column)
    if any(test(kind) for test in _BYTES):
        return _bytes_hashes(column)
    if pa.types.is_floating(kind):
        values = column.cast(pa.float64()).fill_null(0).to_numpy() + 0.0  # No zero below zero.
        return np.where(np.isnan(values), np.nan, values).view(np.uint64)
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", kind.tz)).cast(pa.int64())
    elif pa.types.is_date32(kind):
        column = column.cast(pa.int32())
    elif not (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise TypeError(f"rows are hashed of texts, bytes, numbers, moments, lists, not {kind}")
    return column.cast(pa.int64()).fill_null(0).to_numpy().view(np.uint64)


def _bytes_hashes(column: pa.Array) -> np.ndarray:
    """Of texts and bytes; of each value once where they are few."""
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.binary())
        if len(column.slice(0, _PEEK).unique()) * 2 > min(len(column), _PEEK):
            return _word_hashes(column)
        column = column.dictionary_encode()
    hashed = np.append(_word_hashes(column.dictionary.cast(pa.binary())), np.uint64(0))
    return hashed[column.indices.fill_null(len(column.dictionary)).to_numpy()]


def _word_hashes(column: pa.BinaryArray) -> np.ndarray:
    """A value is the sum of its words of eight bytes, each mixed with its place, and its length."""
    _, offsets, values = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    lengths = np.diff(ends)
    stored = np.frombuffer(values or b"", np.uint8)[ends[0] : ends[-1]]
    num_words = (lengths + 7) >> 3
    up_to = np.concatenate([[0], np.cumsum(num_words)])
    # Every value begins a word, and zeros fill its last one.
    moved = up_to[:-1] * 8 - (ends[:-1] - ends[0])
    padded = np.zeros(int(up_to[-1]) * 8, np.uint8)
    padded[np.arange(len(stored)) + np.repeat(moved, lengths)] = stored
    return _run_sums(padded.view(np.uint64), up_to) + _mixed(lengths.astype(np.uint64))


def _run_sums(numbers: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sums of runs of numbers, each number mixed with its place in its run."""
    place = np.arange(len(numbers)) - np.repeat(ends[:-1], np.diff(ends))
    hashed = _mixed(numbers + (place.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    up_to = np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashed, dtype=np.uint64)])
    return up_to[ends[1:]] - up_to[ends[:-1]]


def _list_hashes(column: pa.ListArray) -> np.ndarray:
    """A list is the sum of its values, each mixed with its place, and of its length."""
    offsets = column.offsets.to_numpy()
    ends = offsets - offsets[0]
    values = column.values.slice(offsets[0], ends[-1])
    hashed = _hashes(values)
    if values.null_count:
        # Any number that no value is likely to have.
        hashed = np.where(values.is_null().to_numpy(zero_copy_only=False), _GOLDEN, hashed)
    return _run_sums(hashed, ends) + _mixed(np.diff(ends).astype(np.uint64))


@cache
def _salt(name: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()))


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """SplitMix64's last step (Steele, Lea and Flood 2014), of each number."""
    mixed = numbers ^ (numbers >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
