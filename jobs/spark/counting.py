"""What is counted with which entity, and how rows are packed by an entity's key.

An entity is what counts are kept of: a user, an ad, a surface, a cross of them. Its key is the text
of its columns, joined; a missing part is the empty text, so that it groups as a value.
"""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.contract import Features
from validation import tables

NEVER = np.iinfo(np.int64).min
"""Stands for the moment of a last event that there was not."""
DAY_BITS = 20
"""Low bits of a number that hold a day, above them an entity's key."""
_SEPARATOR = "\u0001"


@dataclass(frozen=True)
class Counting:
    """What the counts of a contract are."""

    entities: Mapping[str, Sequence[str]]
    """Key columns by the entity's name."""
    counts: Mapping[str, Sequence[str]]
    """Event types by the count's name."""
    windows_days: Sequence[int]
    """Windows in days; 1 is among them."""
    recency: Mapping[str, Sequence[str]]
    """Entities, by count, of which the moment of the last event is wanted."""

    @classmethod
    def of(cls, features: Features) -> Counting:
        """As a contract declares it."""
        return cls(features.entities, features.counts, features.windows_days, features.recency)

    @property
    def event_types(self) -> list[str]:
        """Types that some count counts."""
        return sorted({t for types in self.counts.values() for t in types})

    @property
    def key_columns(self) -> list[str]:
        """Columns that some key is made of."""
        return sorted({column for key in self.entities.values() for column in key})

    @property
    def windowed(self) -> list[str]:
        """`<count>_<window>d`, in the tables' order."""
        return tables.count_columns(list(self.counts), self.windows_days)

    @property
    def lasts(self) -> list[str]:
        """`<count>_last_ts`, in the tables' order."""
        return tables.last_columns(list(self.recency))

    def ones(self, rows: pa.Table) -> np.ndarray:
        """0 or 1 for every row and count: uint8, rows x counts."""
        types = rows["event_type"]
        columns = [
            pc.is_in(types, pa.array(list(wanted), pa.string())).to_numpy()
            for wanted in self.counts.values()
        ]
        return np.stack(columns, axis=1).astype(np.uint8)

    def keys(self, rows: pa.Table) -> Iterator[tuple[int, np.ndarray, pa.Array]]:
        """Keys of rows, entity after entity.

        Yields:
            The entity's number, the code of each row's key, and the keys by code.
        """
        texts = {}
        for name in self.key_columns:
            column = pc.fill_null(rows[name].cast(pa.string()), "").combine_chunks()
            texts[name] = column.dictionary_encode()
        for number, columns in enumerate(self.entities.values()):
            code, names = np.zeros(rows.num_rows, np.int64), pa.array([""])
            for place, column in enumerate(columns):
                text = texts[column]
                own, values = text.indices.to_numpy().astype(np.int64), text.dictionary
                if place == 0:
                    code, names = own, values
                else:
                    pair, code = np.unique(code * len(values) + own, return_inverse=True)
                    left, right = np.divmod(pair, len(values))
                    names = pc.binary_join_element_wise(
                        names.take(pa.array(left)), values.take(pa.array(right)), _SEPARATOR
                    )
            yield number, code, names


def keyed(
    entity: int, code: np.ndarray, names: pa.Array, values: Mapping[str, pa.Array | pa.ChunkedArray]
) -> pa.Table:
    """Rows of one entity, ready to be packed by key.

    Args:
        entity: The entity's number.
        code: Code of each row's key.
        names: Keys by code.
        values: Further columns.
    """
    key = pa.DictionaryArray.from_arrays(pa.array(code.astype(np.int32)), names)
    number = pa.array(np.full(len(code), entity, np.int16))
    return pa.table({"key": key, "entity": number, **values})


def groups(parts: Sequence[pa.Table], num_entities: int) -> tuple[list[np.ndarray], pa.Array]:
    """One number per entity and key over several tables.

    Returns:
        Numbers of each table's rows, and the keys: number // num_entities is the key's place in
        them, number % num_entities the entity's number.
    """
    both = pa.concat_tables([part.select(["key", "entity"]) for part in parts])
    keys = both["key"].unify_dictionaries()
    code = np.concatenate([chunk.indices.to_numpy() for chunk in keys.chunks]).astype(np.int64)
    number = code * num_entities + both["entity"].to_numpy()
    ends = np.cumsum([part.num_rows for part in parts])[:-1]
    return np.split(number, ends), keys.chunk(0).dictionary


def last_positive(is_positive: np.ndarray) -> np.ndarray:
    """Place of the last True at or before each place; -1 where there is none."""
    return np.maximum.accumulate(np.where(is_positive, np.arange(len(is_positive)), -1))
