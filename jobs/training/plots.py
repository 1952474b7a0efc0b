"""Plots for MLflow: reliability, NE by slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"model": "#1f5fbf", "champion": "#c2571a", "log_odds": "#888888", "twin": "#2a9d6f"}


def reliability(curves: Sequence[Mapping[str, Any]]) -> Figure:
    """Observed against predicted rate of one model, one panel per task."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(curve["task"] for curve in curves))
    figure = Figure(figsize=(4.2 * len(tasks), 4.0), layout="constrained")
    for task, axes in zip(tasks, figure.subplots(1, len(tasks), squeeze=False)[0], strict=True):
        own = [curve for curve in curves if curve["task"] == task]
        for curve in own:
            axes.plot(
                curve["predicted"],
                curve["observed"],
                "o-",
                ms=4,
                color=_COLOURS[curve["key"]],
                label=curve["key"],
            )
        top = max((max(c["predicted"] + c["observed"], default=0.0) for c in own), default=0.0)
        axes.plot([0, top], [0, top], ":", color="#444444", lw=1)
        axes.set(title=task, xlabel="predicted rate", ylabel="observed rate")
        axes.legend(frameon=False)
    return figure


def ne_by_slice(records: Sequence[Mapping[str, Any]]) -> Figure:
    """NE of a model with its interval beside its opponent's, by slice, one panel per task."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(record["task"] for record in records))
    figure = Figure(figsize=(5.0 * len(tasks), 4.0), layout="constrained")
    for task, axes in zip(tasks, figure.subplots(1, len(tasks), squeeze=False)[0], strict=True):
        own = [r for r in records if r["task"] == task and r["judged"]][::-1]
        at = np.arange(len(own))
        ne = np.array([r["ne"] for r in own])
        spread = np.abs(np.array([[r["ne_low"], r["ne_high"]] for r in own]).T - ne)
        opponent = own[0]["opponent"] if own else "opponent"
        axes.errorbar(ne, at, xerr=spread, fmt="o", color=_COLOURS["model"], label="model")
        axes.plot(
            [r[f"ne_{opponent}"] for r in own],
            at,
            "s",
            color=_COLOURS.get(opponent, "#888"),
            label=opponent,
        )
        axes.set_yticks(at, [r["slice"] for r in own])
        axes.set(title=task, xlabel="NE (1 = base rate, lower is better)")
        axes.legend(frameon=False)
    return figure
