"""Which network ranks the bundled log best, with as much tuning for each?

Every network of `jobs/named_networks.py` and gradient-boosted trees learn the rows of a finished
run of recipe `kuairand` (for day 2022-05-04: its packed arrays, which hold all ten days) once in
order of time, up to 30 April. Each gets the same six settings, tried with seed 0 and chosen by
the mean NE over tasks on 1 and 2 May; then five seeds with the chosen one are judged on 3 and 4
May, from which nothing was chosen. No model learns after 30 April, so all are two to four days old
there.

Figures: NE, AUC and calibration per task, means over seeds; beside them the difference in NE to the
trees and to the GEM teacher, relative, with a 95 % interval over seeds and users, both resampled.
A win is an interval wholly below zero.

A cell is a network, a setting and a seed: one line of JSON each in `--out`, its predictions beside
it. Cells that are there are not run again; past `--seconds` none is started, and what has not run
reads *not run*. Budget: 4 CPU-hours.

    python -m jobs.run_local --recipe kuairand --day 2022-05-04 --stop-after fit_baselines
    python -m tests.bench.bench_kuairand --run var/runs/<run> --out var/bench/kuairand
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

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

TREES = "trees"
MODELS = (*NETWORKS, TREES)
RATES = tuple(itertools.product((1e-3, 2e-3, 4e-3), (3e-2, 1e-1)))
"""Learning rates of dense weights and of tables."""
TREE_SETTINGS = tuple(itertools.product((0.06, 0.12), (80, 160, 320)))
"""Learning rate and number of trees."""
SEEDS = (0, 1, 2, 3, 4)
LEARNT_UNTIL, TUNED_UNTIL, JUDGED_UNTIL = date(2022, 5, 1), date(2022, 5, 3), date(2022, 5, 5)
"""Each the first day of what follows."""
_RESAMPLES = 2_000


@dataclass(frozen=True)
class Cell:
    """One training."""

    model: str
    setting: int
    seed: int

    @property
    def name(self) -> str:
        """Of its file of predictions."""
        return f"{self.model}-{self.setting}-{self.seed}"


@dataclass(frozen=True)
class Rows:
    """What is learnt, tuned on and judged on."""

    config: RunConfig
    reader: Reader
    learnt: Segment
    tuned: GateRows
    judged: GateRows


def open_rows(run: Path, device: str) -> Rows:
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
        gate_rows(reader, Segment(ends[0], ends[1])),
        gate_rows(reader, Segment(ends[1], ends[2])),
    )


def run_cell(rows: Rows, cell: Cell) -> dict[str, np.ndarray]:
    """Probabilities of a cell's model: `tuned` and `judged`, rows x tasks each."""
    if cell.model == TREES:
        return _trees(rows, cell)
    dense, sparse = RATES[cell.setting]
    trial = Trial(lr_dense=dense, lr_sparse=sparse)
    training = Training(
        network=NETWORKS[cell.model](Size()), batch_size=512, trials=(trial,), seed=cell.seed
    )
    config = rows.config.model_copy(update={"teacher": training})
    reader = teacher_reader(config, rows.reader.packed)
    job = TeacherJob(cell.name, (rows.learnt,), trial, parent=None)
    card, learner = job.start(config, reader)
    card, _ = trainee.train(card, learner, reader, [rows.learnt])
    with tempfile.TemporaryDirectory() as folder:
        # Served is the average of the weights, as a checkpoint holds it.
        trainee.save(Path(folder) / "served", card, learner)
        model = load_model(Path(folder) / "served")
    return {
        "tuned": predict(model, reader, rows.tuned.rows),
        "judged": predict(model, reader, rows.judged.rows),
    }


def _trees(rows: Rows, cell: Cell) -> dict[str, np.ndarray]:
    from sklearn.ensemble import HistGradientBoostingClassifier

    packed = rows.reader.packed
    rate, trees = TREE_SETTINGS[cell.setting]

    def read(at: np.ndarray) -> np.ndarray:
        return np.concatenate([packed.dense[at], packed.categorical[at]], axis=1, dtype=np.float32)

    columns: dict[str, list[np.ndarray]] = {"tuned": [], "judged": []}
    for task in range(len(packed.spec.tasks)):
        learnt = np.flatnonzero(packed.matured(None, rows.learnt.end)[:, task])
        model = HistGradientBoostingClassifier(
            max_iter=trees,
            learning_rate=rate,
            max_features=0.3,
            min_samples_leaf=100,
            l2_regularization=1.0,
            early_stopping=False,  # pyright: ignore[reportArgumentType]
            random_state=cell.seed,
        ).fit(read(learnt), packed.labels[learnt, task])
        for name, span in (("tuned", rows.tuned), ("judged", rows.judged)):
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


