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
_THE_TEACHER = "the teacher over the twin"


class Line(NamedTuple):
    """One arm with one teacher, over the seeds that have run."""

    capacity: str
    bias: str | None
    staleness: int | None
    """None, as the bias, in a study without teachers."""
    arm: str
    variant: str
    """What its cells say of a variant; empty for the plain arm."""
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
    over_plain: Gain | None
    """Of a variant: gain over the plain arm."""
    transfer_over_plain: Ratio | None
    """eta less that of the plain arm."""
    weights: list[float]
    """Weight that each seed chose."""


Cells = dict[int, dict[str, Any]]
"""Cells of one arm by seed."""


def lines_of(study: Study, cells: Sequence[dict[str, Any]]) -> list[Line]:
    """Every arm beside its twin, its teacher and tuned distillation, on the seeds of all four."""
    found = []
    for capacity in study.capacities:
        for bias in study.biases or (None,):
            for staleness in study.staleness if bias else (None,):
                with_teacher = {"bias": bias, "staleness": staleness}
                teachers = _by_variant(cells, {"arm": TEACHER, "capacity": None, **with_teacher})
                arms = {
                    arm: _by_variant(
                        cells,
                        {"arm": arm, "capacity": capacity}
                        | ({"bias": None, "staleness": None} if arm in TWINS else with_teacher),
                    )
                    for arm in (*study.arms, *study.extras)
                }
                beside = _Beside(
                    arms["raw"].get("", {}),
                    teachers.get("", {}) if bias else None,
                    arms.get("kd", {}).get("", {}),
                )
                found += [
                    _line((capacity, bias, staleness, arm, variant), own, of.get("", {}), beside)
                    for arm, of in ((TEACHER, teachers), *arms.items())
                    for variant, own in of.items()
                ]
    return [line for line in found if line.num_seeds]


class _Beside(NamedTuple):
    """What every arm is held against."""

    twins: Cells
    teachers: Cells | None
    """None in a study without any."""
    distilled: Cells


def _line(
    named: tuple[str, str | None, int | None, str, str], own: Cells, plain: Cells, beside: _Beside
) -> Line:
    arm, variant = named[3:]
    twins, teachers, distilled = beside
    seeds = sorted(own.keys() & twins.keys() & (own if teachers is None else teachers).keys())
    cells = [own[seed] for seed in seeds]
    won = transfer = over_kd = times_kd = over_plain = transfer_over_plain = None
    if len(seeds) >= MIN_SEEDS and arm != "raw":
        won = _gain(twins, own, seeds)
        if teachers is not None and (arm, variant) != (TEACHER, ""):
            transfer = ratio(won, _gain(twins, teachers, seeds), _THE_TEACHER)
        paired = sorted(set(seeds) & distilled.keys())
        if len(paired) >= MIN_SEEDS and arm not in ("kd", *TWINS):
            over_kd = _gain(distilled, own, paired)
            kd = _gain(twins, distilled, paired)
            times_kd = ratio(_gain(twins, own, paired), kd, "tuned distillation")
        paired = sorted(set(seeds) & plain.keys())
        if len(paired) >= MIN_SEEDS and variant:
            over_plain = _gain(plain, own, paired)
            if teachers is not None:
                possible = _gain(twins, teachers, paired)
                transfer_over_plain = ratio(over_plain, possible, _THE_TEACHER)
    return Line(
        *named,
        len(seeds),
        _mean(cells, "excess_ne"),
        _mean(cells, "ne"),
        _mean(cells, "calibration"),
        won,
        transfer,
        over_kd,
        times_kd,
        over_plain,
        transfer_over_plain,
        [cell["trials"][cell["chosen"]]["weight"] for cell in cells if "trials" in cell],
    )


def variant_of(cell: dict[str, Any]) -> str:
    """What a cell's key says of a variant, as it is printed."""
    told = {"refresh_hours": "{} h", "overlap": "overlap {}", "histories": "{} histories"}
    return ", ".join(
        text.format(cell[name]) for name, text in told.items() if cell[name] is not None
    )


def _by_variant(cells: Iterable[dict[str, Any]], named: dict[str, Any]) -> dict[str, Cells]:
    """Cells of an arm by variant, in the order in which they ran, and then by seed."""
    found: dict[str, Cells] = {}
    for cell in cells:
        if cell.items() >= named.items():
            found.setdefault(variant_of(cell), {})[cell["seed"]] = cell
    return found


def _gain(worse: Cells, better: Cells, seeds: Sequence[int]) -> Gain:
    return gain(_losses(worse, seeds), _losses(better, seeds))


