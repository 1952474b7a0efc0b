"""Digests of rows in memory."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pyarrow as pa


def arrow_digest(rows: pa.Table, *, is_taken: bool = False) -> str:
    """Hash of a table's names, types and values, in their order.

    Args:
        rows: The table.
        is_taken: Whether a sort or a `take` has just made it.
    """
    copy = rows.replace_schema_metadata(None)
    if not is_taken:
        # Taken anew: a slice, or what happens to lie under a null, would show in the bytes.
        copy = copy.take(pa.array(np.arange(rows.num_rows)))
    sink = _Hash()
    with pa.PythonFile(sink, "w") as file, pa.ipc.new_stream(file, copy.schema) as writer:
        for batch in copy.combine_chunks().to_batches():
            writer.write_batch(batch)
    return sink.hexdigest()[:32]


class _Hash(io.RawIOBase):
    """What is written to it is hashed, and kept nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self._hash = hashlib.sha256()

    def writable(self) -> bool:
        """It takes bytes."""
        return True

    def write(self, data: Any) -> int:
        """Hash them."""
        self._hash.update(data)
        return len(data)

    def hexdigest(self) -> str:
        """Hash of all that was written."""
        return self._hash.hexdigest()
