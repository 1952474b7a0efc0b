"""From cells to the figures that the rules of E7 are about, and a table to print."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jobs.transfer.cells import TEACHER
from jobs.transfer.gains import Gain, Losses, Ratio, gain, ratio
from jobs.transfer.settings import TWINS, Study
from model.metrics import Interval

MIN_SEEDS = 2
"""Fewer seeds have no spread to resample."""


class Line(NamedTuple):
    """One arm with one teacher, over the seeds that have run."""

    capacity: str
    bias: str
    staleness: int
    arm: str
    num_seeds: int
    excess_ne: float
    ne: float
    calibration: float
    gain: Gain | None
    """Over the twin."""
    transfer: Ratio | None
    """eta."""
    over_kd: Gain | None
    """Gain over the tuned shared-head student."""
    times_kd: Ratio | None
    """eta over that of the tuned shared-head student: the teacher's gain cancels."""
    weights: list[float]
    """Weight that each seed chose."""


def lines_of(study: Study, cells: Sequence[dict[str, Any]]) -> list[Line]:
    """Every arm beside its twin, its teacher and tuned distillation, on the seeds of all four."""
    found = []
    for capacity in study.capacities:
        for bias in study.biases:
            for staleness in study.staleness:
                with_teacher = {"bias": bias, "staleness": staleness}
                teachers = _by_seed(cells, {"arm": TEACHER, "capacity": None, **with_teacher})
                arms = {
                    arm: _by_seed(
                        cells,
                        {"arm": arm, "capacity": capacity}
                        | ({"bias": None, "staleness": None} if arm in TWINS else with_teacher),
                    )
                    for arm in (*study.arms, *study.extras)
                }
                named = (capacity, bias, staleness)
                found.append(_line(*named, TEACHER, teachers, arms["raw"], teachers, {}))
                found += [
                    _line(*named, arm, own, arms["raw"], teachers, arms.get("kd", {}))
                    for arm, own in arms.items()
                ]
    return [line for line in found if line.num_seeds]


def _line(
    capacity: str,
    bias: str,
    staleness: int,
    arm: str,
    own: dict[int, dict[str, Any]],
    twins: dict[int, dict[str, Any]],
    teachers: dict[int, dict[str, Any]],
    distilled: dict[int, dict[str, Any]],
) -> Line:
    seeds = sorted(own.keys() & twins.keys() & teachers.keys())
    cells = [own[seed] for seed in seeds]
    won = transfer = over_kd = times_kd = None
    if len(seeds) >= MIN_SEEDS and arm != "raw":
        won = gain(_losses(twins, seeds), _losses(own, seeds))
        possible = gain(_losses(twins, seeds), _losses(teachers, seeds))
        transfer = ratio(won, possible, "the teacher over the twin") if arm != TEACHER else None
        paired = sorted(set(seeds) & distilled.keys())
        if len(paired) >= MIN_SEEDS and arm not in ("kd", *TWINS):
            mine = _losses(own, paired)
            over_kd = gain(_losses(distilled, paired), mine)
            kd = gain(_losses(twins, paired), _losses(distilled, paired))
            times_kd = ratio(gain(_losses(twins, paired), mine), kd, "tuned distillation")
    return Line(
        capacity,
        bias,
        staleness,
        arm,
        len(seeds),
        _mean(cells, "excess_ne"),
        _mean(cells, "ne"),
        _mean(cells, "calibration"),
        won,
        transfer,
        over_kd,
        times_kd,
        [cell["trials"][cell["chosen"]]["weight"] for cell in cells if "trials" in cell],
    )


