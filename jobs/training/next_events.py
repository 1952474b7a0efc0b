"""What a batch asks of the upstream: the newest event of each row, told apart from others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from jobs.training.inputs import Packed
from jobs.training_settings import NextEvent
from jobs.vocabulary import OUT_OF_VOCABULARY
from model.next_event import NextEvents


class Asked(NamedTuple):
    """What a worker's rows foretell."""

    events: NextEvents
    num_events: int
    """Events that all workers' rows foretell."""


def next_events(
    packed: Packed, settings: NextEvent, rows: np.ndarray, taken: np.ndarray, mask: np.ndarray
) -> Asked:
    """The newest events of a worker's rows, and negatives drawn from those of all workers' rows.

    They are drawn by the rows of the global batch alone, so that all workers, and a resumed run,
    draw the same. A value without a row in the vocabulary is neither foretold nor drawn.

    Args:
        packed: The packed arrays.
        settings: What of the event is foretold, and how many negatives are drawn.
        rows: The global batch.
        taken: The worker's rows of it.
        mask: Which labels of these count; a row without any foretells nothing.
    """
    evicted = packed.spec.evicted.get(packed.spec.event_fields[settings.field], [])

    def newest(at: np.ndarray) -> np.ndarray:
        values = packed.newest_events(at, settings.field)
        return np.where(np.isin(values, evicted), OUT_OF_VOCABULARY, values)

    every = newest(rows)
    every = every[every != OUT_OF_VOCABULARY]
    values, occurrences = np.unique(every, return_counts=True)
    log_share = np.log(occurrences / max(1, len(every))).astype(np.float32)
    drawn = np.zeros(0, np.int64)
    if len(every):
        draw = np.random.default_rng([len(rows), int(rows[0])])
        drawn = np.searchsorted(values, draw.choice(every, settings.num_negatives))
    target = np.where(mask.any(axis=1), newest(taken), OUT_OF_VOCABULARY)
    own = np.zeros(len(target), np.float32)
    asked = target != OUT_OF_VOCABULARY
    own[asked] = log_share[np.searchsorted(values, target[asked])]
    parts = target, own, values[drawn], log_share[drawn]
    return Asked(NextEvents(*map(torch.from_numpy, parts)), len(every))
