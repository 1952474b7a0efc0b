"""Cells of the study: one arm, with one teacher and one seed, tuned and judged."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from jobs.errors import ConfigError
from jobs.training_settings import Trial
from jobs.transfer.arms import distillation_config, means_of, student_config
from jobs.transfer.lessons import judged_rows, lessons, over_prediction_shift, own_rows
from jobs.transfer.rows import NUM_GROUPS, Rows
from jobs.transfer.settings import TWINS, Arm, Bias, Capacity, Study
from jobs.transfer.students import learn
from jobs.transfer.teacher import Taught
from model import metrics
from model.ranker import flops, num_parameters

TEACHER = "teacher"
PLAIN: dict[str, Any] = {"refresh_hours": None, "overlap": None, "histories": None}
"""What a cell's key says of a variant, where it is none: what is cached is refreshed as the study
says, soft labels come straight from the teacher, and counts are of all platforms."""
_SWEPT = {"arms", "extras", "seeds", "biases", "capacities", "overlaps", "own_histories"}
"""Settings that say which cells there are, and change no cell."""


def keys_of(study: Study, rows: Rows) -> list[dict[str, Any]]:
    """All cells, in the order in which they run: what the rules are about comes first."""
    named = {"study": study_digest(study), "rows": rows.digest[:16]}
    later = sorted(
        _cells(study), key=lambda cell: (cell["arm"] in study.extras, cell["capacity"] == "counted")
    )
    return [named | cell for cell in later]


def study_digest(study: Study) -> str:
    """What a cell's figures depend on, but for what its own key says."""
    # Without delays, compressors start as they did before there were any.
    swept = _SWEPT if study.delays else {*_SWEPT, "delays"}
    return hashlib.sha256(study.model_dump_json(exclude=swept).encode()).hexdigest()[:12]


def _cells(study: Study) -> Iterator[dict[str, Any]]:
    teachers = [(bias, days) for days in study.staleness for bias in study.biases]
    for seed in study.seeds:
        for bias, staleness in teachers:
            named = {"bias": bias, "staleness": staleness, "seed": seed}
            for histories in (None, "own") if study.own_histories else (None,):
                yield {"arm": TEACHER, "capacity": None, **named, **PLAIN, "histories": histories}
        for capacity in study.capacities:
            for arm in (*study.arms, *study.extras):
                some = teachers[:1] if arm in study.extras else teachers
                for bias, staleness in [(None, None)] if arm in TWINS else some:
                    named = {"bias": bias, "staleness": staleness, "seed": seed}
                    for variant in variants(study, arm, capacity, (bias, staleness)):
                        yield {"arm": arm, "capacity": capacity, **named, **variant}


def variants(
    study: Study, arm: Arm, capacity: Capacity, teacher: tuple[str | None, int | None]
) -> list[dict[str, Any]]:
    """What an arm runs with besides its teacher's bias and staleness, the plain arm first."""
    means = means_of(arm, capacity)
    found = [PLAIN]
    if means.is_cached and arm != "raw":
        found += [PLAIN | {"refresh_hours": hours} for hours in study.delays]
    if means.is_scores_alone and teacher == ("unbiased", min(study.staleness)):
        found += [PLAIN | {"overlap": overlap} for overlap in study.overlaps]
    if study.own_histories and means.counts and arm in TWINS and arm != "raw":
        found.append(PLAIN | {"histories": "own"})
    return found


