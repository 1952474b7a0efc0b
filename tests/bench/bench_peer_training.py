"""Does our training on a CPU outrun FuxiCTR's, on the same model, rows, batch and thread (P16)?

The model is DCN-V2 in parallel form, which both have: 39 fields of width 16, three cross layers, a
deep network of 400-400-400, one logit; batches of 4,096. Before anything is timed, FuxiCTR's model
loads our weights by name and shape and must give our probabilities (to 1e-5), and parameters and
counted FLOPs must be equal. Rows are synthetic: ids by Zipf's law (exponent 1.05) on tables of
equal size, shuffled so that frequent rows do not lie side by side, labels from a weight per row of
a table and products of pairs. Both sides read the same rows in the same order, once.

- `peer`: FuxiCTR's `fit` with its `NpzDataLoader` and its defaults: Adam at 1e-3 with dense
  gradients, gradients clipped at 10 over everything. In a process of its own, see `peer_fuxictr`.
- `ours`: what `jobs.train_teacher` runs: `Reader.pieces` and `Learner.learn`, with the learning
  rates of the bundled recipes: AdamW at 2e-3, row-wise AdaGrad at 0.1, warm-up over a tenth.
- `floor`: ours with tables that cost nothing: a given tensor instead of look-ups, whose gradient is
  computed and thrown away; no row-wise AdaGrad.

A round is some steps of each arm, one arm after the other, in an order that turns from round to
round; a figure is the median of the ratios within rounds, with a bootstrap 95 % interval. Both
sides use one thread and load in the training process; the loader's share is told apart.

Goals (wall; the lower end of the interval must clear them, and CPU agree within 15 %):

- examples a second over the peer's: at least 1.5 at 2M rows of tables, 2.5 at 8M;
- over the floor's: at least 0.75 (in single precision, which the floor has);
- log loss on held-out rows after the same steps: at most 0.0002 above the peer's, and that of
  `ours_bf16` at most 0.0002 above that of `ours`, by the upper end of the interval over rows.

FuxiCTR wants an environment of its own:

    python3.11 -m venv <folder>
    <folder>/bin/pip install 'torch==2.13.0' 'fuxictr==2.3.10' 'polars<1.30' keras_preprocessing
    OMP_NUM_THREADS=1 python -m tests.bench.bench_peer_training \\
        --peer-python <folder>/bin/python --rows 2000000 8000000

(Its preprocessing, which this bench does not call, also needs `np.unicode_` in keras_preprocessing
replaced by `np.str_`.)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from jobs.training import trainee
from jobs.training.checkpoints import Card
from jobs.training.inputs import Packed
from jobs.training.loop import Learner
from jobs.training.reader import Piece, Reader
from jobs.training.segments import Segment
from jobs.training_settings import Network, Training, Trial
from model.config import FieldConfig, RankerConfig, TableConfig
from model.interaction.config import DcnV2Config
from model.ranker import Ranker, flops, num_parameters
from tests.bench.harness import report
from tests.bench.peer_rows import Setup, draw, write_rows
from tests.bench.ratios import ratio

GOALS = {2_000_000: 1.5, 8_000_000: 2.5}
FLOOR_GOAL, LOGLOSS_GOAL = 0.75, 0.0002
ARMS = ("ours", "ours_bf16", "peer", "floor")
SEGMENT = Segment(None, datetime(2026, 1, 1, tzinfo=UTC))


@dataclass(frozen=True)
class Taken:
    """What some steps took."""

    wall_seconds: float
    cpu_seconds: float
    loader_seconds: float
    """Wall seconds of them in the loader."""


class Peer:
    """FuxiCTR in a process of its own."""

    def __init__(self, python: Path, setup: Setup) -> None:
        path = Path(setup.folder) / "setup.json"
        path.write_text(json.dumps(asdict(setup)))
        script = Path(__file__).with_name("peer_fuxictr.py")
        self._process = subprocess.Popen(
            [python, script, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        )
        self.facts = self._answer()

    def steps(self, number: int) -> Taken:
        """Let it take so many steps."""
        assert self._process.stdin is not None
        print(number, file=self._process.stdin, flush=True)
        return Taken(**self._answer())

    def finish(self) -> None:
        """Wait for its predictions."""
        assert self._answer() == {"done": True}
        self._process.wait()

    def stop(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the peer ended early; what it said stands above")
        return json.loads(line)


@contextmanager
def peer_of(python: Path, setup: Setup) -> Iterator[Peer]:
    """The peer, ended in any case."""
    peer = Peer(python, setup)
    try:
        yield peer
    finally:
        peer.stop()


def ranker_config(setup: Setup) -> RankerConfig:
    """The model, as ours."""
    names = [f"f{field}" for field in range(setup.num_fields)]
    return RankerConfig(
        width=setup.width,
        tables=tuple(
            TableConfig(name=name, num_rows=setup.rows_per_table, dim=setup.width) for name in names
        ),
        fields=tuple(FieldConfig(name=name, table=name) for name in names),
        num_dense=0,
        num_dense_tokens=0,
        dense_hidden=None,
        interaction=DcnV2Config(
            num_cross_layers=setup.num_cross_layers, deep_hidden=setup.deep_hidden
        ),
        history=None,
        domains=("all",),
        tasks=("label",),
        head_hidden=(),
    )


def reader_of(setup: Setup, split: str) -> Reader:
    """Batches of a split, as training jobs read them."""
    packed = Packed(Path(setup.folder) / split)
    return Reader(
        packed,
        tasks=[0],
        keep=None,
        domains=np.zeros(1, np.int64),
        batch_size=setup.batch_size,
        max_events=0,
    )


def learner_of(
    setup: Setup, reader: Reader, precision: Literal["float32", "bfloat16"] = "float32"
) -> Learner:
    """A fresh model with the settings of the bundled recipes."""
    config = ranker_config(setup)
    training = Training(
        network=Network(
            width=setup.width,
            table_dim=setup.width,
            num_dense_tokens=1,
            dense_hidden=None,
            interaction=config.interaction,
            head_hidden=(),
        ),
        batch_size=setup.batch_size,
        trials=(Trial(lr_dense=2e-3, lr_sparse=1e-1),),
        precision=precision,
        seed=setup.seed,
    )
    card = Card(
        name="bench",
        ranker=config.model_dump(mode="json"),
        categorical=[field.name for field in config.fields],
        dense=[],
        vocabulary_version=None,
        trained_until=None,
        trial=training.trials[0].model_dump(),
        warmup_steps=0,
        run_id="bench",
    )
    return trainee.fresh(card, training, reader, [SEGMENT])[1]


class GivenRows(nn.Module):
    """Stands for tables that cost nothing: the same numbers for every batch."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(setup.seed)
        shape = (setup.batch_size, setup.num_fields, setup.width)
        self.rows = 0.02 * torch.randn(shape, generator=generator)

    def forward(self, fields: Sequence[FieldConfig], indexes: Tensor) -> tuple[Tensor, ...]:
        # A leaf of its own, as a look-up's output has a gradient.
        return self.rows[: len(indexes)].detach().requires_grad_().unbind(1)

    def pool(self, configs: Sequence[Any], bags: Sequence[Any]) -> tuple[Tensor, ...]:
        """There are no bags."""
        return ()


