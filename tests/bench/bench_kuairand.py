"""Which network ranks the bundled log best, with as much tuning for each?

Every network of `jobs/named_networks.py` and gradient-boosted trees learn the rows of a finished
run of recipe `kuairand` (for day 2022-05-04: its packed arrays, which hold all ten days) once in
order of time, up to 30 April. Each gets the same six settings, tried with seed 0 and chosen by
the mean NE over tasks on 1 and 2 May. Networks then go on over these two days, trees are fitted
anew with them, and five seeds with the chosen setting are judged on 3 and 4 May, from which nothing
was chosen.

Figures: NE, log loss, AUC, gAUC and calibration per task, means over seeds; beside them the
difference in NE to the trees and to the GEM teacher, relative, with a 95 % interval over seeds and
users, both resampled. A win is an interval wholly below zero.

A cell is a network, a setting and a seed: one line of JSON each in `--out`, its predictions beside
it. Cells that are there are not run again; past `--seconds` none is started, and what has not run
reads *not run*. Budget: 4 CPU-hours.

    python -m jobs.run_local --recipe kuairand --day 2022-05-04 --stop-after fit_baselines
    python -m tests.bench.bench_kuairand --run var/runs/<run> --out var/bench/kuairand
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jobs.config import RunConfig, day_start, load_config
from jobs.named_networks import NETWORKS, Size
from jobs.training import trainee
from jobs.training.checkpoints import load_model
from jobs.training.evaluation import GateRows, gate_rows
from jobs.training.inputs import Packed
from jobs.training.reader import Reader
from jobs.training.scoring import predict
from jobs.training.segments import Segment
from jobs.training.teacher import TeacherJob, teacher_reader
from jobs.training_settings import Training, Trial
from model import metrics
from tests.bench.sweep import Cell, Outcome, Sweep, relative_difference

TREES = "trees"
MODELS = (*NETWORKS, TREES)
PIECES = Size().num_pieces
RATES = tuple(itertools.product((1e-3, 2e-3, 4e-3), (3e-2, 1e-1)))
"""Learning rates of dense weights and of tables."""
TREE_SETTINGS = ((0.03, 80), (0.03, 160), (0.06, 40), (0.06, 80), (0.12, 40), (0.12, 80))
"""Learning rate and number of trees. A first grid, up to 0.12 and 320, was best at its lower end on
the days of tuning; this one lies around that."""
LEARNT_UNTIL, TUNED_UNTIL, JUDGED_UNTIL = date(2022, 5, 1), date(2022, 5, 3), date(2022, 5, 5)
"""Each the first day of what follows."""


@dataclass(frozen=True)
class Rows:
    """What is learnt, tuned on and judged on."""

    config: RunConfig
    reader: Reader
    learnt: Segment
    """Up to the days of tuning."""
    refit: Segment
    """The days of tuning, learnt once the setting is chosen by them."""
    tuned: GateRows
    judged: GateRows
    size: Size
    """Of the networks."""


def open_rows(run: Path, device: str, num_pieces: int = PIECES) -> Rows:
    """The packed arrays of a run and the three spans of days."""
    config = load_config(str(run / "config.json"))
    config = config.model_copy(
        update={"resources": config.resources.model_copy(update={"device": device})}
    )
    reader = teacher_reader(config, Packed(run / "packed"))
    zone = config.contract.time_zone
    ends = [day_start(day, zone) for day in (LEARNT_UNTIL, TUNED_UNTIL, JUDGED_UNTIL)]
    return Rows(
        config,
        reader,
        Segment(None, ends[0]),
        Segment(ends[0], ends[1]),
        gate_rows(reader, Segment(ends[0], ends[1])),
        gate_rows(reader, Segment(ends[1], ends[2])),
        Size(num_pieces=num_pieces),
    )


def run_cell(rows: Rows, cell: Cell) -> Outcome:
    """Train a cell's model."""
    told = _trees(rows, cell) if cell.arm == TREES else _network(rows, cell)
    return Outcome(mean_ne(rows.tuned, told["tuned"]), told["judged"])


def _network(rows: Rows, cell: Cell) -> dict[str, np.ndarray]:
    dense, sparse = RATES[cell.setting]
    trial = Trial(lr_dense=dense, lr_sparse=sparse)
    training = Training(
        network=NETWORKS[cell.arm](rows.size), batch_size=512, trials=(trial,), seed=cell.seed
    )
    config = rows.config.model_copy(update={"teacher": training})
    reader = teacher_reader(config, rows.reader.packed)
    job = TeacherJob(cell.name, (rows.learnt,), trial, parent=None)
    card, learner = job.start(config, reader)
    told = {}
    for name, segment, span in (
        ("tuned", rows.learnt, rows.tuned),
        ("judged", rows.refit, rows.judged),
    ):
        card, _ = trainee.train(card, learner, reader, [segment])
        with tempfile.TemporaryDirectory() as folder:
            # Served is the average of the weights, as a checkpoint holds it.
            trainee.save(Path(folder) / "served", card, learner)
            told[name] = predict(load_model(Path(folder) / "served"), reader, span.rows)
    return told


