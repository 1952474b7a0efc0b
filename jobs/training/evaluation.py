"""How a model fares on the gate window: per task, overall and by domain and vertical.

Every figure has the 95 % interval of a bootstrap that resamples users, and every comparison is
paired: both models on the same rows and the same draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from jobs.config import Gates
from jobs.training.inputs import InputSpec
from jobs.training.reader import Reader
from jobs.training.segments import Segment
from model import metrics


@dataclass(frozen=True)
class GateRows:
    """The rows of one model that the gate window judges."""

    spec: InputSpec
    rows: np.ndarray
    """Packed row numbers."""
    mask: np.ndarray
    """Which of the model's tasks each row is judged on."""
    labels: np.ndarray
    """Labels of the model's tasks."""
    users: np.ndarray
    domain: np.ndarray
    vertical: np.ndarray

    def slices(self, *, by_domain: bool) -> Iterator[tuple[str, str, np.ndarray]]:
        """(kind, name, rows) of every slice that has rows; the whole first."""
        yield "overall", "all", np.ones(len(self.rows), bool)
        if not by_domain:
            return
        for index, name in enumerate(self.spec.domains):
            if (self.domain == index).any():
                yield "domain", name, self.domain == index
        for index, name in enumerate(self.spec.verticals):
            if (self.vertical == index).any():
                yield "vertical", name, self.vertical == index


def gate_rows(reader: Reader, gate: Segment) -> GateRows:
    """Rows of a model with a label that matured in the gate window.

    Under several windows those of the longest alone, of which nothing was learnt before.
    """
    packed = reader.packed
    rows, mask = reader.rows(gate)
    mask = mask & reader.served(rows)
    kept = mask.any(axis=1)
    rows, mask = rows[kept], mask[kept]
    return GateRows(
        spec=packed.spec,
        rows=rows,
        mask=mask,
        labels=packed.labels[rows][:, reader.tasks].astype(np.float64),
        users=packed.user[rows],
        domain=packed.domain[rows],
        vertical=packed.vertical[rows],
    )


def judge(
    model: str,
    tasks: list[str],
    gate: GateRows,
    predictions: Mapping[str, np.ndarray],
    limits: Gates,
    opponent: str,
    *,
    by_domain: bool,
) -> list[dict[str, Any]]:
    """Figures of a model by task and slice.

    Args:
        model: Registered name.
        tasks: The model's tasks.
        gate: Its rows.
        predictions: Probabilities, rows x tasks, of `model`, of the opponent, and of whatever else
            is to be shown beside them.
        limits: Says how small a slice may be, and how many resamples to draw.
        opponent: Key in `predictions` of what the model has to beat.
        by_domain: Whether slices by domain and vertical are judged too.

    Returns:
        A record per task and slice. `versus_*` is the NE difference to the opponent relative to
        the opponent's NE; negative is better. `ne_<key>` is the NE of everything shown beside.
    """
    records = []
    for t, task in enumerate(tasks):
        for kind, name, within in gate.slices(by_domain=by_domain):
            at = within & gate.mask[:, t]
            if not at.any():
                continue
            y, users = gate.labels[at, t], gate.users[at]
            p = {key: values[at, t].astype(np.float64) for key, values in predictions.items()}
            own, other = p["model"], p[opponent]
            draws = limits.num_resamples
            ne = metrics.bootstrap_ne(y, own, users, draws)
            calibration = metrics.bootstrap_calibration(y, own, users, draws)
            off = metrics.bootstrap_miscalibration_difference(y, own, other, users, draws)
            versus = metrics.bootstrap_ne_difference(y, own, other, users, num_resamples=draws)
            positives = int(y.sum())
            enough = at.sum() >= limits.min_slice_rows and positives >= limits.min_slice_positives
            records.append(
                {
                    "model": model,
                    "task": task,
                    "slice_kind": kind,
                    "slice": name,
                    "rows": int(at.sum()),
                    "positives": positives,
                    "judged": bool(enough),
                    "opponent": opponent,
                    "ne": ne.value,
                    "ne_low": ne.low,
                    "ne_high": ne.high,
                    "auc": metrics.auc(y, own),
                    "gauc": metrics.gauc(y, own, users),
                    "calibration": calibration.value,
                    "calibration_low": calibration.low,
                    "calibration_high": calibration.high,
                    "calibration_versus_low": off.low,
                    "versus_value": versus.value,
                    "versus_low": versus.low,
                    "versus_high": versus.high,
                    **{f"ne_{key}": metrics.ne(y, q) for key, q in p.items() if key != "model"},
                    **{f"auc_{key}": metrics.auc(y, q) for key, q in p.items() if key != "model"},
                }
            )
    return records


