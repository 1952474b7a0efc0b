"""From cells to each model's law, its test on the largest size, and a table to print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jobs.scaling.law import PowerLaw, fit_power_law, predict
from model.metrics import Interval


class Point(NamedTuple):
    """A model at one size, over its seeds."""

    size: int
    flops: float
    excess: float
    standard_error: float
    num_seeds: int


@dataclass(frozen=True)
class Curve:
    """A model's points in order of size, and the law through all but the largest size."""

    model: str
    points: list[Point]
    law: PowerLaw | None
    predicted: Interval | None
    """Excess NE of the largest size, which the law has not seen."""
    reason: str | None
    """Why there is no law."""

    @property
    def prediction_error(self) -> float | None:
        """Predicted over measured excess NE of the largest size, less 1."""
        if self.predicted is None:
            return None
        return self.predicted.value / self.points[-1].excess - 1


def curve_of(model: str, cells: Sequence[dict[str, Any]]) -> Curve:
    """Fit a model's law on all sizes but the largest that has run, and predict that one.

    A point's standard error joins that of resampled users, which all sizes and seeds share, and
    that of the mean over seeds.

    Args:
        model: The model.
        cells: Its cells that have run.
    """
    points = []
    for size in sorted({cell["size"] for cell in cells}):
        own = [cell for cell in cells if cell["size"] == size]
        excess = np.array([cell["excess_ne"] for cell in own])
        users = float(np.mean([cell["excess_ne_error"] for cell in own]))
        seeds = float(excess.std(ddof=1)) / len(own) ** 0.5 if len(own) > 1 else 0.0
        error = float(np.hypot(users, seeds))
        points.append(Point(size, own[0]["flops_per_row"], float(excess.mean()), error, len(own)))
    flops, excess, errors = (
        np.array([getattr(point, name) for point in points[:-1]])
        for name in ("flops", "excess", "standard_error")
    )
    try:
        law = fit_power_law(flops, excess, errors)
    except ValueError as error:
        return Curve(model, points, None, None, str(error))
    return Curve(model, points, law, predict(law, points[-1].flops), None)


def told(curve: Curve) -> dict[str, Any]:
    """A curve as plain values."""
    values: dict[str, Any] = {"points": [point._asdict() for point in curve.points]}
    if curve.law is None or curve.predicted is None:
        return values | {"reason": curve.reason}
    return values | {
        "a": curve.law.scale,
        "b": curve.law.exponent._asdict(),
        "r_squared": curve.law.r_squared,
        "misfit": curve.law.misfit,
        "predicted": curve.predicted._asdict(),
        "prediction_error": curve.prediction_error,
    }


def table(curves: Sequence[Curve], not_run: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of a Markdown table: a row per model and size, then one per law."""
    lines = ["| Model | Size | MFLOP a row | Excess NE, pp | |", "| --- | --- | --- | --- | --- |"]
    for curve in curves:
        last = curve.points[-1].size if curve.predicted else None
        for point in curve.points:
            held = "held out" if point.size == last else ""
            value = f"{100 * point.excess:.3f} ± {196 * point.standard_error:.3f}"
            lines.append(
                f"| {curve.model} | {point.size} | {point.flops / 1e6:.3f} | {value} | {held} |"
            )
        lines += [
            f"| {cell['model']} | {cell['size']} | | *not run* | seed {cell['seed']} |"
            for cell in not_run
            if cell["model"] == curve.model
        ]
        lines.append(f"| **{curve.model}** | law | | {_law(curve)} | |")
    return lines


def _law(curve: Curve) -> str:
    if curve.law is None or curve.predicted is None or curve.prediction_error is None:
        return f"none: {curve.reason}"
    b, at = curve.law.exponent, curve.predicted
    return (
        f"b = {b.value:.3f} [{b.low:.3f}, {b.high:.3f}], R² = {curve.law.r_squared:.3f}, misfit "
        f"{curve.law.misfit:.1f}; predicts {100 * at.value:.3f} [{100 * at.low:.3f}, "
        f"{100 * at.high:.3f}], {100 * curve.prediction_error:+.1f} %"
    )