def _trees(rows: Rows, cell: Cell) -> dict[str, np.ndarray]:
    from sklearn.ensemble import HistGradientBoostingClassifier

    packed = rows.reader.packed
    rate, trees = TREE_SETTINGS[cell.setting]

    def read(at: np.ndarray) -> np.ndarray:
        return np.concatenate([packed.dense[at], packed.categorical[at]], axis=1, dtype=np.float32)

    columns: dict[str, list[np.ndarray]] = {"tuned": [], "judged": []}
    for task in range(len(packed.spec.tasks)):
        for name, segment, span in (
            ("tuned", rows.learnt, rows.tuned),
            ("judged", rows.refit, rows.judged),
        ):
            learnt = np.flatnonzero(packed.matured(None, segment.end)[:, task])
            model = HistGradientBoostingClassifier(
                max_iter=trees,
                learning_rate=rate,
                max_features=0.3,
                min_samples_leaf=100,
                l2_regularization=1.0,
                early_stopping=False,  # pyright: ignore[reportArgumentType]
                random_state=cell.seed,
            ).fit(read(learnt), packed.labels[learnt, task])
            columns[name].append(model.predict_proba(read(span.rows))[:, 1].astype(np.float32))
    return {name: np.stack(each, axis=1) for name, each in columns.items()}


def mean_ne(gate: GateRows, told: np.ndarray) -> float:
    """Mean over tasks of the NE of probabilities."""
    return float(
        np.mean(
            [
                metrics.ne(gate.labels[at, t], told[at, t].astype(np.float64))
                for t, at in enumerate(gate.mask.T)
            ]
        )
    )


def summary(rows: Rows, sweep: Sweep) -> Iterator[dict[str, Any]]:
    """A line per model and task."""
    gate = rows.judged
    # As many seeds as all arms that have been tuned have run.
    tuned = [model for model in sweep.arms if sweep.setting(model) is not None]
    seeds = max(1, Sweep(sweep.out, tuned, sweep.num_settings).num_seeds())
    told = {model: sweep.judged(model, seeds) for model in sweep.arms}
    for model in sweep.arms:
        own = told[model]
        if own is None:
            yield {"model": model, "result": "not run"}
            continue
        setting = sweep.setting(model)
        assert setting is not None
        for t, task in enumerate(gate.spec.tasks):
            at = gate.mask[:, t]
            y, users = gate.labels[at, t], gate.users[at]
            each = own[:, at, t].astype(np.float64)
            line: dict[str, Any] = {
                "model": model,
                "task": task,
                "setting": (TREE_SETTINGS if model == TREES else RATES)[setting],
                "seeds": seeds,
                "rows": int(at.sum()),
                "positives": int(y.sum()),
                "ne": round(float(np.mean([metrics.ne(y, p) for p in each])), 5),
                "log_loss": round(float(np.mean([metrics.log_loss(y, p) for p in each])), 5),
                "auc": round(float(np.mean([metrics.auc(y, p) for p in each])), 5),
                "gauc": round(float(np.mean([metrics.gauc(y, p, users) for p in each])), 5),
                "calibration": round(float(np.mean(each.sum(1) / y.sum())), 4),
            }
            for other in (TREES, "gem"):
                theirs = told.get(other)
                if theirs is not None and other != model:
                    line[f"ne_versus_{other}"] = relative_difference(
                        y, each, theirs[:, at, t].astype(np.float64), users
                    )
            yield line


def open_run(run: Path, device: str, num_pieces: int) -> Callable[[Cell], Outcome]:
    """What runs a cell, in a process of its own."""
    return partial(run_cell, open_rows(run, device, num_pieces))


def main() -> None:
    """Run what is missing, then tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a run with packed/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cells")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--pieces", type=int, default=PIECES, help="of dense features")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--seconds", type=float, default=7_200, help="no cell starts after these")
    options = parser.parse_args()
    models = tuple(options.models)
    sweep = Sweep(options.out, models, len(RATES))
    given = (options.run, options.device, options.pieces)
    sweep.run(open_run, given, options.workers, options.seconds)
    sweep.tell(list(summary(open_rows(options.run, "cpu"), sweep)))


if __name__ == "__main__":
    main()