class Sweep:
    """The cells of a folder: those that have run, and their predictions."""

    def __init__(self, rows: Rows, out: Path) -> None:
        self.rows, self.out = rows, out
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / "cells.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.done = {Cell(**line["cell"]): line for line in map(json.loads, lines)}

    def keep(self, cell: Cell, told: dict[str, np.ndarray], seconds: float) -> None:
        """Write a cell that has run."""
        np.savez(self.out / f"{cell.name}.npz", **told)  # pyright: ignore[reportArgumentType]
        line = {
            "cell": asdict(cell),
            "tuned_ne": mean_ne(self.rows.tuned, told["tuned"]),
            "seconds": round(seconds, 1),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.done[cell] = line

    def tuned(self, model: str) -> int | None:
        """The model's setting with the least NE on the days of tuning; None until all have run."""
        cells = [Cell(model, setting, 0) for setting in range(len(RATES))]
        if not all(cell in self.done for cell in cells):
            return None
        return min(cells, key=lambda cell: self.done[cell]["tuned_ne"]).setting

    def missing(self, models: tuple[str, ...]) -> list[Cell]:
        """Cells that can run now: all settings first, then the chosen one with every seed."""
        wanted = [Cell(m, setting, 0) for m in models for setting in range(len(RATES))]
        chosen = {model: self.tuned(model) for model in models}
        wanted += [Cell(m, s, seed) for m, s in chosen.items() if s is not None for seed in SEEDS]
        return [cell for cell in dict.fromkeys(wanted) if cell not in self.done]

    def judged(self, model: str) -> np.ndarray | None:
        """Probabilities of the judged rows, seeds x rows x tasks; None where a seed has not run."""
        setting = self.tuned(model)
        cells = [] if setting is None else [Cell(model, setting, seed) for seed in SEEDS]
        if not cells or any(cell not in self.done for cell in cells):
            return None
        return np.stack([np.load(self.out / f"{cell.name}.npz")["judged"] for cell in cells])


def summary(sweep: Sweep, models: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """A line per model and task."""
    gate = sweep.rows.judged
    told = {model: sweep.judged(model) for model in models}
    for model in models:
        own = told[model]
        if own is None:
            yield {"model": model, "result": "not run"}
            continue
        setting = sweep.tuned(model)
        assert setting is not None
        for t, task in enumerate(gate.spec.tasks):
            at = gate.mask[:, t]
            y = gate.labels[at, t]
            each = own[:, at, t].astype(np.float64)
            line: dict[str, Any] = {
                "model": model,
                "task": task,
                "setting": (TREE_SETTINGS if model == TREES else RATES)[setting],
                "rows": int(at.sum()),
                "positives": int(y.sum()),
                "ne": round(float(np.mean([metrics.ne(y, p) for p in each])), 5),
                "auc": round(float(np.mean([metrics.auc(y, p) for p in each])), 5),
                "calibration": round(float(np.mean(each.sum(1) / y.sum())), 4),
            }
            for other in (TREES, "gem"):
                theirs = told.get(other)
                if theirs is not None and other != model:
                    line[f"ne_versus_{other}"] = relative_difference(
                        y, each, theirs[:, at, t].astype(np.float64), gate.users[at]
                    )
            yield line


def relative_difference(
    y: np.ndarray, own: np.ndarray, other: np.ndarray, users: np.ndarray, seed: int = 0
) -> dict[str, float]:
    """NE over the other's NE, minus one, with a 95 % interval over seeds and users.

    Args:
        y: Labels, one per row.
        own: Probabilities, seeds x rows.
        other: Those of the other model, paired by seed.
        users: User of each row.
        seed: Of the resampling.
    """
    _, user = np.unique(users, return_inverse=True)

    def losses(told: np.ndarray) -> np.ndarray:
        told = np.clip(told, metrics.EPSILON, 1 - metrics.EPSILON)
        each = -(y * np.log(told) + (1 - y) * np.log1p(-told))
        return np.stack([np.bincount(user, one) for one in each])  # seeds x users

    mine, theirs = losses(own), losses(other)
    rng = np.random.default_rng(seed)
    num_seeds, num_users = mine.shape
    drawn = rng.multinomial(num_users, np.full(num_users, 1 / num_users), _RESAMPLES)
    # The base rate cancels: the ratio of two NEs on the same rows is that of their losses.
    by_seed = np.stack([drawn @ mine.T, drawn @ theirs.T])  # 2 x resamples x seeds
    seeds = rng.integers(0, num_seeds, (_RESAMPLES, num_seeds))
    sums = np.take_along_axis(by_seed, np.stack([seeds, seeds]), axis=2).sum(2)
    low, high = np.quantile(sums[0] / sums[1] - 1, [0.025, 0.975])
    value = mine.sum() / theirs.sum() - 1
    return {
        name: round(float(x), 5) for name, x in (("value", value), ("low", low), ("high", high))
    }


_rows: Rows | None = None
_deadline = 0.0


def _open(run: Path, device: str, deadline: float) -> None:
    global _rows, _deadline  # Each process opens the arrays once.
    torch.set_num_threads(1)
    _rows, _deadline = open_rows(run, device), deadline


def _run(cell: Cell) -> tuple[Cell, dict[str, np.ndarray] | None, float]:
    """A cell, what it predicts, and how long that took; nothing past the deadline."""
    assert _rows is not None
    started = time.time()
    told = run_cell(_rows, cell) if started < _deadline else None
    return cell, told, time.time() - started


def main() -> None:
    """Run what is missing, then tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a run with packed/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cells")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--seconds", type=float, default=7_200, help="no cell starts after these")
    options = parser.parse_args()
    deadline, models = time.time() + options.seconds, tuple(options.models)
    sweep = Sweep(open_rows(options.run, "cpu"), options.out)
    context = multiprocessing.get_context("spawn")
    initial = (options.run, options.device, deadline)
    with context.Pool(options.workers, _open, initial) as pool:
        while (cells := sweep.missing(models)) and time.time() < deadline:
            for cell, told, seconds in pool.imap_unordered(_run, cells):
                if told is not None:
                    sweep.keep(cell, told, seconds)
    told = list(summary(sweep, models))
    (options.out / "summary.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in told), encoding="utf-8"
    )
    for line in told:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
