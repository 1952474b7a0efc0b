"""Scores: a model's probabilities, always from a checkpoint that had not learnt the row.

The scores of one scorer lie in the Delta table `teacher_scores/<scorer>`. A row is scored by the
last checkpoint whose `trained_until` is not after the impression; the rule is checked again, and
fatal, where scores are read. Where the recipe asks for it, what is kept of the scorer's
representation of the row stands beside its probabilities, in the bytes of
`model.representations.quantise`, with the version of the encoder that compressed it.
"""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from jobs import delta
from jobs.config import RunConfig, day_of
from jobs.errors import ConfigError
from jobs.representation_settings import Representation
from jobs.training.checkpoints import Card, learnt_until_us, load_model, read_card
from jobs.training.inputs import Packed
from jobs.training.reader import Reader, as_known
from jobs.training.side_by_side import on_threads
from model.ranker import Ranker, Student

if TYPE_CHECKING:
    from jobs.training.representations import Encoder

_ROWS_PER_BATCH = 1024


def predict(model: Ranker | Student, reader: Reader, rows: np.ndarray) -> np.ndarray:
    """Probabilities of rows.

    Returns:
        float32, rows x tasks of the model.
    """
    return _score(model, reader, rows, None)[0]


def _score(
    model: Ranker | Student, reader: Reader, rows: np.ndarray, encoder: Encoder | None
) -> tuple[np.ndarray, list[bytes]]:
    """Probabilities of rows, and with an encoder what is kept of their representations."""
    ranker = (model.ranker if isinstance(model, Student) else model).to(reader.device)

    def score(low: int) -> tuple[np.ndarray, list[bytes]]:
        batch = as_known(reader.batch(rows[low : low + _ROWS_PER_BATCH]), ranker.config)
        output = ranker(batch.map(lambda tensor: tensor.to(reader.device)))
        told = torch.sigmoid(output.logits).cpu().numpy()
        if encoder is None:
            return told, []
        return told, [line.tobytes() for line in encoder.compress(output.representation.cpu())]

    none = np.zeros((0, len(ranker.config.tasks)), np.float32)
    parts = on_threads(score, range(0, len(rows), _ROWS_PER_BATCH), reader.device)
    kept = [line for _, lines in parts for line in lines]
    return np.concatenate([none, *[told for told, _ in parts]]), kept


def scores_table(config: RunConfig, scorer: str) -> str:
    """Table of a scorer's scores."""
    return config.table(f"teacher_scores/{scorer}")


def score_out_of_sample(
    config: RunConfig,
    scorer: str,
    reader: Reader,
    checkpoints: Sequence[Path],
    encoders: Sequence[Encoder | None] | None = None,
) -> tuple[dict[date, int], int | None]:
    """Score every row that comes after some checkpoint, by the last one before it.

    Args:
        config: The run's configuration.
        scorer: Registered name of the model that scores.
        reader: Its batches.
        checkpoints: Its checkpoints, in the order of `trained_until`.
        encoders: What compresses the representations of each; none are kept if left out.

    Returns:
        Rows scored by day of impression, and the table's version.
    """
    packed = reader.packed
    kept = np.ones(packed.num_rows, bool) if reader.keep is None else reader.keep
    cards = [read_card(folder) for folder in checkpoints]
    ends = np.array([learnt_until_us(card) for card in cards])
    assert np.all(np.diff(ends) >= 0), "checkpoints are in order"
    # Of two that have learnt as much, a parent and its child that had nothing to learn, the parent
    # scores: a repeat has the same parent, and so writes the same rows.
    first_alike = np.searchsorted(ends, ends)
    last = np.searchsorted(ends, packed.event_us, side="right") - 1
    chosen = np.where(last < 0, -1, first_alike[last])
    parts = []
    for index, (folder, card) in enumerate(zip(checkpoints, cards, strict=True)):
        rows = np.flatnonzero(kept & (chosen == index))
        if len(rows) == 0:
            continue
        encoder = None if encoders is None else encoders[index]
        scores, kept_bytes = _score(load_model(folder), reader, rows, encoder)
        if config.plan.parent is None:
            scores[:, _unlearnt(reader, kept, card)] = np.nan
        columns = {
            f"p_{task}": pa.array(scores[:, i], from_pandas=True)
            for i, task in enumerate(card.ranker_config.tasks)
        }
        if encoders is not None:
            columns |= _representations(packed, rows, encoder, kept_bytes)
        parts.append(
            pa.table(
                {
                    "impression_id": packed.impression_ids().take(pa.array(rows)),
                    "event_ts": pa.array(packed.event_us[rows], pa.timestamp("us", "UTC")),
                    "trained_until": pa.array(
                        np.full(len(rows), ends[index]), pa.timestamp("us", "UTC")
                    ),
                    "scorer_run": pa.array([card.run_id] * len(rows)),
                    **columns,
                }
            )
        )
    return _write(config, scorer, parts, packed)


def _representations(
    packed: Packed, rows: np.ndarray, encoder: Encoder | None, kept: list[bytes]
) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Columns of what is kept of rows' representations, and of whose they are and since when."""
    missing, at, number = encoder is None, pa.array(rows), len(rows)
    config = None if encoder is None else encoder.model.config
    return {
        "user_id": packed.ids()["user_id"].take(at),
        "known_ts": packed.ids()["known_ts"].take(at),
        "representation": pa.array([None] * number if missing else kept, pa.binary()),
        "representation_dim": pa.array([config and config.latent_dim] * number, pa.int32()),
        "representation_bits": pa.array([config and config.bits] * number, pa.int32()),
        "encoder_version": pa.array([encoder and encoder.version] * number, pa.string()),
    }


