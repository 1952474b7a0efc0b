"""Columns with any number of values per row, packed: values and offsets, no padding."""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from jobs.vocabulary import Vocabulary
from model.embeddings import Bag

_PARTS = ("values", "offsets")


@dataclass(frozen=True)
class PackedBag:
    """The values of one column, row after row."""

    values: np.ndarray
    """Table indexes, 0 for a value out of vocabulary."""
    offsets: np.ndarray
    """First value of each row and, last, their number."""

    def take(self, rows: np.ndarray) -> Bag:
        """The values of rows, in their order."""
        first, lengths = self.offsets[rows], np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths)
        values = self.values[at].astype(np.int64)
        return Bag(torch.from_numpy(values), torch.from_numpy(offsets))


def read_bag(folder: Path, name: str) -> PackedBag:
    """A packed column, mapped into memory."""
    parts = [np.load(folder / f"bag_{part}_{name}.npy", mmap_mode="r") for part in _PARTS]
    return PackedBag(*map(np.asarray, parts))


def packed_bag(name: str, column: pa.ChunkedArray, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """The arrays of a column of lists; a missing list is an empty one.

    Args:
        name: Column, and the embedding table of its values.
        column: Lists of text, row after row.
        vocabulary: Rows of values.

    Returns:
        `bag_values_<name>` and `bag_offsets_<name>`.
    """
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    values = pa.chunked_array(
        [chunk.flatten() for chunk in column.chunks], type=column.type.value_type
    )
    arrays = vocabulary.rows(name, values), np.concatenate([[0], np.cumsum(lengths)])
    return {f"bag_{part}_{name}": held for part, held in zip(_PARTS, arrays, strict=True)}
