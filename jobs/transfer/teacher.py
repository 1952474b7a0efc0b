"""A teacher in one pass over all domains, and what its snapshots tell of days not yet learnt."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits

from jobs.scaling.stream import FIELDS
from jobs.transfer.compression import Compressor
from jobs.transfer.rows import Rows
from jobs.transfer.settings import OutOfTime, Study
from model.batch import Batch
from model.config import FieldConfig, RankerConfig, TableConfig
from model.interaction.config import WukongConfig
from model.optim import WeightAverage, build_optimizers
from model.ranker import Ranker

_NUM_USER_TOKENS = 4
_PRIOR_ROWS = 4_096
_SCALE_ROWS = 20_000
_WARM_UP_RATIO = 0.02
_AVERAGE_ROWS = 16_000
_SCORED_ROWS = 8_192
_NUM_SAMPLES = 20_000
"""Rows of a day on which a compressor goes on learning."""


@dataclass(frozen=True)
class Taught:
    """What the snapshots of one teacher tell, by staleness; nothing before the first day."""

    logits: dict[int, np.ndarray]
    """Log-odds of a click, (rows,); NaN where there is none."""
    latents: dict[int, np.ndarray]
    """Compressed activations, INT4 in bytes, (rows, latents)."""
    user_vectors: dict[int, np.ndarray]
    """Compressed user vectors at the start of each day, INT8, (days, users, latents)."""
    trained_until: dict[int, np.ndarray]
    """Last day that the snapshot behind a row's score has learnt, (rows,); -1 where none."""