def held_cells(path: Path) -> list[dict[str, Any]]:
    """The cells in a file; none without one. A line that a crash cut short is passed over."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = []
    for line in lines:
        try:
            # Cells of before there were variants say nothing of them.
            found.append(PLAIN | json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def keep_cell(path: Path, cell: dict[str, Any]) -> None:
    """Append a cell to a file, on a line of its own also after one that was cut short."""
    with path.open("a+b") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - 1))
        if end and file.read(1) != b"\n":
            file.write(b"\n")
        file.write(json.dumps(cell).encode() + b"\n")


def teacher_cell(study: Study, rows: Rows, key: dict[str, Any], taught: Taught) -> dict[str, Any]:
    """What a teacher itself says on the test day."""
    at = judged_rows(study, rows, study.num_days - 1)
    staleness = key["staleness"]
    check_out_of_sample(rows, taught, staleness)
    shift = 0.0
    if key["bias"] != "unbiased":
        shift = over_prediction_shift(study, taught, staleness)
    logits = torch.from_numpy(taught.logits[staleness][at]) + shift
    return (
        key
        | _judged(rows, at, logits)
        | {"shift": shift, "trained_days": int(study.num_days - 1 - staleness)}
    )


def student_cell(
    study: Study,
    rows: Rows,
    key: dict[str, Any],
    taught: Taught | None,
    twin_trial: int | None,
    deadline: float,
) -> dict[str, Any]:
    """Tune an arm on the validation day and judge it on the test day.

    Args:
        study: The study.
        rows: All rows.
        key: The cell.
        taught: What its teacher told; None for arms without one.
        twin_trial: Learning rates that its twin chose; None for arms tuned over them.
        deadline: Unix seconds at which to stop.

    Raises:
        OutOfTime: The deadline came first.
        ConfigError: A score is not out of sample.
    """
    started = time.process_time()
    arm, capacity = cast(Arm, key["arm"]), cast(Capacity, key["capacity"])
    bias, staleness = cast(Bias | None, key["bias"]), cast(int | None, key["staleness"])
    means = means_of(arm, capacity)
    hours = cast(int, key["refresh_hours"] or study.refresh_hours)
    if taught is not None and staleness is not None:
        check_out_of_sample(rows, taught, staleness, hours)
    validation, test = (judged_rows(study, rows, study.num_days - back) for back in (2, 1))
    own = own_rows(study, rows, key["seed"])
    read = [
        lessons(study, rows, at, means, taught, bias, staleness, hours)
        for at in (own, validation, test)
    ]
    config = student_config(study, rows, capacity, means)
    labels = rows.stream.labels[torch.from_numpy(validation)].numpy()
    trials, judged = [], []
    for weight, trial in _trials(study, means.head is not None, twin_trial):
        taught_how = distillation_config(means, weight)
        told = learn(
            config, taught_how, trial, study.batch_size, key["seed"], read[0], read[1:], deadline
        )
        judged.append(_judged(rows, test, told[1]))
        trials.append(
            {
                "weight": weight,
                **trial.model_dump(),
                "validation_ne": metrics.ne(labels, told[0].double().sigmoid().numpy()),
                "excess_ne": judged[-1]["excess_ne"],
            }
        )
    chosen = min(range(len(trials)), key=lambda index: trials[index]["validation_ne"])
    earlier = study.history_length if means.history else 0
    return (
        key
        | judged[chosen]
        | {
            "chosen": chosen,
            "trials": trials,
            "num_own_rows": len(own),
            "num_parameters": num_parameters(config),
            "flops_per_row": flops(config, 0, 1.0, earlier),
            "cpu_seconds": round(time.process_time() - started, 1),
            "torch": torch.__version__,
        }
    )


def _trials(study: Study, is_distilled: bool, twin_trial: int | None) -> list[tuple[float, Trial]]:
    """What an arm is tuned over: weights with its twin's learning rates, or learning rates."""
    if is_distilled:
        assert twin_trial is not None, "a distilled arm runs after its twin"
        return [(weight, study.trials[twin_trial]) for weight in study.weights]
    return [(0.0, trial) for trial in study.trials]


def _judged(rows: Rows, at: np.ndarray, logits: torch.Tensor) -> dict[str, Any]:
    """Figures on judged rows, and what resampling users needs: sums by group."""
    told = logits.double().sigmoid().numpy()
    p_star, labels = rows.stream.p_star[at], rows.stream.labels[torch.from_numpy(at)].numpy()
    kept = np.clip(told, metrics.EPSILON, 1 - metrics.EPSILON)
    divergence = p_star * np.log(p_star / kept) + (1 - p_star) * np.log((1 - p_star) / (1 - kept))
    group, rate = rows.group[at], p_star.mean()
    sums = {
        name: [float(f"{x:.7g}") for x in np.bincount(group, values, NUM_GROUPS)]
        for name, values in (("divergence", divergence), ("predicted", told), ("expected", p_star))
    }
    return {
        "excess_ne": metrics.excess_ne(p_star, told),
        "ne": metrics.ne(labels, told),
        "calibration": float(told.sum() / p_star.sum()),
        "calibration_of_labels": metrics.calibration(labels, told),
        "entropy": float(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate)),
        "num_test_rows": len(at),
        "by_group": {**sums, "rows": np.bincount(group, minlength=NUM_GROUPS).tolist()},
    }


def check_out_of_sample(
    rows: Rows, taught: Taught, staleness: int, hours: int | None = None
) -> None:
    """Refuse what a snapshot tells that has learnt the day of its rows, or a later one.

    Args:
        rows: All rows.
        taught: What the teacher told.
        staleness: Days between the last that the snapshot has learnt and the row's, or that of the
            refresh of what is cached of its user.
        hours: Between refreshes; None to look at scores alone.
    """
    scored = ~np.isnan(taught.logits[staleness])
    told = [("score", taught.trained_until[staleness], rows.day)]
    if hours is not None:
        until = taught.cached_until[staleness, hours]
        told.append(("cached vector", until, rows.refresh_day(hours)))
    for what, until, day in told:
        late = scored & (until > day - staleness)
        if late.any():
            row = int(np.flatnonzero(late)[0])
            raise ConfigError(
                f"teacher: a {what} of staleness {staleness} comes from a snapshot that has learnt "
                f"days up to {staleness} before the row's or its refresh; found one up to day "
                f"{until[row]} for a row of day {rows.day[row]}; delete the study's folder and run "
                "again"
            )
