"""Fit the baselines that a neural family has to be worth more than.

Reads the packed examples. Writes `baselines.npz` in the run's folder: probabilities for the gate
window of the base rate, the smoothed log-odds of surface, ad and user, logistic regression, and
gradient-boosted trees, all on the same point-in-time features and the labels that had matured
before the gate window. They start afresh in every run, on the rows that are packed. Of a task whose
labels are all alike the last two are the base rate.

    python -m jobs.fit_baselines --config var/runs/<run>/config.json
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from jobs.command import JobSummary, log, main
from jobs.config import RunConfig
from jobs.pack_examples import open_packed
from jobs.training.dense import smoothed_log_odds
from jobs.training.evaluation import GateRows
from jobs.training.inputs import Packed
from jobs.training.reader import Reader
from jobs.training.side_by_side import side_by_side

FILE = "baselines.npz"
NAMES = ("base_rate", "log_odds", "logistic", "trees")


def run(config: RunConfig) -> JobSummary:
    """Fit and predict."""
    packed = open_packed(config)
    gate = packed.matured(config.plan.gate_start, config.plan.gate_end)
    rows = np.flatnonzero(gate.any(axis=1))
    predictions = {
        name: np.zeros((len(rows), len(packed.spec.tasks)), np.float32) for name in NAMES
    }
    fitted = 0
    calls: list[Callable[[], np.ndarray]] = []
    places: list[tuple[str, int]] = []
    for t, task in enumerate(packed.spec.tasks):
        learnt = np.flatnonzero(packed.matured(None, config.plan.gate_start)[:, t])
        fitted = max(fitted, len(learnt))
        y = packed.labels[learnt, t]
        predictions["base_rate"][:, t] = y.mean()
        logits = smoothed_log_odds(packed.dense[rows], packed.spec.dense, config.contract, task)
        predictions["log_odds"][:, t] = 1.0 / (1.0 + np.exp(-logits))
        for name, predict in (("trees", _trees), ("logistic", _logistic)):
            if len(np.unique(y)) < 2:
                predictions[name][:, t] = predictions["base_rate"][:, t]
                continue
            calls.append(partial(_fitted, name, task, partial(predict, packed, learnt, y, rows)))
            places.append((name, t))
    for (name, t), told in zip(places, side_by_side(calls, config.resources), strict=True):
        predictions[name][:, t] = told
    np.savez(config.run_folder / FILE, rows=rows, **predictions)  # pyright: ignore[reportArgumentType]
    return JobSummary(
        job="fit_baselines", inputs=packed.inputs, rows={"learnt": fitted, "gate": len(rows)}
    )


def read_baselines(config: RunConfig, reader: Reader, gate: GateRows) -> dict[str, np.ndarray]:
    """The baselines' probabilities for a model's rows and tasks, by name."""
    held = np.load(config.run_folder / FILE)
    at = np.searchsorted(held["rows"], gate.rows)
    assert np.array_equal(held["rows"][at], gate.rows), "baselines predict every gate row"
    return {name: held[name][at][:, reader.tasks] for name in NAMES}


def _fitted(name: str, task: str, predict: Callable[[], np.ndarray]) -> np.ndarray:
    from threadpoolctl import threadpool_limits

    # Threads of trees wait for each other busily: beside other processes they lose more than gain.
    with threadpool_limits(1):
        told = predict()
    log.info("%s: %s fitted", name, task)
    return told


def _logistic(packed: Packed, learnt: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    def read(at: np.ndarray) -> np.ndarray:
        return np.concatenate([np.nan_to_num(packed.dense[at]), _one_hot(packed, at)], axis=1)

    scaler = StandardScaler(copy=False).fit(read(learnt))
    model = LogisticRegression(C=0.1, max_iter=100, tol=1e-3)
    model.fit(scaler.transform(read(learnt)), y)
    return model.predict_proba(scaler.transform(read(rows)))[:, 1]


def _trees(packed: Packed, learnt: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    from sklearn.ensemble import HistGradientBoostingClassifier

    def read(at: np.ndarray) -> np.ndarray:
        return np.concatenate([packed.dense[at], packed.categorical[at]], axis=1, dtype=np.float32)

    model = HistGradientBoostingClassifier(
        max_iter=80,
        learning_rate=0.12,
        max_features=0.3,
        min_samples_leaf=100,
        l2_regularization=1.0,
        early_stopping=False,  # pyright: ignore[reportArgumentType]
        random_state=0,
    )
    return model.fit(read(learnt), y).predict_proba(read(rows))[:, 1]


def _one_hot(packed: Packed, at: np.ndarray) -> np.ndarray:
    index = packed.spec.categorical.index("surface")
    size = packed.spec.table_rows["surface"]
    return np.eye(size, dtype=np.float32)[packed.categorical[at, index]]


if __name__ == "__main__":
    main(run, __doc__)