def floor_of(setup: Setup, reader: Reader) -> Learner:
    """The learner without tables."""
    learner = learner_of(replace(setup, rows_per_table=2), reader)
    learner.ranker.tables = GivenRows(setup)  # pyright: ignore[reportAttributeAccessIssue]
    return learner


def steps(learner: Learner, pieces: Iterator[Piece], number: int) -> Taken:
    """As `trainee.train` does, some steps at a time."""
    wall, cpu, loader_wall = time.perf_counter(), time.process_time(), 0.0
    for _ in range(number):
        began = time.perf_counter()
        piece = next(pieces)
        loader_wall += time.perf_counter() - began
        learner.learn(piece, world=1)
    return Taken(time.perf_counter() - wall, time.process_time() - cpu, loader_wall)


@torch.no_grad()
def predict(learner: Learner, reader: Reader) -> np.ndarray:
    """Probabilities of what is served, averaged dense weights with the tables."""
    learner.bare.eval()
    found = [
        functional_call(learner.bare, learner.average.averages, (piece.batch,)).logits[:, 0]
        for piece in reader.pieces(SEGMENT, rank=0, world=1)
    ]
    return torch.cat(found).double().sigmoid().numpy()


def peer_weights(ranker: Ranker) -> dict[str, np.ndarray]:
    """Our weights by the peer's names."""
    found = {}
    for name, weight in ranker.state_dict().items():
        for ours, theirs in (
            ("tables.table_", "embedding_layer.embedding_layer.embedding_layers."),
            ("interaction.cross.layers.", "crossnet.cross_layers."),
            ("interaction.deep.", "parallel_dnn.mlp."),
        ):
            if name.startswith(ours):
                found[name.replace(ours, theirs)] = weight.numpy()
        if name == "heads.domains.0.weights.0":
            found["fc.weight"] = weight[0].T.numpy()
        if name == "heads.domains.0.biases.0":
            found["fc.bias"] = weight.flatten().numpy()
    return found


