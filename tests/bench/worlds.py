"""A ranker trained in one pass over days of a frozen world, and held against the truth.

The last day is judged and the day before it tuned on; what is before both is learnt once, in order
of time. A step is so many rows of the log, of which a ranker of fewer learns its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from jobs.scaling.steps import take_step
from jobs.scaling.stream import Stream, read_stream
from jobs.simulation import PRESETS, World
from jobs.simulation.digests import digest
from model import metrics
from model.batch import Batch
from model.optim import build_optimizers
from model.ranker import Ranker
from tests.bench.sweep import Cell, Outcome, Sweep

BATCH_ROWS = 1_024
_NUM_PRIOR_ROWS = 16_384
_SCORED_ROWS = 2_048


@dataclass(frozen=True)
class Days:
    """Days of a world; rows by number, in order of time."""

    stream: Stream
    learnt: np.ndarray
    tuned: np.ndarray
    judged: np.ndarray


def open_days(preset: str, num_days: int) -> Days:
    """The first days of a frozen world: all but two to learn from, one to tune on, one to judge.

    Raises:
        ValueError: The world has other rows than when it was frozen.
    """
    world = PRESETS[preset].world
    if (found := digest(world)) != PRESETS[preset].digest:
        raise ValueError(
            f"preset {preset!r}: rows of digest {PRESETS[preset].digest}; found {found}; install "
            "the pinned numpy"
        )
    return days_of(world, num_days)


def days_of(world: World, num_days: int) -> Days:
    """The first days of any world, cut likewise."""
    stream = read_stream(world, num_days)
    rows = np.arange(len(stream.users))
    learnt, tuned = (world.num_impressions * (num_days - less) for less in (2, 1))
    assert tuned == stream.num_train_rows, "a day has num_impressions rows"
    return Days(stream, rows[:learnt], rows[learnt:tuned], rows[tuned:])


def learn(
    stream: Stream,
    ranker: Ranker,
    rows: np.ndarray,
    rates: tuple[float, float],
    batch_of: Callable[[np.ndarray], Batch],
    batch_rows: int = BATCH_ROWS,
    device: str = "cpu",
) -> None:
    """Train on rows, each once.

    Heads start at the base rates of the first rows. Learning rates rise over the first tenth of the
    pass and fall to 0 over the rest.

    Args:
        stream: The rows.
        ranker: What learns.
        rows: Numbers of its rows, in order of time.
        rates: Learning rates of dense weights and of tables.
        batch_of: Rows by number as the ranker reads them, on the device.
        batch_rows: Rows of the log of a step.
        device: Where the ranker learns.
    """
    ranker.set_prior(_prior(stream, rows, len(ranker.config.domains), batch_of))
    ranker.to(device)
    optimizers = build_optimizers(ranker, *rates)
    cut = steps(rows, batch_rows)
    for step, own in enumerate(cut):
        logits = ranker(batch_of(own)).logits[:, 0]
        labels = stream.labels[torch.from_numpy(own)].to(device)
        loss = binary_cross_entropy_with_logits(logits, labels)
        take_step(loss, optimizers, rates, (step + 1) / len(cut))


def steps(rows: np.ndarray, batch_rows: int) -> list[np.ndarray]:
    """Rows by step: so many of the log's, so that a ranker of some takes as many as one of all."""
    return np.split(rows, np.flatnonzero(np.diff(rows // batch_rows)) + 1)


@torch.no_grad()
def tell(ranker: Ranker, rows: np.ndarray, batch_of: Callable[[np.ndarray], Batch]) -> np.ndarray:
    """Probabilities of rows."""
    ranker.eval()
    parts = np.array_split(rows, -(-len(rows) // _SCORED_ROWS))
    logits = [ranker(batch_of(part)).logits[:, 0].cpu() for part in parts]
    return torch.cat(logits).double().sigmoid().numpy()


def points(value: float | np.floating) -> float:
    """A difference in NE in percentage points, as it is told."""
    return round(100 * float(value), 3)


def constant_excess(p_star: np.ndarray) -> float:
    """Excess NE of the rows' own base rate: what learning nothing but that leaves."""
    return metrics.excess_ne(p_star, np.full(len(p_star), p_star.mean()))


def run_bench(
    doc: str | None,
    arms: Sequence[str],
    num_rates: int,
    num_days: int,
    open_rows: Callable[[int], Any],
    run_cell: Callable[[Any, Cell, str], Outcome],
    summary: Callable[[Any, Sweep], Iterable[dict[str, Any]]],
) -> None:
    """The command of a bench: run what is missing, then tell.

    Args:
        doc: What its help says.
        arms: Its arms.
        num_rates: Learning rates that each may choose from.
        num_days: Days of the world, unless told otherwise.
        open_rows: Gives the rows of so many days.
        run_cell: Runs a cell on them and on a device, in a process of its own.
        summary: Lines about all cells.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the cells")
    parser.add_argument("--days", type=int, default=num_days, help="of the world, from its first")
    parser.add_argument("--seconds", type=float, default=2_100, help="no cell starts after these")
    parser.add_argument("--arms", nargs="+", default=arms, choices=arms, help="to run now")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=1, help="processes")
    options = parser.parse_args()
    sweep = Sweep(options.out, tuple(options.arms), num_rates)
    given = (open_rows, run_cell, options.days, options.device)
    sweep.run(_open, given, options.workers, options.seconds)
    sweep.tell(list(summary(open_rows(options.days), Sweep(options.out, tuple(arms), num_rates))))


def _open(
    open_rows: Callable[[int], Any],
    run_cell: Callable[[Any, Cell, str], Outcome],
    num_days: int,
    device: str,
) -> Callable[[Cell], Outcome]:
    return partial(run_cell, open_rows(num_days), device=device)


def on_device(batch: Batch, device: str) -> Batch:
    """A batch, its tensors on a device."""
    return batch.map(lambda tensor: tensor.to(device))


def _prior(
    stream: Stream,
    rows: np.ndarray,
    num_domains: int,
    batch_of: Callable[[np.ndarray], Batch],
) -> torch.Tensor:
    """Base rates of the first rows by domain, (domains, 1)."""
    first = rows[:_NUM_PRIOR_ROWS]
    domain, labels = batch_of(first).domain.cpu(), stream.labels[torch.from_numpy(first)]
    shown = torch.bincount(domain, minlength=num_domains)
    clicked = torch.bincount(domain, labels, minlength=num_domains)
    return ((clicked + 1) / (shown + 2))[:, None].float()
