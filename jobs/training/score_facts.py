"""How the scores of a run are: how many rows have one, how old it is, and whether it is right."""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import delta
from jobs.config import RunConfig
from jobs.training.dense import micros
from jobs.training.reader import Reader
from jobs.training.scoring import packed_days, scores_table

_DAY_US = 86_400_000_000


def score_facts(
    config: RunConfig,
    scorer: str,
    reader: Reader,
    tasks: Sequence[str],
    version: int | None,
) -> dict[str, Any]:
    """How a run's scores are: coverage, age and calibration, for summaries and MLflow.

    Args:
        config: The run's configuration.
        scorer: Registered name of the model that scored.
        reader: Its batches.
        tasks: Its tasks.
        version: Version of its table.

    Returns:
        `coverage`, the share of its rows with a score; `age_days`, from what the scorer had learnt
        to the impression, on average; and by task `calibration`, predicted over observed events of
        scored rows whose label has matured by the end of the run's day. None where undefined.
    """
    packed = reader.packed
    kept = np.ones(packed.num_rows, bool) if reader.keep is None else reader.keep
    first, last = packed_days(config, packed)
    uri = scores_table(config, scorer)
    days = [d for d in delta.partition_days(delta.open_table(uri, version)) if first <= d <= last]
    if not days:
        return {"coverage": 0.0, "age_days": None, "calibration": dict.fromkeys(tasks)}
    names = ["impression_id", "event_ts", "trained_until", *[f"p_{task}" for task in tasks]]
    scores = delta.read_days(uri, days, names, version)
    found = pc.index_in(packed.impression_ids(), value_set=scores["impression_id"].combine_chunks())
    rows = np.flatnonzero(kept & ~found.is_null().to_numpy(zero_copy_only=False))
    scores = scores.take(found.take(pa.array(rows)))
    age_us = micros(scores["event_ts"]) - micros(scores["trained_until"])
    matured = packed.matured(None, config.plan.gate_end)[rows][:, reader.tasks]
    labels = packed.labels[rows][:, reader.tasks]
    calibration: dict[str, float | None] = {}
    for index, task in enumerate(tasks):
        p = pc.fill_null(scores[f"p_{task}"], np.nan).to_numpy()
        counts = matured[:, index] & ~np.isnan(p)
        positives = float(labels[counts, index].sum())
        calibration[task] = float(p[counts].sum()) / positives if positives else None
    return {
        "coverage": len(rows) / max(1, int(kept.sum())),
        "age_days": float(age_us.mean() / _DAY_US) if len(rows) else None,
        "calibration": calibration,
    }


def fact_metrics(facts: Mapping[str, Any]) -> dict[str, float]:
    """The facts of scores as figures for MLflow; undefined ones are left out."""
    flat = {"scores/coverage": facts["coverage"], "scores/age_days": facts["age_days"]}
    flat |= {f"scores/calibration_{task}": value for task, value in facts["calibration"].items()}
    return {name: value for name, value in flat.items() if value is not None}