def _by_seed(cells: Iterable[dict[str, Any]], named: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {cell["seed"]: cell for cell in cells if cell.items() >= named.items()}


def _losses(cells: dict[int, dict[str, Any]], seeds: Sequence[int]) -> Losses:
    sums = [cells[seed]["by_group"] for seed in seeds]
    return Losses(
        np.array([each["divergence"] for each in sums]),
        np.array(sums[0]["rows"]),
        cells[seeds[0]]["entropy"],
    )


def _mean(cells: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([cell[name] for cell in cells])) if cells else float("nan")


def table(lines: Sequence[Line], not_run: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: a row per arm and teacher, then what did not run."""
    told = [
        "| Student | Teacher | Arm | Seeds | Excess NE, pp | NE | Gain over the twin, pp | η | "
        "Over tuned KD, pp | Times tuned KD | Calibration | Weights |",
        "| --- | --- | --- | ---: | ---: | ---: | --- | --- | --- | --- | ---: | --- |",
    ]
    for line in lines:
        gains = [_gain(g) for g in (line.gain, line.over_kd)]
        ratios = [_ratio(r) for r in (line.transfer, line.times_kd)]
        told.append(
            f"| {line.capacity} | {line.bias}, {line.staleness} d | {line.arm} | {line.num_seeds} |"
            f" {100 * line.excess_ne:.3f} | {line.ne:.4f} | {gains[0]} | {ratios[0]} | {gains[1]} |"
            f" {ratios[1]} | {line.calibration:.3f} | {', '.join(f'{w:g}' for w in line.weights)} |"
        )
    told += [
        f"| {key['capacity'] or ''} | {key['bias'] or ''} {key['staleness'] or ''} | {key['arm']} |"
        f" *not run*: seed {key['seed']} | | | | | | | | |"
        for key in not_run
    ]
    return told


def recovered(lines: Sequence[Line], arm: str, by: str) -> list[tuple[str, str, Ratio]]:
    """Share of the gain lost to staleness that `by` has over `arm`, by capacity and bias.

    (gain of `by`, stale − gain of `arm`, stale) / (gain of `arm`, fresh − gain of `arm`, stale)
    """
    at = {(x.capacity, x.bias, x.staleness, x.arm): x.gain for x in lines}
    days = sorted({x.staleness for x in lines})
    found = []
    for capacity, bias in dict.fromkeys((x.capacity, x.bias) for x in lines):
        fresh, stale = (
            at.get((capacity, bias, days[0], arm)),
            at.get((capacity, bias, days[-1], arm)),
        )
        other = at.get((capacity, bias, days[-1], by))
        if len(days) < 2 or fresh is None or stale is None or other is None:
            continue
        lost, won = _minus(fresh, stale), _minus(other, stale)
        found.append((capacity, bias, ratio(won, lost, f"{arm} that staleness costs")))
    return found


def _minus(one: Gain, other: Gain) -> Gain:
    draws = one.draws - other.draws
    low, high = np.quantile(draws, [0.025, 0.975])
    value = one.interval.value - other.interval.value
    return Gain(Interval(value, float(low), float(high)), float(draws.std()), draws)


def rules(lines: Sequence[Line]) -> list[str]:
    """What the registered rules come to, one sentence each."""
    told = []
    at = {(x.capacity, x.bias, x.staleness, x.arm): x for x in lines}
    for (capacity, bias, staleness, arm), line in at.items():
        where = f"{capacity}, {bias}, {staleness} d"
        if arm == "full" and line.times_kd is not None:
            found = line.times_kd.interval
            verdict = "no ratio" if found is None else _met(found.value >= 2 and found.low >= 1.5)
            told.append(f"twice tuned KD ({where}): {_ratio(line.times_kd)}: {verdict}")
            continue
        distilled = at.get((capacity, bias, staleness, "kd"))
        if arm == "adapter" and distilled and abs(distilled.calibration - 1) >= 0.04:
            verdict = _met(abs(line.calibration - 1) <= 0.01)
            told.append(
                f"calibration ({where}): tuned KD {distilled.calibration:.3f}, adapter "
                f"{line.calibration:.3f}: {verdict}"
            )
    for capacity, bias, found in recovered(lines, "auxiliary", "adapter"):
        verdict = "no ratio" if found.interval is None else _met(found.interval.value >= 0.5)
        told.append(f"lost gain recovered ({capacity}, {bias}): {_ratio(found)}: {verdict}")
    return told


def plain(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Lines as plain values, draws left out."""
    found = []
    for line in lines:
        values = line._asdict()
        for name in ("gain", "over_kd"):
            won: Gain | None = values[name]
            values[name] = won and {**won.interval._asdict(), "standard_error": won.standard_error}
        for name in ("transfer", "times_kd"):
            of: Ratio | None = values[name]
            values[name] = of and (of.interval._asdict() if of.interval else {"reason": of.reason})
        found.append(values)
    return found


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"


def _gain(found: Gain | None) -> str:
    if found is None:
        return ""
    value, low, high = (100 * x for x in found.interval)
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _ratio(found: Ratio | None) -> str:
    if found is None:
        return ""
    if found.interval is None:
        return f"none: {found.reason}"
    return "{:.3f} [{:.3f}, {:.3f}]".format(*found.interval)
