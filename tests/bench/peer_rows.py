"""Synthetic rows for a comparison with a peer: the same for its loader and for ours."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from jobs.training.inputs import InputSpec

ZIPF_EXPONENT, NUM_PAIRS = 1.05, 8
MATURE_US = 1_000_000
"""When every label matures; the rows have no times of their own."""


@dataclass(frozen=True)
class Setup:
    """What both sides are told."""

    folder: str
    mode: Literal["agree", "train"]
    rows_per_table: int
    num_steps: int
    batch_size: int = 4_096
    num_fields: int = 39
    width: int = 16
    num_cross_layers: int = 3
    deep_hidden: tuple[int, ...] = (400, 400, 400)
    peer_lr: float = 1e-3
    seed: int = 0


def draw(setup: Setup, num_rows: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids from 1 on (rows x fields) and labels; the truth depends on the seed alone."""
    truth = np.random.default_rng(setup.seed)
    rng = np.random.default_rng((setup.seed, stream))
    shares = np.arange(1, setup.rows_per_table, dtype=np.float64) ** -ZIPF_EXPONENT
    bounds = np.cumsum(shares) / shares.sum()
    ids = np.empty((num_rows, setup.num_fields), np.int32)
    log_odds = np.full(num_rows, -1.5)
    for field in range(setup.num_fields):
        places = truth.permutation(setup.rows_per_table - 1).astype(np.int32) + 1
        ids[:, field] = places[
            np.minimum(np.searchsorted(bounds, rng.random(num_rows)), len(places) - 1)
        ]
        log_odds += 0.3 * truth.standard_normal(setup.rows_per_table)[ids[:, field]]
    for pair in range(min(NUM_PAIRS, setup.num_fields // 2)):
        factors = truth.standard_normal((2, setup.rows_per_table))
        log_odds += 0.5 * factors[0][ids[:, 2 * pair]] * factors[1][ids[:, 2 * pair + 1]]
    labels = rng.random(num_rows) < 1 / (1 + np.exp(-log_odds))
    return ids, labels.astype(np.float32)


def write_rows(setup: Setup, split: str, ids: np.ndarray, labels: np.ndarray) -> None:
    """The same rows as the peer's loader reads them, and as packed arrays."""
    folder = Path(setup.folder)
    columns = {f"f{field}": ids[:, field] for field in range(ids.shape[1])}
    np.savez(folder / f"{split}.npz", label=labels, **columns)  # pyright: ignore[reportArgumentType]
    n = len(labels)
    arrays = {
        "categorical": ids,
        "dense": np.empty((n, 0), np.float32),
        "labels": labels[:, None],
        "mature_us": np.full((n, 1), MATURE_US),
        "event_us": np.arange(n),
        "user": np.arange(n, dtype=np.int32),
        "domain": np.zeros(n, np.int8),
        "vertical": np.zeros(n, np.int16),
        "timeline": np.zeros(n, np.int32),
        "history_end": np.zeros(n, np.int32),
        "event_offsets": np.zeros(2, np.int64),
        "event_categorical": np.empty((0, 3), np.int32),
        "event_dense": np.empty((0, 2), np.float32),
        "event_us_flat": np.empty(0, np.int64),
    }
    packed = folder / split
    packed.mkdir()
    for name, values in arrays.items():
        np.save(packed / f"{name}.npy", values)
    spec = InputSpec(
        categorical=list(columns),
        dense=[],
        tasks=["label"],
        domains=["all"],
        verticals=["all"],
        table_rows=dict.fromkeys(columns, setup.rows_per_table),
        vocabulary_version=None,
    )
    (packed / "meta.json").write_text(json.dumps({"spec": asdict(spec), "inputs": {}}))