def _unlearnt(reader: Reader, kept: np.ndarray, card: Card) -> np.ndarray:
    """Tasks of which a first run's checkpoint has learnt no label to serve: bool, one per task.

    Of these it says what it was initialised to, which is nothing to learn from.
    """
    end = card.learnt_until
    assert end is not None, "a checkpoint that scores has learnt something"
    matured = reader.packed.matured(None, end, zipper=reader.zipper)[:, reader.tasks]
    matured &= reader.served(np.arange(len(matured)))
    return np.logical_not(matured[kept].any(axis=0))


def _write(
    config: RunConfig, scorer: str, parts: list[pa.Table], packed: Packed
) -> tuple[dict[date, int], int | None]:
    uri = scores_table(config, scorer)
    written: dict[date, int] = {}
    if parts:
        table = pa.concat_tables(parts)
        local = pc.assume_timezone(
            pc.local_timestamp(
                table["event_ts"].cast(pa.timestamp("us", config.contract.time_zone))
            ),
            "UTC",
        ).cast(pa.date32())
        run = config.run
        commit = {
            "run_id": run.run_id,
            "config_hash": run.config_hash,
            "code_hash": run.code_hash,
            "inputs": packed.inputs,
        }
        for day in sorted(set(local.to_pylist())):
            rows = table.filter(pc.equal(local, day))
            delta.write_arrow_day(uri, rows, day, ["event_ts", "impression_id"], commit)
            written[day] = rows.num_rows
    return written, delta.latest_version(uri)


def read_scores(
    config: RunConfig,
    scorer: str,
    packed: Packed,
    tasks: Sequence[str],
    version: int | None = None,
) -> np.ndarray:
    """A scorer's probabilities by packed row.

    Args:
        config: The run's configuration.
        scorer: Registered name of the model that scored.
        packed: The rows.
        tasks: Tasks to read, in order.
        version: Version of the table; the newest if None.

    Returns:
        float32, rows x tasks; NaN where a row has no score.

    Raises:
        ConfigError: A score comes from a checkpoint that had learnt past its impression.
    """
    uri = scores_table(config, scorer)
    first, last = packed_days(config, packed)
    days = [d for d in delta.partition_days(delta.open_table(uri, version)) if first <= d <= last]
    columns = ["impression_id", "event_ts", "trained_until", *[f"p_{task}" for task in tasks]]
    scores = delta.read_days(uri, days, columns, version)
    check_out_of_sample(scores, scorer)
    found = pc.index_in(packed.impression_ids(), value_set=scores["impression_id"].combine_chunks())
    values = np.full((packed.num_rows, len(tasks)), np.nan, np.float32)
    known = ~found.is_null().to_numpy(zero_copy_only=False)
    at = found.drop_null().to_numpy()
    for i, task in enumerate(tasks):
        values[known, i] = scores[f"p_{task}"].to_numpy()[at]
    return values


def read_representations(
    config: RunConfig, scorer: str, packed: Packed, settings: Representation, version: int | None
) -> pa.Table:
    """What a scorer kept of impressions of the packed days and of the days before.

    Args:
        config: The run's configuration.
        scorer: Registered name of the model that scored.
        packed: The rows that will read it.
        settings: Width and bits; what was kept otherwise is left out, and so is what was not kept.
        version: Version of the table.

    Raises:
        ConfigError: It comes from a checkpoint that had learnt past its impression.
    """
    uri = scores_table(config, scorer)
    days = packed_days(config, packed)
    first = days[0] - timedelta(days=settings.lookback_days)
    table = delta.open_table(uri, version)
    held = [day for day in delta.partition_days(table) if first <= day <= days[1]]
    if table is None or not held or "representation" not in pa.schema(table.schema()).names:
        return _KEPT.empty_table()
    kept = delta.read_days(
        uri,
        held,
        _KEPT.names,
        version,
        (pc.field("representation_dim") == settings.dim)
        & (pc.field("representation_bits") == settings.bits),
    )
    check_out_of_sample(kept, scorer)
    return kept


_KEPT = pa.schema(
    {
        "impression_id": pa.string(),
        "user_id": pa.string(),
        "event_ts": pa.timestamp("us", "UTC"),
        "known_ts": pa.timestamp("us", "UTC"),
        "trained_until": pa.timestamp("us", "UTC"),
        "representation": pa.binary(),
        "encoder_version": pa.string(),
    }
)


def packed_days(config: RunConfig, packed: Packed) -> tuple[date, date]:
    """First and last day of the packed impressions."""
    zone = config.contract.time_zone
    ends = (packed.event_us[0], packed.event_us[-1])
    first, last = (day_of(datetime.fromtimestamp(end / 1e6, UTC), zone) for end in ends)
    return first, last


def check_out_of_sample(scores: pa.Table, scorer: str) -> None:
    """Refuse scores of a scorer that had learnt past the impression.

    Raises:
        ConfigError: There is one; the first is named.
    """
    late = pc.greater(scores["trained_until"], scores["event_ts"])
    if pc.any(late).as_py():
        row = scores.filter(late).slice(0, 1).to_pylist()[0]
        raise ConfigError(
            f"teacher_scores/{scorer}: a score must come from a checkpoint trained until before "
            f"its impression; found {row['impression_id']} of {row['event_ts']} scored by one "
            f"trained until {row['trained_until']}; score the day again"
        )
