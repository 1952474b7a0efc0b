"""What is a daily retrain worth? The teacher through yesterday against itself two days older.

The recipe's teacher learns the rows of a finished run of recipe `kuairand` (for day 2022-05-04: its
packed arrays, which hold all ten days) once in order of time. What it predicts of 4 May after
learning up to 3 May is held against what it predicted after learning up to 1 May: the same seed,
rows and settings, two days of labels apart.

Figures: NE of both per task, means over seeds, and their relative difference with a 95 % interval
over seeds and users, both resampled. Bar, set before the first run: on `click` and `long_view` the
whole interval lies below zero.

    python -m jobs.run_local --recipe kuairand --day 2022-05-04 --stop-after fit_baselines
    python -m tests.bench.bench_staleness --run var/runs/<run>
"""

from __future__ import annotations

import argparse
import json
from datetime import date, timedelta
from pathlib import Path

import torch

from jobs.config import day_start, load_config
from jobs.training.evaluation import gate_rows
from jobs.training.inputs import Packed
from jobs.training.segments import Segment
from jobs.training.teacher import teacher_reader
from tests.bench.teachers import differences, predictions

STALE_FROM, JUDGED = date(2022, 5, 2), date(2022, 5, 4)
"""The first day that the stale model has not learnt, and the day that is judged."""


def main() -> None:
    """Train every seed, then tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a run with packed/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(str(options.run / "config.json"))
    reader = teacher_reader(config, Packed(options.run / "packed"))
    zone = config.contract.time_zone
    stale, judged, end = (
        day_start(day, zone) for day in (STALE_FROM, JUDGED, JUDGED + timedelta(days=1))
    )
    gate = gate_rows(reader, Segment(judged, end))
    spans = {"stale": Segment(None, stale), "fresh": Segment(stale, judged)}
    for line in differences(gate, predictions(config, reader, spans, gate.rows), "fresh", "stale"):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
