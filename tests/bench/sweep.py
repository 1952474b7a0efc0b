"""Sweeps with as much tuning for every arm: cells that resume, a deadline, and paired intervals.

A cell is an arm, a setting and a seed. Every setting of an arm is tried with seed 0; the one with
the least NE on the days of tuning then runs with every seed.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model import metrics

SEEDS = (0, 1, 2, 3, 4)
_RESAMPLES = 2_000


@dataclass(frozen=True)
class Cell:
    """One training."""

    arm: str
    setting: int
    seed: int

    @property
    def name(self) -> str:
        """Of its file of predictions."""
        return f"{self.arm.replace('/', '_')}-{self.setting}-{self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What a cell found."""

    tuned_ne: float
    """By which a setting is chosen."""
    judged: np.ndarray
    """Probabilities of the rows that are judged, rows x tasks."""


class Sweep:
    """The cells of a folder: those that have run, and their predictions.

    Args:
        out: The folder.
        arms: Names of the arms.
        num_settings: Settings that every arm is tried with.
    """

    def __init__(self, out: Path, arms: Sequence[str], num_settings: int) -> None:
        self.out, self.arms, self.num_settings = out, tuple(arms), num_settings
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / "cells.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.done = {Cell(**line["cell"]): line for line in map(json.loads, lines)}

    def run(
        self, open_: Callable[..., Any], given: Sequence[Any], workers: int, seconds: float
    ) -> None:
        """Run what is missing, in processes, and start none after so many seconds.

        Args:
            open_: Makes, in every process, the function from a cell to its outcome.
            given: Arguments of `open_`.
            workers: Processes.
            seconds: From now.
        """
        deadline = time.time() + seconds
        context = multiprocessing.get_context("spawn")
        with context.Pool(workers, _open, (open_, tuple(given), deadline)) as pool:
            while (cells := self.missing()) and time.time() < deadline:
                for cell, outcome, took in pool.imap_unordered(_run, cells):
                    if outcome is not None:
                        self._keep(cell, outcome, took)

    def setting(self, arm: str) -> int | None:
        """The arm's best setting on the days of tuning; None until all have run."""
        cells = [Cell(arm, setting, 0) for setting in range(self.num_settings)]
        if not all(cell in self.done for cell in cells):
            return None
        return min(cells, key=lambda cell: self.done[cell]["tuned_ne"]).setting

    def missing(self) -> list[Cell]:
        """Cells that can run now: all settings first, then the chosen one with every seed."""
        wanted = [Cell(arm, n, 0) for arm in self.arms for n in range(self.num_settings)]
        chosen = {arm: self.setting(arm) for arm in self.arms}
        # Seed by seed, so that what ran until a deadline is of all arms alike.
        wanted += [Cell(a, n, seed) for seed in SEEDS for a, n in chosen.items() if n is not None]
        return [cell for cell in dict.fromkeys(wanted) if cell not in self.done]

    def num_seeds(self) -> int:
        """Seeds, from the first on, that every arm has run with its chosen setting."""
        for count, seed in enumerate(SEEDS):
            for arm in self.arms:
                setting = self.setting(arm)
                if setting is None or Cell(arm, setting, seed) not in self.done:
                    return count
        return len(SEEDS)

    def judged(self, arm: str, num_seeds: int = len(SEEDS)) -> np.ndarray | None:
        """Probabilities, seeds x rows x tasks; None where one of so many seeds has not run."""
        setting = self.setting(arm)
        cells = [] if setting is None else [Cell(arm, setting, n) for n in SEEDS[:num_seeds]]
        if not cells or any(cell not in self.done for cell in cells):
            return None
        return np.stack([np.load(self.out / f"{cell.name}.npy") for cell in cells])

    def tell(self, lines: Sequence[dict[str, Any]]) -> None:
        """Print a summary, and keep it beside the cells."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (self.out / "summary.jsonl").write_text(text, encoding="utf-8")
        print(text, end="")

    def _keep(self, cell: Cell, outcome: Outcome, seconds: float) -> None:
        np.save(self.out / f"{cell.name}.npy", outcome.judged)
        line = {
            "cell": asdict(cell),
            "tuned_ne": outcome.tuned_ne,
            "seconds": round(seconds, 1),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.done[cell] = line


_opened: tuple[Callable[[Cell], Outcome], float] | None = None


def _open(open_: Callable[..., Any], given: tuple[Any, ...], deadline: float) -> None:
    global _opened  # Each process opens its rows once.
    torch.set_num_threads(1)
    _opened = open_(*given), deadline


def _run(cell: Cell) -> tuple[Cell, Outcome | None, float]:
    """A cell, what it found, and in how many seconds; nothing past the deadline."""
    assert _opened is not None
    run, deadline = _opened
    started = time.time()
    return cell, run(cell) if started < deadline else None, time.time() - started


def relative_difference(
    y: np.ndarray, own: np.ndarray, other: np.ndarray, users: np.ndarray, seed: int = 0
) -> dict[str, float]:
    """NE over the other's NE, minus one, with a 95 % interval over seeds and users.

    Args:
        y: Labels, one per row.
        own: Probabilities, seeds x rows.
        other: Those of the other arm, paired by seed.
        users: User of each row.
        seed: Of the resampling.
    """
    drawn, (mine, theirs) = _resampled(users, [_losses(y, own), _losses(y, other)], seed)
    # The base rate cancels: the ratio of two NEs on the same rows is that of their losses.
    return _told(mine.sum() / theirs.sum() - 1, drawn[0] / drawn[1] - 1)


def relative_mean(
    labels: np.ndarray,
    mask: np.ndarray,
    own: np.ndarray,
    other: np.ndarray,
    users: np.ndarray,
    seed: int = 0,
) -> dict[str, float]:
    """As `relative_difference`, the mean over tasks: a user's rows of all tasks are drawn together.

    Args:
        labels: Labels, rows x tasks.
        mask: Which of them count.
        own: Probabilities, seeds x rows x tasks.
        other: Those of the other arm, paired by seed.
        users: User of each row.
        seed: Of the resampling.
    """
    tasks = range(labels.shape[1])
    columns = [
        _losses(labels[:, t], told[:, :, t].astype(np.float64)) * mask[:, t]
        for told in (own, other)
        for t in tasks
    ]
    drawn, sums = _resampled(users, columns, seed)
    mine, theirs = sums.sum((1, 2)).reshape(2, -1)
    ratios = drawn[: len(tasks)] / drawn[len(tasks) :]
    return _told(float(np.mean(mine / theirs)) - 1, ratios.mean(0) - 1)


def excess_difference(
    p_star: np.ndarray, own: np.ndarray, other: np.ndarray, users: np.ndarray, seed: int = 0
) -> dict[str, float]:
    """Excess NE minus the other's, in points, with a 95 % interval over seeds and users.

    Args:
        p_star: True probabilities, one per row; what they are worth cancels.
        own: Probabilities, seeds x rows.
        other: Those of the other arm, paired by seed.
        users: User of each row.
        seed: Of the resampling.
    """
    constant = np.broadcast_to(p_star.mean(), own.shape)
    columns = [_losses(p_star, told) for told in (own, other, constant)]
    drawn, (mine, theirs, entropy) = _resampled(users, columns, seed)
    value = (mine.sum() - theirs.sum()) / entropy.sum()
    return _told(100 * value, 100 * (drawn[0] - drawn[1]) / drawn[2])


def share_closed(
    p_star: np.ndarray,
    floor: np.ndarray,
    own: np.ndarray,
    best: np.ndarray,
    users: np.ndarray,
    seed: int = 0,
) -> dict[str, float]:
    """How much of the way from one arm to another a third has come, (floor − own) / (floor − best).

    Args:
        p_star: True probabilities, one per row.
        floor: Probabilities of the arm at the start of the way, seeds x rows.
        own: Those of the arm that is asked about.
        best: Those of the arm at its end.
        users: User of each row.
        seed: Of the resampling.
    """
    drawn, sums = _resampled(users, [_losses(p_star, told) for told in (floor, own, best)], seed)
    a, b, c = (each.sum() for each in sums)
    return _told((a - b) / (a - c), (drawn[0] - drawn[1]) / (drawn[0] - drawn[2]))


def _losses(y: np.ndarray, told: np.ndarray) -> np.ndarray:
    """Cross-entropy, seeds x rows."""
    told = np.clip(told, metrics.EPSILON, 1 - metrics.EPSILON)
    return -(y * np.log(told) + (1 - y) * np.log1p(-told))


def _resampled(
    users: np.ndarray, columns: Sequence[np.ndarray], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of columns over drawn seeds and users, columns x resamples, and over the given ones.

    Returns:
        Those of the resamples, and columns x seeds x users.
    """
    _, user = np.unique(users, return_inverse=True)
    sums = np.stack([[np.bincount(user, one) for one in column] for column in columns])
    rng = np.random.default_rng(seed)
    _, num_seeds, num_users = sums.shape
    drawn = rng.multinomial(num_users, np.full(num_users, 1 / num_users), _RESAMPLES)
    by_seed = np.stack([drawn @ column.T for column in sums])  # columns x resamples x seeds
    seeds = rng.integers(0, num_seeds, (_RESAMPLES, num_seeds))
    chosen = np.broadcast_to(seeds, (len(sums), *seeds.shape))
    return np.take_along_axis(by_seed, chosen, axis=2).sum(2), sums


def _told(value: float, draws: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    found = {"value": value, "low": low, "high": high}
    return {name: round(float(x), 5) for name, x in found.items()}