def reliability(
    model: str,
    tasks: list[str],
    gate: GateRows,
    predictions: Mapping[str, np.ndarray],
    opponent: str,
) -> list[dict[str, Any]]:
    """Observed against predicted rate, in ten bins of equal size.

    Args:
        model: Registered name.
        tasks: The model's tasks.
        gate: Its rows.
        predictions: As for `judge`.
        opponent: As for `judge`.

    Returns:
        A record per task and predictor: the model, its twin if it has one, and its opponent.
    """
    records = []
    for t, task in enumerate(tasks):
        at = gate.mask[:, t]
        for key in ("model", "twin", opponent):
            if key not in predictions:
                continue
            curve = metrics.reliability_curve(
                gate.labels[at, t], predictions[key][at, t].astype(np.float64)
            )
            records.append(
                {
                    "model": model,
                    "task": task,
                    "key": key,
                    "predicted": curve.mean_probability.tolist(),
                    "observed": curve.mean_label.tolist(),
                    "rows": curve.num_rows.tolist(),
                }
            )
    return records


def compare_twin(
    model: str,
    tasks: list[str],
    gate: GateRows,
    predictions: Mapping[str, np.ndarray],
    limits: Gates,
) -> list[dict[str, Any]]:
    """What distillation gave a student, per task.

    Args:
        model: Registered name.
        tasks: The student's tasks.
        gate: Its rows.
        predictions: Probabilities of `model`, `twin` and `teacher`; of `champion` and
            `earlier_teacher` where both models have earlier versions.
        limits: As for `judge`.

    Returns:
        A record per task: the NE difference to the twin relative to the twin's NE (negative is
        better); eta, the share of the teacher's gain over the twin that arrived; and tr, that of
        its gain over its earlier version; or why these are undefined.
    """
    records = []
    for t, task in enumerate(tasks):
        at = gate.mask[:, t] & ~np.isnan(predictions["teacher"][:, t])
        y, users = gate.labels[at, t], gate.users[at]
        p = {key: values[at, t].astype(np.float64) for key, values in predictions.items()}
        twin, own, draws = p["twin"], p["model"], limits.num_resamples
        gain = metrics.bootstrap_ne_difference(y, own, twin, users, num_resamples=draws)
        eta = metrics.transfer_ratio(y, twin, own, p["teacher"], users, num_resamples=draws)
        tr = _FIRST_VERSION
        if "champion" in p and "earlier_teacher" in p:
            students = (p["champion"], own)
            teachers = (p["earlier_teacher"], p["teacher"])
            tr = metrics.transfer_between_versions(
                y, students, teachers, users, num_resamples=draws
            )
        positives = int(y.sum())
        enough = at.sum() >= limits.min_slice_rows and positives >= limits.min_slice_positives
        records.append(
            {
                "model": model,
                "task": task,
                "rows": int(at.sum()),
                "positives": positives,
                "judged": bool(enough),
                "twin_value": gain.value,
                "twin_low": gain.low,
                "twin_high": gain.high,
                "ne": metrics.ne(y, p["model"]),
                "ne_twin": metrics.ne(y, p["twin"]),
                "ne_teacher": metrics.ne(y, p["teacher"]),
                **_ratio("eta", eta),
                **_ratio("tr", tr),
            }
        )
    return records


_FIRST_VERSION = metrics.TransferRatio(
    None, None, None, "it takes an earlier version of both teacher and student; found none"
)


def _ratio(name: str, found: metrics.TransferRatio) -> dict[str, Any]:
    """A ratio with its interval, NaN where it is undefined, and then why."""
    values = {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    numbers = {key: np.nan if value is None else value for key, value in values.items()}
    return {**numbers, f"{name}_reason": found.reason or ""}


def with_joint_bounds(twins: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add to every record of `compare_twin` a lower end that holds for all judged ones at once.

    joint_low = value - (value - low) z(1 - 0.025 / m) / z(0.975), for m judged records

    Each interval alone is above 0 by chance in one of forty comparisons of equals, and any of
    eleven in one of four families. Bonferroni's bound keeps that to one in forty for the family.

    Args:
        twins: Records of all students of a family.

    Returns:
        The records with `twin_joint_low`.
    """
    m = max(1, sum(bool(twin["judged"]) for twin in twins))
    wider = NormalDist().inv_cdf(1 - 0.025 / m) / NormalDist().inv_cdf(0.975)
    return [
        {
            **twin,
            "twin_joint_low": twin["twin_value"] - (twin["twin_value"] - twin["twin_low"]) * wider,
        }
        for twin in twins
    ]
