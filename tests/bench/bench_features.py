"""Does the teacher read the better features in one run than in another?

Two finished runs of one day whose configurations differ in what is read: counts, recency, history.
The recipe's teacher learns each run's packed rows once, up to the gate window, and predicts
the window. Rows, seeds and settings are the same.

Figures: NE of both per task, means over seeds, and their relative difference with a 95 % interval
over seeds and users, both resampled; negative: the second run's are better.

    python -m jobs.run_local --recipe kuairand --day 2022-05-03 --stop-after judge_teacher
    python -m jobs.run_local --recipe kuairand --day 2022-05-03 --stop-after judge_teacher \\
        --overrides '{"contract.features.recency": {"click": ["user", "ad"]}}'
    python -m tests.bench.bench_features var/runs/<the one> var/runs/<the other>
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from jobs.config import load_config
from jobs.training.evaluation import GateRows, gate_rows
from jobs.training.inputs import Packed
from jobs.training.segments import Segment, gate_segment
from jobs.training.teacher import teacher_reader
from tests.bench.teachers import differences, predictions


def main() -> None:
    """Train every seed on both, then tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, help="folder of a run with packed/")
    parser.add_argument("after", type=Path, help="folder of another")
    options = parser.parse_args()
    torch.set_num_threads(1)
    (gate, before), (same, after) = (_told(path) for path in (options.before, options.after))
    if not np.array_equal(gate.rows, same.rows) or not np.array_equal(gate.labels, same.labels):
        parser.error("the runs judge other rows; give two runs of one day of the same log")
    told = {"before": before, "after": after}
    for line in differences(gate, told, "after", "before"):
        print(json.dumps(line))


def _told(run: Path) -> tuple[GateRows, np.ndarray]:
    config = load_config(str(run / "config.json"))
    reader = teacher_reader(config, Packed(run / "packed"))
    gate = gate_rows(reader, gate_segment(config.plan))
    spans = {"teacher": Segment(None, config.plan.gate_start)}
    return gate, predictions(config, reader, spans, gate.rows)["teacher"]


if __name__ == "__main__":
    main()
