"""The plot of the scaling law."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jobs.scaling.results import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"wukong": "#1f5fbf", "interformer": "#2a9d6f", "dlrm": "#c2571a"}


def excess_against_flops(curves: Sequence[Curve]) -> Figure:
    """Excess NE against FLOPs of each model, with its law; the held-out size is hollow."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    for curve in curves:
        colour = _COLOURS[curve.model]
        flops = np.array([point.flops for point in curve.points])
        excess = np.array([point.excess for point in curve.points])
        errors = 1.96 * np.array([point.standard_error for point in curve.points])
        fitted = np.arange(len(flops)) < len(flops) - bool(curve.law)
        for chosen, face in ((fitted, colour), (~fitted, "white")):
            axes.errorbar(
                flops[chosen], excess[chosen], errors[chosen], fmt="o", color=colour, mfc=face
            )
        label = curve.model
        if curve.law is not None:
            at = np.geomspace(flops.min(), flops.max(), 50)
            line = curve.law.scale * (at / 1e6) ** -curve.law.exponent.value
            axes.plot(at, line, "-", color=colour, lw=1)
            label = f"{curve.model}: b = {curve.law.exponent.value:.3f}"
        axes.plot([], [], "o", color=colour, label=label)
    axes.set(xlabel="forward FLOPs per row", ylabel="excess NE (simulated)")
    if any(curve.points for curve in curves):
        axes.set(xscale="log", yscale="log")
    figure.legend(loc="outside upper center", ncols=len(curves), frameon=False)
    return figure
