"""Measure how much of a teacher's gain reaches students by each means of transfer: experiment E7.

Simulates a frozen world, trains one teacher per seed on all of it in one pass, scores each day by
snapshots of two ages, and trains students of one domain on a share of its rows by every arm. Where
the study asks for it, arms run again with what is cached of users refreshed at other times (E6),
with soft labels of a domain student, or with counts of one platform's actions alone. Reads nothing
but the simulation. Writes `--cells`, one line of JSON per cell, and beside it `results.json` and
`results.md`. Guarantees: cells that are in the file are not run again; past `--seconds` a run
stops, also within a cell, and the rest reads *not run*; every arm is tuned over as many trials on
the validation day and judged on the test day; a score comes from a snapshot that has learnt nothing
of its day, what is cached of a user from one that has learnt nothing of the day of its refresh,
which is checked.

    python -m jobs.measure_distillation --cells var/transfer/cells.jsonl --seconds 3600 --workers 2
    python -m jobs.measure_distillation --cells cells.jsonl --device cuda --workers 14 \\
        --overrides '{"seeds": [0, 1], "delays": [1, 72], "overlaps": [0.5], "own_histories": true}'
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from jobs.command import JobSummary, exit_with, log, write_json
from jobs.errors import ConfigError
from jobs.settings import checked
from jobs.simulation import PRESETS
from jobs.transfer import results
from jobs.transfer.cells import held_cells, keep_cell, keys_of
from jobs.transfer.rows import read_rows
from jobs.transfer.running import run_cells
from jobs.transfer.settings import Study


def run(
    study: Study, cells: Path, folder: Path, device: str, num_workers: int, seconds: float
) -> JobSummary:
    """Run the cells that are missing, as long as the seconds last, and tell what all say.

    Args:
        study: The study.
        cells: File of cells.
        folder: Where what teachers tell is kept, about 150 MB each for a million rows.
        device: Where teachers learn, as torch names it.
        num_workers: Processes; with 0 all is done in this one.
        seconds: Seconds after which to stop, counted from now.

    Raises:
        ConfigError: There is no such world, it has fewer days or domains, or no GPU is there.
    """
    started = time.time()
    _check(study)
    # Before anything starts threads of its own: workers are forked.
    torch.set_num_threads(1)
    rows = read_rows(study)
    log.info("%d rows after %.0f seconds", len(rows.day), time.time() - started)
    keys, held = keys_of(study, rows), held_cells(cells)
    done = [c for c in held if any(c.items() >= key.items() for key in keys)]
    missing = [key for key in keys if not any(c.items() >= key.items() for c in done)]
    cells.parent.mkdir(parents=True, exist_ok=True)
    deadline = started + seconds
    for cell in run_cells(study, rows, missing, done, folder, device, num_workers, deadline):
        keep_cell(cells, cell)
        done.append(cell)
        named = [str(cell[name]) for name in ("arm", "capacity", "bias", "staleness", "seed")]
        of = " ".join((*named, results.variant_of(cell)))
        log.info("%s: excess NE %.3f pp", of, 100 * cell["excess_ne"])
    not_run = [key for key in keys if not any(c.items() >= key.items() for c in done)]
    lines = results.lines_of(study, done)
    rules = [*results.rules(lines), *results.by_delay(study, lines)]
    told = [*results.table(lines, not_run), "", *rules]
    for line in told:
        log.info("%s", line)
    plain = {"study": study.model_dump(mode="json"), "lines": results.plain(lines)}
    found = {**plain, "rules": rules, "not_run": not_run}
    write_json(cells.parent / "results.json", found)
    (cells.parent / "results.md").write_text("\n".join(told) + "\n", encoding="utf-8")
    return JobSummary(
        job="measure_distillation",
        rows={"rows": len(rows.day), "cells": len(done)},
        details={"rules": rules, "not_run": len(not_run)},
        started=started,
        seconds=round(time.time() - started, 2),
    )


def _check(study: Study) -> None:
    preset = PRESETS.get(study.preset)
    if (
        preset is None
        or study.num_days > preset.num_days
        or study.domain >= preset.world.num_domains
    ):
        known = {name: (p.num_days, p.world.num_domains) for name, p in PRESETS.items()}
        raise ConfigError(
            f"preset, num_days, domain: a frozen world, and no more than it has; found "
            f"{study.preset!r}, {study.num_days} and {study.domain}; days and domains of each are "
            f"{known}; choose one of these"
        )


def _main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=Path, required=True, help="file of cells")
    parser.add_argument("--folder", type=Path, help="of teachers' scores; beside the cells")
    parser.add_argument("--overrides", default="{}", help="JSON object of changed settings")
    parser.add_argument("--device", default="cpu", help="where teachers learn: cpu or cuda")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 for this one alone")
    parser.add_argument("--seconds", type=float, default=3_600.0, help="when to stop")
    options = parser.parse_args()

    def body() -> dict[str, Any]:
        try:
            values = json.loads(options.overrides)
        except json.JSONDecodeError as error:
            raise ConfigError(f"--overrides: not JSON: {error}") from error
        study = checked(Study, values, "--overrides")
        folder = options.folder or options.cells.parent / "teachers"
        given = (options.device, options.workers, options.seconds)
        return asdict(run(study, options.cells, folder, *given))

    exit_with(body)


if __name__ == "__main__":
    _main()
