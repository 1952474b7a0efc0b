"""The charts of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta

from jobs.report import figures
from jobs.report.data import Arrivals, DayRates
from jobs.report.figures import Interval
from jobs.report.models import Curve, Learning, Model, Record
from jobs.report.svg import Drawing, Scale, span

MIN_LEARNING_POINTS = 3
"""A training curve needs so many segments; fewer are told in words."""


def arrivals_chart(days: Sequence[Arrivals]) -> Drawing:
    """Raw rows per arrival day, stacked by verdict."""
    width, height, left, bottom = 590.0, 190.0, 44.0, 22.0
    drawing = Drawing(width, height, "Raw rows per arrival day")
    totals = [d.accepted + d.other + d.duplicates + d.no_consent + d.rejected for d in days]
    y = Scale(0, max(totals, default=1) * 1.08, height - bottom, 8)
    for tick in y.ticks(4):
        drawing.line((left, y(tick)), (width, y(tick)), "grid")
        drawing.text((left - 6, y(tick) + 3.5), _short(tick), "soft", "end")
    slot = (width - left) / max(len(days), 1)
    for index, day in enumerate(days):
        x, base = left + slot * index + slot * 0.14, 0
        parts = (
            (day.accepted, "fill model", "accepted impressions"),
            (day.other, "fill teacher", "accepted rows of other feeds"),
            (day.duplicates, "fill log_odds", "duplicates"),
            (day.no_consent, "fill twin", "without consent"),
            (day.rejected, "fill champion", "quarantined"),
        )
        for rows, css, name in parts:
            top = y(base + rows)
            title = f"{day.day}: {figures.count(rows)} {name}"
            drawing.rect((x, top), slot * 0.72, y(base) - top, css, title)
            base += rows
        if index % math.ceil(len(days) / 12) == 0:
            drawing.text(
                (left + slot * (index + 0.5), height - 6), day.day[5:], "soft", anchor="middle"
            )
    return drawing


def rates_chart(days: Sequence[DayRates], task: str) -> Drawing:
    """Base rate of a task by day; the gate day is the last."""
    width, height, left, bottom = 186.0, 190.0, 38.0, 22.0
    drawing = Drawing(width, height, f"Base rate of {task} by day")
    values = [day.rates[task] for day in days]
    known = [value for value in values if not math.isnan(value)]
    y = Scale(0, max(known, default=1.0) * 1.15, height - bottom, 24)
    x = Scale(0, max(len(days) - 1, 1), left + 6, width - 10)
    drawing.text((left, 12), task, "strong")
    for tick in y.ticks(3):
        drawing.line((left, y(tick)), (width, y(tick)), "grid")
        drawing.text((left - 5, y(tick) + 3.5), figures.rate(tick, 0), "soft", "end")
    points = [(x(i), y(value)) for i, value in enumerate(values)]
    drawing.path(points, "stroke model")
    for (px, py), day in zip(points, days, strict=True):
        if math.isfinite(py):
            rows = figures.count(day.rows)
            title = f"{day.day}: {figures.rate(day.rates[task], 2)} of {rows} examples"
            drawing.circle((px, py), 2.4, "fill model", title)
    for index in {0, len(days) - 1}:
        anchor = "start" if index == 0 else "end"
        drawing.text((x(index), height - 6), days[index].day[5:], "soft", anchor)
    return drawing


def reliability_chart(curves: Sequence[Curve], task: str, note: str) -> Drawing:
    """Observed against predicted rate of a model, its twin and its opponent in one task."""
    side, left, bottom = 190.0, 36.0, 30.0
    drawing = Drawing(side, side, f"Reliability, {task}")
    drawing.text((side - 6, 12), note, "soft small", "end")
    own = [curve for curve in curves if curve.task == task]
    top = max((v for c in own for v in [*c.predicted, *c.observed]), default=1.0)
    x = Scale(0, top * 1.08, left, side - 6)
    y = Scale(0, top * 1.08, side - bottom, 20)
    drawing.text((left, 12), task, "strong")
    digits = 0 if top > 0.05 else 1
    for tick in x.ticks(3):
        drawing.line((x(tick), y(0)), (x(tick), y(x.high)), "grid")
        drawing.line((x(0), y(tick)), (x(x.high), y(tick)), "grid")
        if tick:
            at = (x(tick), side - bottom + 13)
            drawing.text(at, figures.rate(tick, digits), "soft", "middle")
        drawing.text((left - 4, y(tick) + 3.5), figures.rate(tick, digits), "soft", "end")
    drawing.text(((left + side - 6) / 2, side - 3), "predicted", "soft", "middle")
    drawing.line((x(0), y(0)), (x(x.high), y(x.high)), "diagonal")
    for curve in sorted(own, key=lambda curve: curve.key == "model"):
        points = [(x(p), y(o)) for p, o in zip(curve.predicted, curve.observed, strict=True)]
        drawing.path(points, f"stroke thin {curve.key}")
        if curve.key != "model":
            continue
        for (px, py), p, (observed, rows) in zip(
            points, curve.predicted, _bins(curve), strict=True
        ):
            low, high = _wilson(observed, rows)
            drawing.line((px, y(low)), (px, y.clipped(high)), "stroke thin model")
            title = (
                f"predicted {figures.rate(p, 2)}, observed {figures.rate(observed, 2)}, "
                f"{figures.count(rows)} rows"
            )
            drawing.circle((px, py), 2.6, "fill model", title)
    return drawing


def learning_chart(lines: Sequence[Learning], task: str, time_zone: str) -> Drawing:
    """NE of labels before they were learnt, over the segments of training."""
    width, height, left, bottom = 190.0, 140.0, 36.0, 20.0
    drawing = Drawing(width, height, f"NE before each update, {task}")
    own = [line for line in lines if line.task == task]
    values = [value for line in own for value in line.ne if math.isfinite(value)]
    low, high = span([*values, 1.0] if _near(values) else values)
    y = Scale(low, high, height - bottom, 22)
    x = Scale(0, max((len(line.ne) for line in own), default=2) - 1, left + 6, width - 8)
    drawing.text((left, 12), task, "strong")
    for tick in y.ticks(3):
        drawing.line((left, y(tick)), (width, y(tick)), "grid")
        drawing.text((left - 5, y(tick) + 3.5), f"{tick:.2f}", "soft", "end")
    if low < 1 < high:
        drawing.line((left, y(1)), (width, y(1)), "diagonal")
    for line in sorted(own, key=lambda line: line.key == "model"):
        points = [(x(i), y(value)) for i, value in enumerate(line.ne)]
        drawing.path(points, f"stroke {line.key}")
        for (px, py), ends, value in zip(points, line.ends, line.ne, strict=True):
            if math.isfinite(py):
                title = f"until {figures.moment(ends, time_zone)}: NE {figures.decimal(value)}"
                drawing.circle((px, py), 2, f"fill {line.key}", title)
    ends = own[0].ends if own else []
    for index in {0, len(ends) - 1} if ends else set():
        anchor = "start" if index == 0 else "end"
        # A segment ends at midnight: name the day that it closes.
        day = figures.moment(ends[index] - timedelta(seconds=1), time_zone)[5:10]
        drawing.text((x(index), height - 5), day, "soft", anchor)
    return drawing


def slices_chart(records: Sequence[Record], task: str, *, labels: bool) -> Drawing:
    """NE of a model with its interval by slice, its opponent and the trees beside it."""
    row, top, left = 21.0, 36.0, 150.0 if labels else 8.0
    own = [record for record in records if record.task == task]
    width, height = left + 328.0, top + row * len(own) + 6
    drawing = Drawing(width, height, f"NE by slice, {task}")
    known = [
        value
        for r in own
        if r.judged
        for value in (*r.own["ne"], *(_beside(r, key) for key in (r.opponent, "trees")))
    ]
    x = Scale(*span(known), left, width - 8)
    drawing.text((left, 12), task, "strong")
    for tick in x.ticks(4):
        drawing.line((x(tick), top - 6), (x(tick), height - 4), "grid")
        drawing.text((x(tick), top - 11), f"{tick:.2f}", "soft", "middle")
    for index, record in enumerate(own):
        y = top + row * (index + 0.5)
        if labels:
            indent = 12 if record.kind == "vertical" else 0
            drawing.text((indent, y + 4), _slice_title(record))
        if not record.judged:
            few = f"too small: {record.rows:,} rows, {record.positives:,} positives"
            drawing.text((left + 4, y + 4), few, "soft small")
            continue
        ne = record.own["ne"]
        drawing.line((x.clipped(ne.low), y), (x.clipped(ne.high), y), "stroke model")
        title = f"NE {figures.decimal(ne.value)}, {figures.spread(ne)}"
        for key, size in (("trees", 6.0), (record.opponent, 7.0)):
            value = _beside(record, key)
            if math.isfinite(value):
                at = (x.clipped(value) - size / 2, y - size / 2)
                beside = f"{key}: NE {figures.decimal(value)}"
                drawing.rect(at, size, size, f"fill {key}", beside)
        drawing.circle((x.clipped(ne.value), y), 3.4, "fill model", title)
    return drawing


def interval_glyph(
    interval: Interval, ends: tuple[float, float], limit: float, css: str
) -> Drawing:
    """A difference with its interval; a line marks zero, a dashed one the gate's limit."""
    width, height = 96.0, 16.0
    title = f"{figures.change(interval.value)}, {figures.change_spread(interval)}"
    drawing = Drawing(width, height, title)
    x = Scale(*ends, 4, width - 4)
    drawing.line((x(0), 1), (x(0), height - 1), "axis")
    if limit > 0:
        drawing.line((x.clipped(limit), 1), (x.clipped(limit), height - 1), "limit")
    if math.isfinite(interval.low) and math.isfinite(interval.high):
        low, high = x.clipped(interval.low), x.clipped(interval.high)
        drawing.line((low, 8), (high, 8), f"stroke {css}")
    if math.isfinite(interval.value):
        drawing.circle((x.clipped(interval.value), 8), 3.2, f"fill {css}", title)
    return drawing


