"""Measure how excess NE falls with compute, and fit the law excess = a C^-b for three models.

Trains Wukong, InterFormer around Wukong, and DLRM at several sizes, each in one pass over the first
days of a frozen simulated world, and holds them against its true probabilities on the day after.
Reads nothing but the simulation; writes, below `<LAPIDARY_HOME>/scaling_law/<hash of the sweep>/`,
`cells.jsonl` (one line per model, size and seed), `law.json` and `law.png`, and an MLflow run with
all three. Guarantees: cells that are in the file are not run again; past the budget of CPU seconds
a run stops, also within a cell, and the rest reads *not run*; the law is fitted to all sizes
but the largest that has run, which it predicts, and told of no model with too few.

    python -m jobs.fit_scaling_law --recipe kuairand
    python -m jobs.fit_scaling_law --cells cells.jsonl \\
        --overrides '{"scaling_law.num_days": 3, "scaling_law.budget_cpu_seconds": 600}'
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from jobs import tracking
from jobs.command import JobSummary, log, write_json
from jobs.config import Recipe, ScalingLaw
from jobs.errors import ConfigError
from jobs.recipe_command import recipe_main, recipe_parser
from jobs.scaling import results, sizes
from jobs.scaling.cells import OutOfBudget, cell_key, config_of, held_cells, run_cell
from jobs.scaling.plots import excess_against_flops
from jobs.scaling.stream import Stream, read_stream
from jobs.simulation import PRESETS
from jobs.simulation.digests import digest

_ABOUT = """Scaling laws on simulated worlds: excess NE against forward FLOPs of a row.

A run is one sweep; its artifacts are the cells, the laws and the plot.
"""


def run(recipe: Recipe, home: str, cells: Path | None = None, device: str = "cpu") -> JobSummary:
    """Run the cells that are missing, as long as the budget lasts, then fit.

    Args:
        recipe: Its `scaling_law` is the sweep; its resources say where MLflow is.
        home: Root of all state.
        cells: File of cells; that in the sweep's folder if None.
        device: Where cells run, as torch names it.

    Raises:
        ConfigError: There is no such world, or it has fewer days.
    """
    started, settings = time.time(), recipe.scaling_law
    deadline = time.process_time() + settings.budget_cpu_seconds
    preset = PRESETS.get(settings.preset)
    if preset is None or settings.num_days > preset.num_days:
        raise ConfigError(
            f"scaling_law.preset, scaling_law.num_days: a frozen world, and no more days than it "
            f"has; found {settings.preset!r} with {settings.num_days} days, there are "
            f"{ {name: p.num_days for name, p in PRESETS.items()} }; choose one of these"
        )
    found = digest(preset.world)
    if found != preset.digest:
        raise ConfigError(
            f"scaling_law.preset: {settings.preset} has rows of digest {preset.digest}; found "
            f"{found}; install the pinned numpy"
        )
    folder = Path(home) / "scaling_law" / _sweep(settings)
    path = cells or folder / "cells.jsonl"
    stream = read_stream(preset.world, settings.num_days)
    done, not_run = _sweep_cells(stream, settings, path, deadline, device)
    curves = [
        results.curve_of(model, [c for c in done if c["model"] == model])
        for model in settings.models
    ]
    laws = {curve.model: results.told(curve) for curve in curves}
    table = results.table(curves, not_run)
    for line in table:
        log.info("%s", line)
    plain = settings.model_dump(mode="json")
    write_json(folder / "law.json", {"settings": plain, "laws": laws, "not_run": not_run})
    figure = excess_against_flops(curves)
    figure.savefig(folder / "law.png", dpi=120, bbox_inches="tight")
    with tracking.research_run(recipe, home, folder.name, "fit_scaling_law", _ABOUT) as logged:
        logged.params({f"scaling_law.{k}": v for k, v in plain.items()})
        logged.metrics(
            {
                f"{model}/{name}": value
                for model, law in laws.items()
                for name, value in _figures(law).items()
            }
        )
        logged.note("\n".join(table))
        logged.figure(figure, "law.png")
        for file in (folder / "law.json", path):
            if file.is_file():
                logged.file(file, "sweep")
    return JobSummary(
        job="fit_scaling_law",
        rows={"learnt_per_cell": stream.num_train_rows, "cells": len(done)},
        details={"folder": str(folder), "laws": laws, "not_run": not_run},
        mlflow_run=logged.id,
        started=started,
        seconds=round(time.time() - started, 2),
    )


def _sweep_cells(
    stream: Stream, settings: ScalingLaw, path: Path, deadline: float, device: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Cells that are there or that ran, and those that did not fit: small sizes come first."""
    held, done, not_run = held_cells(path), [], []
    path.parent.mkdir(parents=True, exist_ok=True)
    for size in range(sizes.NUM_SIZES):
        for model in settings.models:
            config = config_of(stream, model, size)
            for seed in settings.seeds:
                key = cell_key(settings, config, model, size, seed)
                cell = next((c for c in held if c.items() >= key.items()), None)
                if cell is None and time.process_time() < deadline:
                    cell = _run(stream, settings, path, key, deadline, device)
                if cell is None:
                    not_run.append({"model": model, "size": size, "seed": seed})
                else:
                    done.append(cell)
    return done, not_run


def _run(
    stream: Stream,
    settings: ScalingLaw,
    path: Path,
    key: dict[str, Any],
    deadline: float,
    device: str,
) -> dict[str, Any] | None:
    """Run a cell and keep it; None where the budget ends within."""
    try:
        found = run_cell(stream, settings, key["model"], key["size"], key["seed"], deadline, device)
    except OutOfBudget:
        return None
    cell = key | found
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(cell) + "\n")
    log.info(
        "%s size %d seed %d: excess NE %.3f pp, %.1f CPU seconds",
        *(cell["model"], cell["size"], cell["seed"], 100 * cell["excess_ne"], cell["cpu_seconds"]),
    )
    return cell


def _figures(law: dict[str, Any]) -> dict[str, float]:
    if "b" not in law:
        return {}
    b = {"b": law["b"]["value"], "b_low": law["b"]["low"], "b_high": law["b"]["high"]}
    return b | {name: law[name] for name in ("a", "r_squared", "prediction_error")}


def _sweep(settings: ScalingLaw) -> str:
    """Name of a sweep: equal whatever its budget."""
    text = settings.model_dump_json(exclude={"budget_cpu_seconds"})
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _main() -> None:
    parser = recipe_parser(__doc__)
    parser.add_argument("--cells", type=Path, help="file of cells; in the sweep's folder")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    recipe_main(
        parser, lambda recipe, home, options: run(recipe, home, options.cells, options.device)
    )


if __name__ == "__main__":
    _main()
