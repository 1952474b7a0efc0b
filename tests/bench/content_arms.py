"""Two ways from texts to their vectors: the job's loop, and Ray Data's `map_batches`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.content.encoders import Encoder

BATCH_TEXTS = 4096
"""As the job's: both arms hand the encoder the same batches."""


def loop_arm(encoder: Encoder, texts: Sequence[str]) -> tuple[np.ndarray, float]:
    """As `jobs.embed_content` encodes them: batch after batch, in its own process.

    Returns:
        The vectors, and the CPU seconds of other processes: none.
    """
    vectors = np.zeros((len(texts), encoder.dim), np.float32)
    for low in range(0, len(texts), BATCH_TEXTS):
        vectors[low : low + BATCH_TEXTS] = encoder.encode(texts[low : low + BATCH_TEXTS])
    return vectors, 0.0


class _Encode:
    """What an actor of Ray Data holds."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def __call__(self, batch: pa.Table) -> dict[str, np.ndarray]:
        return {
            "place": batch["place"].to_numpy(),
            "vector": self.encoder.encode(batch["text"].to_pylist()),
            "process": np.full(batch.num_rows, os.getpid()),
            "cpu_seconds": np.full(batch.num_rows, time.process_time()),
        }


def ray_arm(encoder: Encoder, texts: Sequence[str], num_workers: int) -> tuple[np.ndarray, float]:
    """Through actors of a Ray that is running; the vectors come back to this process.

    Returns:
        The vectors, and the CPU seconds of the actors' processes; those of Ray's own are left out.
    """
    import ray.data

    rows = pa.table({"place": np.arange(len(texts)), "text": pa.array(texts, pa.string())})
    parts = [rows.slice(low, BATCH_TEXTS) for low in range(0, len(texts), BATCH_TEXTS)]
    options: dict[str, Any] = {
        "batch_size": BATCH_TEXTS,
        "batch_format": "pyarrow",
        "fn_constructor_args": (encoder,),
        "compute": ray.data.ActorPoolStrategy(size=num_workers),
    }
    found = ray.data.from_arrow(parts).map_batches(_Encode, **options)
    vectors = np.zeros((len(texts), encoder.dim), np.float32)
    busy: dict[int, float] = {}
    for batch in found.iter_batches(batch_size=None, batch_format="numpy"):
        vectors[batch["place"]] = np.stack(batch["vector"])
        for process, seconds in zip(batch["process"], batch["cpu_seconds"], strict=True):
            busy[process] = max(seconds, busy.get(process, 0.0))
    return vectors, sum(busy.values())