def _losses(cells: Cells, seeds: Sequence[int]) -> Losses:
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
        "Over tuned KD, pp | Times tuned KD | Over the plain arm, pp | η over the plain arm | "
        "Calibration | Weights |",
        "| --- | --- | --- | ---: | ---: | ---: | --- | --- | --- | --- | --- | --- | ---: | --- |",
    ]
    for line in lines:
        pairs = (
            (line.gain, line.transfer),
            (line.over_kd, line.times_kd),
            (line.over_plain, line.transfer_over_plain),
        )
        found = " | ".join(f"{_gained(won)} | {_ratio(of)}" for won, of in pairs)
        teacher = f"{line.bias}, {line.staleness} d" if line.bias else "none"
        told.append(
            f"| {line.capacity} | {teacher} | {line.arm} {line.variant} | {line.num_seeds} |"
            f" {100 * line.excess_ne:.3f} | {line.ne:.4f} | {found} |"
            f" {line.calibration:.3f} | {', '.join(f'{w:g}' for w in line.weights)} |"
        )
    told += [
        f"| {key['capacity'] or ''} | {key['bias'] or ''} {key['staleness'] or ''} |"
        f" {key['arm']} {variant_of(key)} | *not run*: seed {key['seed']} |" + " |" * 10
        for key in not_run
    ]
    return told


def recovered(lines: Sequence[Line], arm: str, by: str) -> list[tuple[str, str, Ratio]]:
    """Share of the gain lost to staleness that `by` has over `arm`, by capacity and bias.

    (gain of `by`, stale − gain of `arm`, stale) / (gain of `arm`, fresh − gain of `arm`, stale)
    """
    lines = [x for x in lines if not x.variant and x.bias]
    at = {(x.capacity, x.bias, x.staleness, x.arm): x.gain for x in lines}
    days = sorted({x.staleness for x in lines if x.staleness})
    found = []
    for capacity, bias in dict.fromkeys((x.capacity, x.bias or "") for x in lines):
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


def by_delay(study: Study, lines: Sequence[Line]) -> list[str]:
    """How eta of the arms that read what is cached falls with the hours between refreshes."""
    hours = sorted((study.refresh_hours, *study.delays))
    variants = ["" if each == study.refresh_hours else f"{each} h" for each in hours]
    at = {(x.capacity, x.bias, x.staleness, x.arm, x.variant): x for x in lines}
    told = []
    for capacity, bias, staleness, arm in dict.fromkeys(key[:4] for key in at if key[4]):
        named = (capacity, bias, staleness)
        found = [at.get((*named, arm, variant)) for variant in variants]
        teacher = at.get((*named, TEACHER, ""))
        gains = [x.gain for x in found if x and x.gain]
        etas = [x.transfer.interval for x in found if x and x.transfer and x.transfer.interval]
        if len(hours) < 2 or len(etas) < len(hours) or teacher is None or teacher.gain is None:
            continue
        lost = ratio(_minus(gains[0], gains[-1]), teacher.gain, _THE_TEACHER)
        assert lost.interval is not None, "as an eta has one"
        values = [eta.value for eta in etas]
        verdict = _met(values == sorted(values, reverse=True) and lost.interval.low > 0)
        by = ", ".join(
            f"{value:.3f} at {each} h" for value, each in zip(values, hours, strict=True)
        )
        where = f"{capacity}, {bias}, {staleness} d"
        told.append(f"refresh of {arm} ({where}): {by}; lost {_ratio(lost)}: {verdict}")
    return told


def _minus(one: Gain, other: Gain) -> Gain:
    draws = one.draws - other.draws
    low, high = np.quantile(draws, [0.025, 0.975])
    value = one.interval.value - other.interval.value
    return Gain(Interval(value, float(low), float(high)), float(draws.std()), draws)


def rules(lines: Sequence[Line]) -> list[str]:
    """What the registered rules come to, one sentence each."""
    told = []
    at = {(x.capacity, x.bias, x.staleness, x.arm): x for x in lines if not x.variant}
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
        for name in ("gain", "over_kd", "over_plain"):
            won: Gain | None = values[name]
            values[name] = won and {**won.interval._asdict(), "standard_error": won.standard_error}
        for name in ("transfer", "times_kd", "transfer_over_plain"):
            of: Ratio | None = values[name]
            values[name] = of and (of.interval._asdict() if of.interval else {"reason": of.reason})
        found.append(values)
    return found


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"


def _gained(found: Gain | None) -> str:
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
