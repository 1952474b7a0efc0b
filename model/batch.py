"""What a ranker reads: rows, and the jagged timelines that go with them."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float32, Int64
from torch import Tensor

from model.config import RankerConfig


@dataclass(frozen=True)
class JaggedEvents:
    """The histories of all rows of a batch, one after the other, without padding.

    Row b owns the events offsets[b] to offsets[b + 1] − 1.

    Args:
        categorical: Table indexes of the G event fields.
        dense: The M dense event columns; NaN where missing.
        offsets: First event of each row and, last, the total (B + 1 numbers).

    Raises:
        ValueError: If the offsets do not start at 0, fall, or do not end at the events' number.
    """

    categorical: Int64[Tensor, "E G"]
    dense: Float32[Tensor, "E M"]
    offsets: Int64[Tensor, " num_offsets"]

    def __post_init__(self) -> None:
        num_events = self.categorical.shape[0]
        if self.dense.shape[0] != num_events:
            raise ValueError(
                "history.dense: categorical and dense must have one line per event; found "
                f"{num_events} and {self.dense.shape[0]}; build both from the same events"
            )
        offsets = self.offsets
        if len(offsets) == 0 or not bool(
            ((offsets.diff() >= 0).all()) & (offsets[0] == 0) & (offsets[-1] == num_events)
        ):
            raise ValueError(
                "history.offsets: offsets must start at 0, never fall, and end at the number of "
                f"events ({num_events}); found {offsets.tolist()[:8]}…; cumulate the row lengths"
            )

    @property
    def num_rows(self) -> int:
        """Rows that the histories belong to."""
        return len(self.offsets) - 1

    def map(self, function: Callable[[Tensor], Tensor]) -> "JaggedEvents":
        """Applies a function to every tensor, for example a transfer."""
        return JaggedEvents(
            function(self.categorical), function(self.dense), function(self.offsets)
        )


@dataclass(frozen=True)
class Batch:
    """Rows to rank.

    Args:
        categorical: Table indexes of the C fields, in the order of `RankerConfig.fields`.
        dense: The N dense columns; NaN where missing.
        domain: Index of each row's domain in `RankerConfig.domains`.
        history: The rows' timelines, or None for a ranker without one.

    Raises:
        ValueError: If there is no row, or the parts disagree on the number of rows.
    """

    categorical: Int64[Tensor, "B C"]
    dense: Float32[Tensor, "B N"]
    domain: Int64[Tensor, " B"]
    history: JaggedEvents | None = None

    def __post_init__(self) -> None:
        counts = {
            "categorical": self.categorical.shape[0],
            "dense": self.dense.shape[0],
            "domain": self.domain.shape[0],
        }
        if self.history is not None:
            counts["history"] = self.history.num_rows
        if len(set(counts.values())) > 1 or self.num_rows == 0:
            raise ValueError(
                "batch: all parts must have the same number of rows, at least one; found "
                f"{counts}; build the parts from the same, non-empty rows"
            )

    @property
    def num_rows(self) -> int:
        """Rows to rank (B)."""
        return self.domain.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Applies a function to every tensor, for example a transfer."""
        return Batch(
            function(self.categorical),
            function(self.dense),
            function(self.domain),
            self.history.map(function) if self.history else None,
        )


def check_batch(batch: Batch, config: RankerConfig) -> None:
    """Checks a batch against the ranker that is to read it; meant for the data loader.

    It reads every index once, so it belongs where batches are made, not in the training step.

    Raises:
        ValueError: If a column is missing, an index lies outside its table or the domains, or a
            history is longer than `history.max_events`.
    """
    rows = {table.name: table.num_rows for table in config.tables}
    _check_columns("batch.dense", batch.dense, config.num_dense)
    _check_indexes("batch.categorical", batch.categorical, [rows[f.table] for f in config.fields])
    _check_indexes("batch.domain", batch.domain[:, None], [len(config.domains)])
    if (batch.history is None) != (config.history is None):
        raise ValueError(
            "batch.history: a batch has a history exactly when the ranker reads one; found "
            f"{'none' if batch.history is None else 'one'}; give the loader this ranker's config"
        )
    if batch.history is None or config.history is None:
        return
    events = batch.history
    _check_columns("batch.history.dense", events.dense, config.history.num_dense)
    tables = [rows[field.table] for field in config.history.fields]
    _check_indexes("batch.history.categorical", events.categorical, tables)
    if (longest := int(events.offsets.diff().max())) > config.history.max_events:
        raise ValueError(
            f"batch.history.offsets: a history has at most {config.history.max_events} events; "
            f"found {longest}; keep the newest events of each row"
        )


def _check_columns(path: str, values: Tensor, num_columns: int) -> None:
    if values.shape[1] != num_columns:
        raise ValueError(
            f"{path}: the ranker reads {num_columns} columns; found {values.shape[1]}; "
            "build the batch in the order of the ranker's config"
        )


def _check_indexes(path: str, indexes: Tensor, limits: list[int]) -> None:
    _check_columns(path, indexes, len(limits))
    if indexes.numel() == 0:
        return
    lowest, highest = indexes.amin(0).tolist(), indexes.amax(0).tolist()
    for column, (low, high, limit) in enumerate(zip(lowest, highest, limits, strict=True)):
        if low < 0 or high >= limit:
            raise ValueError(
                f"{path}[{column}]: indexes must lie in [0, {limit}); found {low} to {high}; "
                "encode with the vocabulary that the ranker was built or extended for"
            )
