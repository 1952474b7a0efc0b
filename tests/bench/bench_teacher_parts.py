"""Which optional parts of the teacher earn their place on the bundled log?

The network `gem` learns the rows of a finished run of recipe `kuairand` (for day 2022-05-04: its
packed arrays) once in order of time up to 30 April, as it is and with one part more:

- `next_event`: the loss that foretells each row's newest item (`training.next_event`);
- `matches`: target attention that marks events which share a value with the row;
- `items`: events tell attributes of their item, of a second run that declares them
  (`timeline_item_attributes`), given as `--items`; `items_matches`: both of these.

Registered before any cell:

- learnt to 30 April, judged on 1 and 2 May, which are days of tuning (`bench_kuairand`): parts are
  chosen here, so that its days of judging stay what nothing is chosen by;
- one setting of learning rates for all arms, seeds 0 to 4: initial weights and batches are those of
  `gem` with that seed;
- metric: relative difference in NE to `gem`, per task and of the tasks' mean, below zero where the
  part helps, with a 95 % interval over seeds and users, both resampled;
- a part goes into `gem` where the interval of the mean lies wholly below zero and none of a task
  lies wholly above.

A cell is an arm and a seed: one line of JSON each in `--out`, its predictions beside it. Cells that
are there are not run again; past `--seconds` none is started. Budget: 2 CPU-hours.

    python -m jobs.run_local --recipe kuairand --day 2022-05-04 --stop-after fit_baselines
    LAPIDARY_HOME=var/items python -m jobs.run_local --recipe kuairand --day 2022-05-04 \\
        --stop-after fit_baselines \\
        --overrides '{"contract.timeline_item_attributes": ["ad_author", "ad_tag"]}'
    OMP_NUM_THREADS=1 python -m tests.bench.bench_teacher_parts --run var/runs/<run> \\
        --items var/items/runs/<run> --out var/bench/teacher_parts
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jobs.named_networks import NETWORKS
from jobs.training import trainee
from jobs.training.checkpoints import load_model
from jobs.training.evaluation import GateRows
from jobs.training.scoring import predict
from jobs.training.teacher import TeacherJob, teacher_reader
from jobs.training_settings import NextEvent, Training, Trial
from model import metrics
from model.sequence.config import TargetAttentionConfig
from tests.bench.bench_kuairand import Rows, mean_ne, open_rows
from tests.bench.sweep import Cell, Outcome, Sweep, relative_difference, relative_mean

TRIAL = Trial(lr_dense=2e-3, lr_sparse=1e-1)
BASE = "gem"
ARMS = (BASE, "next_event", "matches")
ITEM_ARMS = ("items", "items_matches")
"""Arms that read the second run."""


def run_cell(rows: Rows, cell: Cell) -> Outcome:
    """Train a cell's teacher."""
    network = NETWORKS[BASE](rows.size)
    if cell.arm.endswith("matches"):
        network = network.model_copy(update={"downstream": TargetAttentionConfig(matches=True)})
    training = Training(
        network=network,
        batch_size=512,
        trials=(TRIAL,),
        seed=cell.seed,
        next_event=NextEvent(weight=0.1) if cell.arm == "next_event" else None,
    )
    config = rows.config.model_copy(update={"teacher": training})
    reader = teacher_reader(config, rows.reader.packed)
    card, learner = TeacherJob(cell.name, (rows.learnt,), TRIAL, parent=None).start(config, reader)
    card, _ = trainee.train(card, learner, reader, [rows.learnt])
    with tempfile.TemporaryDirectory() as folder:
        # Served is the average of the weights, as a checkpoint holds it.
        trainee.save(Path(folder) / "served", card, learner)
        told = predict(load_model(Path(folder) / "served"), reader, rows.tuned.rows)
    return Outcome(mean_ne(rows.tuned, told), told)


def summary(gate: GateRows, sweep: Sweep) -> Iterator[dict[str, Any]]:
    """A line per arm and task, and one of the tasks' mean."""
    seeds = sweep.num_seeds()
    told = {arm: sweep.judged(arm, max(1, seeds)) for arm in sweep.arms}
    base = told[BASE]
    for arm, own in told.items():
        if own is None or base is None:
            yield {"arm": arm, "result": "not run"}
            continue
        for t, task in enumerate(gate.spec.tasks):
            at = gate.mask[:, t]
            y, users = gate.labels[at, t], gate.users[at]
            mine, theirs = (each[:, at, t].astype(np.float64) for each in (own, base))
            line = {
                "arm": arm,
                "task": task,
                "seeds": seeds,
                "rows": int(at.sum()),
                "ne": round(float(np.mean([metrics.ne(y, p) for p in mine])), 5),
            }
            if arm != BASE:
                line["difference"] = relative_difference(y, mine, theirs, users)
            yield line
        if arm != BASE:
            difference = relative_mean(gate.labels, gate.mask, own, base, gate.users)
            yield {"arm": arm, "task": "mean", "difference": difference}


def open_run(run: Path, items: Path | None) -> Callable[[Cell], Outcome]:
    """What runs a cell, in a process of its own."""
    own = open_rows(run, "cpu")
    others = None if items is None else open_rows(items, "cpu")

    def run_one(cell: Cell) -> Outcome:
        rows = others if cell.arm in ITEM_ARMS else own
        assert rows is not None, "arms of a second run are asked for where there is one"
        return run_cell(rows, cell)

    return run_one


def main() -> None:
    """Run what is missing, then tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a run with packed/")
    parser.add_argument("--items", type=Path, help="folder of a run whose events tell attributes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cells")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--seconds", type=float, default=7_200, help="no cell starts after these")
    options = parser.parse_args()
    gate = open_rows(options.run, "cpu").tuned
    if options.items is not None:
        other = open_rows(options.items, "cpu").tuned
        if not np.array_equal(gate.rows, other.rows) or not np.array_equal(
            gate.labels, other.labels
        ):
            parser.error("the runs hold other rows; give two runs of one day of the same log")
    sweep = Sweep(options.out, ARMS + (ITEM_ARMS if options.items else ()), num_settings=1)
    sweep.run(open_run, (options.run, options.items), options.workers, options.seconds)
    sweep.tell(list(summary(gate, sweep)))


if __name__ == "__main__":
    main()