def agree(python: Path, folder: Path) -> dict[str, Any]:
    """Both models with the same weights on the same rows.

    Raises:
        ValueError: They are not the same model.
    """
    setup = Setup(str(folder), "agree", rows_per_table=50, num_steps=1, batch_size=512)
    for stream, split in enumerate(("train", "test")):
        write_rows(setup, split, *draw(setup, 512, stream))
    torch.manual_seed(1)
    ranker, reader = Ranker(ranker_config(setup)), reader_of(setup, "test")
    for table in ranker.tables.values():
        nn.init.normal_(table.weight)  # pyright: ignore[reportArgumentType]
    np.savez(folder / "weights.npz", **peer_weights(ranker))  # pyright: ignore[reportArgumentType]
    batch = next(reader.pieces(SEGMENT, rank=0, world=1)).batch
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        ours = ranker(batch).logits[:, 0].double().sigmoid().numpy()
    with peer_of(python, setup) as peer:
        peer.finish()
        theirs = np.load(folder / "peer_predictions.npy")
        found = {
            "largest_difference": float(np.abs(ours - theirs).max()),
            "deviation_of_predictions": float(ours.std()),
            "num_dense_parameters": num_parameters(ranker.config)
            - setup.num_fields * setup.rows_per_table * setup.width,
            "flops_per_row": counter.get_total_flops() / 512,
            "closed_form_flops_per_row": flops(ranker.config, 0),
            "peer": peer.facts,
        }
    same_size = num_parameters(ranker.config) == peer.facts["num_parameters"]
    same_flops = found["flops_per_row"] == peer.facts["flops_per_row"]
    if found["largest_difference"] > 1e-5 or not same_size or not same_flops:
        raise ValueError(f"models that differ are not compared; found {found}")
    return found


