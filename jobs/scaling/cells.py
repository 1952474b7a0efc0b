"""One cell of the sweep: a model at a size, trained in one pass and held against the truth."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from jobs.config import ScalingLaw
from jobs.scaling import sizes
from jobs.scaling.steps import take_step
from jobs.scaling.stream import FIELDS, Stream
from model import metrics
from model.config import RankerConfig
from model.optim import build_optimizers
from model.ranker import Ranker, flops, num_parameters

NUM_TEST_ROWS = 10_000
_NUM_PRIOR_ROWS = 4_096
_RESAMPLES = 500


class OutOfBudget(Exception):
    """The CPU seconds of the sweep are used up."""


def cell_key(settings: ScalingLaw, config: RankerConfig, model: str, size: int, seed: int) -> dict:
    """What tells a cell from every other: all that its figures depend on."""
    ranker = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]
    told = settings.model_dump(mode="json", exclude={"models", "seeds", "budget_cpu_seconds"})
    return {"model": model, "size": size, "seed": seed, "ranker": ranker, **told}


def config_of(stream: Stream, model: str, size: int) -> RankerConfig:
    """The ranker of a model at a size on these rows."""
    return sizes.ranker_config(model, size, FIELDS, stream.table_rows, stream.num_domains)


def held_cells(path: Path) -> list[dict[str, Any]]:
    """The cells in a file; none without one."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.strip()]


def run_cell(
    stream: Stream,
    settings: ScalingLaw,
    model: str,
    size: int,
    seed: int,
    deadline: float,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train a ranker on the rows in their order, each once, and judge it on the last day.

    Heads start at the base rates of the first rows. Learning rates rise over the first tenth of the
    pass and fall to 0 over the rest, for every model and size alike.

    Args:
        stream: The rows.
        settings: Learning rates and batch size.
        model: One of `sizes.MODELS`.
        size: Which size.
        seed: Of the initial weights; the order of the rows is that of time.
        deadline: CPU seconds of this process at which to stop.
        device: Where to train and judge.

    Raises:
        OutOfBudget: The deadline came before the end of the pass.
    """
    started = time.process_time()
    config = config_of(stream, model, size)
    ranker = Ranker(config, seed)
    ranker.set_prior(_prior(stream))
    ranker.to(device)
    rates = (settings.lr_dense, settings.lr_sparse)
    optimizers = build_optimizers(ranker, *rates)
    starts = range(0, stream.num_train_rows, settings.batch_size)
    for step, low in enumerate(starts):
        if time.process_time() > deadline:
            raise OutOfBudget
        rows = np.arange(low, min(low + settings.batch_size, stream.num_train_rows))
        logits = _logits(stream, ranker, rows)
        labels = stream.labels[torch.from_numpy(rows)].to(device)
        loss = binary_cross_entropy_with_logits(logits, labels)
        take_step(loss, optimizers, rates, (step + 1) / len(starts))
    return {
        **_judge(stream, ranker),
        "flops_per_row": flops(config, sizes.NUM_EVENTS),
        "num_parameters": num_parameters(config),
        "num_train_rows": stream.num_train_rows,
        "cpu_seconds": round(time.process_time() - started, 1),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
    }


def _logits(stream: Stream, ranker: Ranker, rows: np.ndarray) -> torch.Tensor:
    device = next(ranker.parameters()).device
    batch = stream.batch(rows, sizes.NUM_EVENTS).map(lambda tensor: tensor.to(device))
    return ranker(batch).logits[:, 0]


@torch.no_grad()
def _judge(stream: Stream, ranker: Ranker) -> dict[str, float]:
    """Excess NE and its standard error, users resampled, and NE of the labels and of p*."""
    ranker.eval()
    num_rows = len(stream.users)
    count = min(NUM_TEST_ROWS, num_rows - stream.num_train_rows)
    chosen = np.linspace(stream.num_train_rows, num_rows - 1, count).astype(np.int64)
    logits = [
        _logits(stream, ranker, rows).cpu()
        for rows in np.array_split(chosen, max(1, count // 1_000))
    ]
    told = torch.cat(logits).double().sigmoid().numpy()
    p_star, labels = stream.p_star[chosen], stream.labels[torch.from_numpy(chosen)].numpy()
    return {
        "excess_ne": metrics.excess_ne(p_star, told),
        "excess_ne_error": _user_error(p_star, told, stream.users[chosen]),
        "ne": metrics.ne(labels, told),
        "ne_of_truth": metrics.ne(labels, p_star),
        "num_test_rows": count,
    }


def _user_error(p_star: np.ndarray, told: np.ndarray, users: np.ndarray) -> float:
    """Standard error of excess NE over resampled users."""
    told = np.clip(told, metrics.EPSILON, 1 - metrics.EPSILON)
    divergence = p_star * np.log(p_star / told) + (1 - p_star) * np.log((1 - p_star) / (1 - told))
    _, user = np.unique(users, return_inverse=True)
    sums = np.stack([np.bincount(user, w) for w in (divergence, p_star, np.ones(len(user)))])
    num_users = sums.shape[1]
    drawn = np.random.default_rng(0).multinomial(
        num_users, np.full(num_users, 1 / num_users), _RESAMPLES
    )
    total, positives, rows = sums @ drawn.T
    rate = positives / rows
    entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
    return float((total / rows / entropy).std())


def _prior(stream: Stream) -> torch.Tensor:
    """Base rates of the first rows by domain, (domains, 1); a domain without any has one half."""
    end = min(_NUM_PRIOR_ROWS, stream.num_train_rows)
    domain, labels = stream.domain[:end], stream.labels[:end]
    shown = torch.bincount(domain, minlength=stream.num_domains)
    clicked = torch.bincount(domain, labels, minlength=stream.num_domains)
    return ((clicked + 1) / (shown + 2))[:, None].float()
