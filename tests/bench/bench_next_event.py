"""What foretelling the next event does to the NE of the labels, on the bundled log.

A network learns the rows of a finished run of recipe `kuairand` (for day 2022-05-04: its packed
arrays) once in order of time up to 30 April, with and without `training.next_event`, from the same
initial weights and in the same batches; both are judged on 3 and 4 May. One setting of learning
rates, chosen on no day of these. Figures: the relative difference in NE, below zero where
foretelling helps, with a 95 % interval: users are resampled, each with its rows of all seeds. No
goal was set.

Prints one line of JSON per seed and one at the end.

    python -m jobs.run_local --recipe kuairand --day 2022-05-04 --stop-after fit_baselines
    python -m tests.bench.bench_next_event --run var/runs/<run> --seeds 2
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.named_networks import NETWORKS, Size
from jobs.training import trainee
from jobs.training.checkpoints import load_model
from jobs.training.scoring import predict
from jobs.training.teacher import TeacherJob, teacher_reader
from jobs.training_settings import NextEvent, Training, Trial
from model import metrics
from tests.bench.bench_kuairand import Rows, open_rows

TRIAL = Trial(lr_dense=2e-3, lr_sparse=1e-1)


@dataclass(frozen=True)
class Learnt:
    """What one training gave."""

    probabilities: np.ndarray
    """Of the judged rows, rows x tasks."""
    next_event_loss: float
    """Mean over the pass; NaN without foretelling."""
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="a finished run's folder")
    parser.add_argument("--network", choices=list(NETWORKS), default="gem")
    parser.add_argument("--weight", type=float, default=0.1)
    parser.add_argument("--negatives", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = open_rows(options.run, "cpu")
    foretelling = NextEvent(weight=options.weight, num_negatives=options.negatives)
    pairs = []
    for seed in range(options.seeds):
        without, with_it = (
            learn(rows, options.network, each, seed) for each in (None, foretelling)
        )
        pairs.append((without.probabilities, with_it.probabilities))
        told = {"seed": seed, "next_event_loss": round(with_it.next_event_loss, 4)}
        seconds = {"seconds": [round(x.seconds, 1) for x in (without, with_it)]}
        print(json.dumps(told | seconds | compared(rows, pairs[-1:])), flush=True)
    settings = {"network": options.network, **foretelling.model_dump(), "seeds": options.seeds}
    print(json.dumps({"bench": "next_event", **settings, **compared(rows, pairs)}), flush=True)


def learn(rows: Rows, network: str, foretelling: NextEvent | None, seed: int) -> Learnt:
    """One pass in time order, and what the averaged weights say of the judged rows."""
    training = Training(
        network=NETWORKS[network](Size()),
        batch_size=512,
        trials=(TRIAL,),
        seed=seed,
        next_event=foretelling,
    )
    config = rows.config.model_copy(update={"teacher": training})
    reader = teacher_reader(config, rows.reader.packed)
    start = time.perf_counter()
    card, learner = TeacherJob("next-event", (rows.learnt,), TRIAL, None).start(config, reader)
    card, (result,) = trainee.train(card, learner, reader, [rows.learnt])
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        trainee.save(Path(folder) / "served", card, learner)
        model = load_model(Path(folder) / "served")
    found = predict(model, reader, rows.judged.rows)
    return Learnt(found.astype(np.float64), result.next_event_loss, seconds)


def compared(rows: Rows, pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """NE without and with, and the relative difference, per task."""
    found = {}
    for t, task in enumerate(rows.judged.spec.tasks):
        at = rows.judged.mask[:, t]
        labels = np.concatenate([rows.judged.labels[at, t]] * len(pairs))
        users = np.concatenate([rows.judged.users[at]] * len(pairs))
        without, with_it = (np.concatenate([pair[i][at, t] for pair in pairs]) for i in (0, 1))
        difference = metrics.bootstrap_ne_difference(labels, with_it, without, users)
        found[task] = {
            "ne_without": round(metrics.ne(labels, without), 5),
            "ne_with": round(metrics.ne(labels, with_it), 5),
            "relative_difference": {k: round(v, 5) for k, v in difference._asdict().items()},
        }
    return {"tasks": found}


if __name__ == "__main__":
    main()
