"""Dense features of examples, and the log-odds that counting alone gives."""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.contract import Features, LogContract
from validation import tables

_MICROSECONDS = 1_000_000


def dense_names(features: Features) -> list[str]:
    """Names of the dense features, in order."""
    names = list(features.numeric)
    for entity in features.entities:
        for window in features.windows_days:
            names += [f"log_{entity}_{count}_{window}d" for count in features.counts]
            names += [f"rate_{entity}_{count}_{window}d" for count in features.rates]
    for count, entities in features.recency.items():
        for entity in entities:
            names += [f"log_age_{entity}_{count}", f"never_{entity}_{count}"]
    return names


def dense_features(examples: pa.Table, features: Features) -> np.ndarray:
    """Dense features of examples.

    A count n is read as log(1 + n). A rate is read as the log-odds of (c + a p) / (n + a), where c
    of n had the outcome, a is `rate_prior_strength`, and p is the same rate of the prior entity
    over its longest window, as known at the impression. The moment of a last event is read as
    log(1 + t), t the minutes from it to the impression and NaN where there was none, and as
    whether there was none. A number x is read as sign(x) log(1 + |x|); a missing one stays NaN.

    Returns:
        float32, rows x features, in the order of `dense_names`.
    """

    def count(entity: str, name: str, window: int) -> np.ndarray:
        return examples[f"{entity}_{name}_{window}d"].to_numpy().astype(np.float64)

    longest, strength = max(features.windows_days), features.rate_prior_strength
    prior = {}
    for name, shown in features.rates.items():
        c, n = (count(features.prior_entity, x, longest) for x in (name, shown))
        prior[name] = np.minimum((c + 0.5) / (n + 1.0), 1.0 - 1e-3)
    columns = []
    for name in features.numeric:
        values = examples[name].to_numpy(zero_copy_only=False).astype(np.float64)
        columns.append(np.sign(values) * np.log1p(np.abs(values)))
    for entity in features.entities:
        for window in features.windows_days:
            columns += [np.log1p(count(entity, name, window)) for name in features.counts]
            for name, shown in features.rates.items():
                p = prior[name]
                c, n = count(entity, name, window), count(entity, shown, window)
                rate = (np.minimum(c, n) + strength * p) / (n + strength)
                columns.append(np.log(rate) - np.log1p(-rate))
    shown_us = micros(examples["event_ts"])
    for name in tables.recency_columns(features.recency):
        never = examples[name].is_null().to_numpy()
        age = shown_us - micros(pc.fill_null(examples[name], examples["event_ts"]))
        minutes = np.where(never, np.nan, age / (60.0 * _MICROSECONDS))
        columns += [np.log1p(minutes), never.astype(np.float64)]
    return np.stack(columns, axis=1).astype(np.float32)


def smoothed_log_odds(
    dense: np.ndarray, names: Sequence[str], contract: LogContract, task: str
) -> np.ndarray:
    """The counting baseline: log-odds of surface, item and user rates, added.

    logit p = logit p_0 + sum over e of (logit p_e - logit p_0), every rate as known at the
    impression, p_0 the prior entity's and p_e smoothed towards it.

    Args:
        dense: Dense features.
        names: Names of them.
        contract: Says which count a task's outcomes are.
        task: The task.

    Returns:
        Logits (natural log-odds).
    """
    features = contract.features
    count = contract.rate_of(contract.tasks[task])
    longest = max(features.windows_days)

    def rate(entity: str) -> np.ndarray:
        return dense[:, names.index(f"rate_{entity}_{count}_{longest}d")].astype(np.float64)

    own = {tuple(key): entity for entity, key in features.entities.items()}
    prior = rate(features.prior_entity)
    return prior + sum(rate(own[(key,)]) - prior for key in ("surface", "ad_id", "user_id"))


def micros(column: pa.ChunkedArray) -> np.ndarray:
    """Microseconds since 1970 UTC."""
    return column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