def reach(intervals: Sequence[Interval], limit: float) -> tuple[float, float]:
    """The range that a column of glyphs shows: zero, the limit, and most of the intervals."""
    known = [interval for interval in intervals if math.isfinite(interval.low + interval.high)]
    lows = sorted(interval.low for interval in known)
    highs = sorted(interval.high for interval in known)
    low = min(lows[len(lows) // 10], 0.0) if lows else 0.0
    high = max(highs[-1 - len(highs) // 10], 0.0, limit) if highs else limit
    room = (high - low or 0.01) * 0.08
    return low - room, high + room


def standing(interval: Interval) -> str:
    """Whether a difference is certainly `better`, certainly `worse`, or `open`."""
    if interval.high < 0:
        return "better"
    return "worse" if interval.low > 0 else "open"


def tasks_of(items: Sequence[Record] | Sequence[Curve] | Sequence[Learning]) -> list[str]:
    """Tasks in the order in which they occur."""
    return list(dict.fromkeys(item.task for item in items))


def learns_long_enough(model: Model) -> bool:
    """Whether there are enough segments to draw."""
    return any(len(line.ne) >= MIN_LEARNING_POINTS for line in model.learning)


def _bins(curve: Curve) -> list[tuple[float, float]]:
    return list(zip(curve.observed, curve.rows, strict=True))


def _wilson(rate: float, rows: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate."""
    z = 1.96
    middle = (rate + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * math.sqrt(rate * (1 - rate) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _near(values: Sequence[float]) -> bool:
    """Whether the base rate's NE of 1 lies close enough to be shown."""
    return bool(values) and max(values) > 0.93


def _beside(record: Record, key: str) -> float:
    return record.others["ne"].get(key, math.nan)


def _slice_title(record: Record) -> str:
    if record.kind == "overall":
        return "all"
    return record.slice if record.kind == "domain" else record.slice.split("-", 1)[-1]


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