class _Served:
    """A teacher with its averaged weights, as it is in the evening."""

    def __init__(self, teacher: Ranker, averages: dict[str, Tensor]) -> None:
        self.teacher, self.averages = teacher, averages

    @torch.no_grad()
    def score(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-odds, (rows,), and activations, (rows, R)."""
        output = functional_call(self.teacher, self.averages, (batch,))
        return output.logits[:, 0], output.representation

    @torch.no_grad()
    def users(self, users: Tensor, counts: Tensor) -> Tensor:
        """What it knows of users apart from any candidate: their rows and tokens, (rows, U)."""
        of = "feature_tokens."
        own = {n.removeprefix(of): w for n, w in self.averages.items() if n.startswith(of)}
        tokens = self.teacher.feature_tokens
        assert tokens.dense_mlp is not None
        part = "dense_mlp."
        mlp = {n.removeprefix(part): w for n, w in own.items() if n.startswith(part)}
        made = functional_call(tokens.dense_mlp, mlp, (tokens.normaliser(counts),))
        rows = self.teacher.tables(self.teacher.config.fields[:1], users[:, None])[0]
        return torch.cat([rows, made], dim=1)


def teacher_config(study: Study, rows: Rows) -> RankerConfig:
    """Wukong on all columns and on tokens made of the counts, heads by domain."""
    width = study.teacher_width
    layer = {"num_fm_tokens": 8, "num_lcb_tokens": 8, "rank": 16, "mlp_hidden": (128,)}
    return RankerConfig(
        width=width,
        tables=_tables(rows, width),
        fields=tuple(FieldConfig(name=name, table=name) for name in FIELDS),
        num_dense=rows.counts.shape[1],
        num_dense_tokens=_NUM_USER_TOKENS,
        dense_hidden=64,
        interaction=WukongConfig(num_layers=study.teacher_layers, **layer),
        history=None,
        domains=tuple(f"domain_{i}" for i in range(rows.stream.num_domains)),
        tasks=("click",),
        head_hidden=(32,),
    )


def _tables(rows: Rows, dim: int) -> tuple[TableConfig, ...]:
    sizes = rows.stream.table_rows
    return tuple(TableConfig(name=name, num_rows=sizes[name], dim=dim) for name in FIELDS)


def teach(
    study: Study, rows: Rows, seed: int, device: torch.device, deadline: float = float("inf")
) -> Taught:
    """Train a teacher in one pass over all rows, scoring each day before it is learnt.

    On the evening of day d a snapshot has learnt the days up to d. With staleness s it scores day
    d + s, so a score's snapshot has learnt the day s days before the impression's, and no later
    one. Compressors go on learning each evening, from rows of that day.

    Paper: ExFM (arXiv 2502.17494), scores of a teacher that learns alone; LLaTTE (arXiv
        2601.20083), user vectors apart from candidates; LoopFM (arXiv 2605.29280), activations.
    Differs: the user vector is the user's row and the tokens made of counts, no sequence model.

    Args:
        study: The study.
        rows: All rows.
        seed: Of the initial weights and the compressors.
        device: Where the teacher learns.
        deadline: Unix seconds at which to stop.

    Raises:
        OutOfTime: The deadline came first.
    """
    taught = _nothing(study, rows)
    columns = [rows.stream.categorical.to(device), rows.counts.to(device)]
    domain, labels = rows.stream.domain.to(device), rows.stream.labels.to(device)
    config = teacher_config(study, rows)
    teacher = Ranker(config, seed).to(device)
    first_day = rows.first(1)
    teacher.fit_normalisers(columns[1][: min(_SCALE_ROWS, first_day)])
    teacher.set_prior(_prior(rows, min(_PRIOR_ROWS, first_day)))
    trial, size = study.teacher_trial, study.teacher_batch_size
    optimizers = build_optimizers(teacher, trial.lr_dense, trial.lr_sparse)
    average = WeightAverage(teacher, _AVERAGE_ROWS / size)
    num_steps, warm_up = 0, _WARM_UP_RATIO * len(labels) / size
    widths = config.representation_dim, config.width * (1 + _NUM_USER_TOKENS)
    generator = torch.Generator().manual_seed(seed)
    activation = Compressor(widths[0], study.latent_dim, 4, seed, device)
    user = Compressor(widths[1], 2 * study.latent_dim, 8, seed, device)

    user_rows = rows.user_rows.to(device)

    def batch(low: int, high: int) -> Batch:
        return Batch(columns[0][low:high], columns[1][low:high], domain[low:high])

    for day in range(study.num_days - 1):
        low, high = rows.first(day), rows.first(day + 1)
        for start in range(low, high, size):
            if time.time() > deadline:
                raise OutOfTime
            end = min(start + size, high)
            loss = binary_cross_entropy_with_logits(
                teacher(batch(start, end)).logits[:, 0], labels[start:end]
            )
            warm = min(1.0, (num_steps + 1) / warm_up)
            for optimizer, lr in zip(optimizers, (trial.lr_dense, trial.lr_sparse), strict=True):
                optimizer.zero_grad()
                for group in optimizer.param_groups:
                    group["lr"] = lr * warm
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            average.update(num_steps)
            num_steps += 1
        if day + max(study.staleness) < study.first_day:
            continue
        served = _Served(teacher, average.averages)
        sample = (low + torch.randperm(high - low, generator=generator)[:_NUM_SAMPLES]).to(device)
        seen = Batch(columns[0][sample], columns[1][sample], domain[sample])
        activation.learn(served.score(seen)[1])
        user.learn(served.users(columns[0][sample, 0], columns[1][sample]))
        for staleness in study.staleness:
            if not study.first_day <= day + staleness < study.num_days:
                continue
            first, end = rows.first(day + staleness), rows.first(day + staleness + 1)
            taught.trained_until[staleness][first:end] = day
            for start in range(first, end, _SCORED_ROWS):
                part = slice(start, min(start + _SCORED_ROWS, end))
                logits, activations = served.score(batch(part.start, part.stop))
                taught.logits[staleness][part] = logits.cpu()
                taught.latents[staleness][part] = activation.codes(activations)
            counts = rows.counts_at_start[day + staleness].to(device)
            vectors = served.users(user_rows, counts)
            taught.user_vectors[staleness][day + staleness] = user.codes(vectors)
    return taught


def _prior(rows: Rows, count: int) -> Tensor:
    """Base rates of the first rows by domain, (domains, 1); a domain without any has one half."""
    domain, labels = rows.stream.domain[:count], rows.stream.labels[:count]
    shown = torch.bincount(domain, minlength=rows.stream.num_domains)
    clicked = torch.bincount(domain, labels, minlength=rows.stream.num_domains)
    return ((clicked + 1) / (shown + 2))[:, None].float()


def _nothing(study: Study, rows: Rows) -> Taught:
    num, users = len(rows.day), (study.num_days, rows.num_users)
    return Taught(
        {s: np.full(num, np.nan, np.float32) for s in study.staleness},
        {s: np.zeros((num, study.latent_dim), np.int8) for s in study.staleness},
        {s: np.zeros((*users, 2 * study.latent_dim), np.int8) for s in study.staleness},
        {s: np.full(num, -1, np.int64) for s in study.staleness},
    )