def logloss(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Of every row."""
    p = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return -np.where(labels > 0.5, np.log(p), np.log1p(-p))


def mean_interval(values: np.ndarray) -> dict[str, float]:
    """Mean over rows, and its 95 % interval by the normal law."""
    mean, error = float(values.mean()), float(values.std()) / len(values) ** 0.5
    ends = {"mean": mean, "low": mean - 1.96 * error, "high": mean + 1.96 * error}
    return {name: round(value, 6) for name, value in ends.items()}


def measure(
    python: Path,
    folder: Path,
    total_rows: int,
    num_rounds: int,
    per_round: int,
    num_test_rows: int,
) -> dict[str, Any]:
    """All arms on tables of so many rows together."""
    setup = Setup(str(folder), "train", total_rows // 39, num_rounds * per_round)
    for stream, (split, number) in enumerate(
        (("train", setup.num_steps * setup.batch_size), ("test", num_test_rows))
    ):
        write_rows(setup, split, *draw(setup, number, stream))
    reader, test = reader_of(setup, "train"), reader_of(setup, "test")
    learners = {
        "ours": learner_of(setup, reader),
        "ours_bf16": learner_of(setup, reader, "bfloat16"),
        "floor": floor_of(setup, reader),
    }
    pieces = {name: reader.pieces(SEGMENT, rank=0, world=1) for name in learners}
    taken: dict[str, list[Taken]] = {name: [] for name in ARMS}
    loads = []
    with peer_of(python, setup) as peer:
        for index in range(num_rounds):
            first = index % len(ARMS)
            for name in islice([*ARMS] * 2, first, first + len(ARMS)):
                one = (
                    peer.steps(per_round)
                    if name == "peer"
                    else steps(learners[name], pieces[name], per_round)
                )
                taken[name].append(one)
            loads.append(round(os.getloadavg()[0], 2))
        peer.finish()
    labels = test.packed.labels[:, 0]
    losses = {n: logloss(labels, predict(learners[n], test)) for n in ("ours", "ours_bf16")}
    losses["peer"] = logloss(labels, np.load(folder / "peer_predictions.npy"))
    rate = labels.mean()
    return {
        "rows_per_table": setup.rows_per_table,
        "batch_size": setup.batch_size,
        "num_rounds": num_rounds,
        "steps_per_round": per_round,
        "over_peer": speed(taken, "ours", "peer"),
        "bf16_over_peer": speed(taken, "ours_bf16", "peer"),
        "bf16_over_ours": speed(taken, "ours_bf16", "ours"),
        "over_floor": speed(taken, "ours", "floor"),
        "goals": {"over_peer": GOALS.get(total_rows), "over_floor": FLOOR_GOAL},
        "arms": {name: arm(runs, per_round * setup.batch_size) for name, runs in taken.items()},
        "logloss": {
            **{name: round(float(each.mean()), 6) for name, each in losses.items()},
            "ours_less_peer": mean_interval(losses["ours"] - losses["peer"]),
            "bf16_less_peer": mean_interval(losses["ours_bf16"] - losses["peer"]),
            "bf16_less_ours": mean_interval(losses["ours_bf16"] - losses["ours"]),
            "test_rows": num_test_rows,
            "goal": LOGLOSS_GOAL,
            "base_rate_alone": round(float(logloss(labels, np.full_like(labels, rate)).mean()), 6),
        },
        "load_average": loads,
    }


def speed(taken: dict[str, list[Taken]], own: str, other: str) -> dict[str, Any]:
    """Examples a second of an arm over another's, by unit."""

    def seconds(name: str, unit: str) -> list[float]:
        if unit == "step_wall_seconds":
            return [one.wall_seconds - one.loader_seconds for one in taken[name]]
        return [getattr(one, unit) for one in taken[name]]

    units = ("wall_seconds", "cpu_seconds", "step_wall_seconds")
    return {unit: asdict(ratio(seconds(other, unit), seconds(own, unit))) for unit in units}


def arm(runs: Sequence[Taken], examples: int) -> dict[str, Any]:
    """Examples a second of an arm, and every sample behind them."""
    return {
        "examples_per_wall_second": round(examples / np.median([x.wall_seconds for x in runs])),
        "examples_per_cpu_second": round(examples / np.median([x.cpu_seconds for x in runs])),
        "wall_seconds": [round(x.wall_seconds, 3) for x in runs],
        "cpu_seconds": [round(x.cpu_seconds, 3) for x in runs],
        "loader_seconds": [round(x.loader_seconds, 3) for x in runs],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the models, then measure every size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=sorted(GOALS), help="of all tables")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps-per-round", type=int, default=5)
    parser.add_argument("--test-rows", type=int, default=51_200, help="held out")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        same = agree(options.peer_python, Path(folder))
    report("peer_training_models", torch=torch.__version__, **same)
    for total in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(
                options.peer_python,
                Path(folder),
                total,
                options.rounds,
                options.steps_per_round,
                options.test_rows,
            )
        report("peer_training", table_rows=total, torch=torch.__version__, **found)


if __name__ == "__main__":
    main()
