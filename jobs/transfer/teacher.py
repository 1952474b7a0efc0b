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
from jobs.transfer.matching import Matcher
from jobs.transfer.rows import Rows
from jobs.transfer.settings import OutOfTime, Study
from model.batch import Batch
from model.config import FieldConfig, RankerConfig, TableConfig
from model.interaction.config import WukongConfig
from model.optim import WeightAverage, build_optimizers
from model.ranker import Ranker

AD = ("ad", "campaign", "creative", "category")
"""Columns that say what is shown."""
CONTEXT = ("surface", "position", "device", "hour")
"""Columns that say where and when an ad is shown."""
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
    """What the snapshots of one teacher tell, by staleness; nothing before the first day.

    What is cached of users is told of the rows of the students' domain alone, by staleness and
    hours between refreshes.
    """

    logits: dict[int, np.ndarray]
    """Log-odds of a click, (rows,); NaN where there is none."""
    latents: dict[int, np.ndarray]
    """Compressed activations, INT4 in bytes, (rows, latents)."""
    user_vectors: dict[tuple[int, int], np.ndarray]
    """Compressed vectors of the rows' users as they were cached, INT8, (rows, latents)."""
    matched: dict[tuple[int, int], np.ndarray]
    """What cached vectors of user and ad, and the row's context, say together, (rows, latents)."""
    trained_until: dict[int, np.ndarray]
    """Last day that the snapshot behind a row's score has learnt, (rows,); -1 where none."""
    cached_until: dict[tuple[int, int], np.ndarray]
    """The same of the snapshot behind what is cached of its user."""


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
    def users(self, categorical: Tensor, counts: Tensor) -> Tensor:
        """What it knows of users apart from any candidate: their rows and tokens, (rows, U)."""
        of, tokens = "feature_tokens.dense_mlp.", self.teacher.feature_tokens
        mlp = {n.removeprefix(of): w for n, w in self.averages.items() if n.startswith(of)}
        assert tokens.dense_mlp is not None
        made = functional_call(tokens.dense_mlp, mlp, (tokens.normaliser(counts),))
        return torch.cat([self._rows(categorical, ("user",)), made], dim=1)

    @torch.no_grad()
    def parts(self, categorical: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What it knows of users, of ads and of contexts, each alone."""
        ad, context = (self._rows(categorical, names) for names in (AD, CONTEXT))
        return self.users(categorical, counts), ad, context

    def _rows(self, categorical: Tensor, names: tuple[str, ...]) -> Tensor:
        fields = [f for f in self.teacher.config.fields if f.name in names]
        columns = categorical[:, [FIELDS.index(field.name) for field in fields]]
        return torch.cat(self.teacher.tables(fields, columns), dim=1)


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
    one. What is cached of users comes from the snapshot that scores the day of its refresh, and
    from counts as of the refresh. Compressors go on learning each evening, from rows of that day.

    Paper: ExFM (arXiv 2502.17494), scores of a teacher that learns alone; LLaTTE (arXiv
        2601.20083), user vectors apart from candidates; LoopFM (arXiv 2605.29280), activations.
    Differs: the user vector is the user's row and the tokens made of counts, no sequence model; it
        is refreshed by the clock, not by events.

    Args:
        study: The study.
        rows: All rows.
        seed: Of the initial weights and the compressors.
        device: Where the teacher learns.
        deadline: Unix seconds at which to stop.

    Raises:
        OutOfTime: The deadline came first.
    """
    taught, read = _nothing(study, rows), _Columns(rows, device)
    config = teacher_config(study, rows)
    teacher = Ranker(config, seed).to(device)
    first_day = rows.first(1)
    teacher.fit_normalisers(read.counts[: min(_SCALE_ROWS, first_day)])
    teacher.set_prior(_prior(rows, min(_PRIOR_ROWS, first_day)))
    trial, size = study.teacher_trial, study.teacher_batch_size
    optimizers = build_optimizers(teacher, trial.lr_dense, trial.lr_sparse)
    average = WeightAverage(teacher, _AVERAGE_ROWS / size)
    num_steps, warm_up = 0, _WARM_UP_RATIO * len(read.labels) / size
    evening = _Evening(study, config, read, seed)
    delays = (study.refresh_hours, *study.delays)
    told_from = study.first_day - max(study.staleness) - (max(delays) - 1) // 24
    to_be_told = (rows.stream.domain.numpy() == study.domain) & (rows.day >= study.first_day)
    refreshed = {hours: np.where(to_be_told, rows.refresh_day(hours), -1) for hours in delays}
    for day in range(study.num_days - 1):
        end_of_day = rows.first(day + 1)
        for low in range(rows.first(day), end_of_day, size):
            if time.time() > deadline:
                raise OutOfTime
            part = slice(low, min(low + size, end_of_day))
            logits = teacher(read.batch(part)).logits[:, 0]
            loss = binary_cross_entropy_with_logits(logits, read.labels[part])
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
        if day < told_from:
            continue
        served = _Served(teacher, average.averages)
        evening.learn(served, rows.first(day), end_of_day)
        for staleness in study.staleness:
            scored = day + staleness
            if study.first_day <= scored < study.num_days:
                span = rows.first(scored), rows.first(scored + 1)
                taught.trained_until[staleness][slice(*span)] = day
                evening.tell(served, taught, staleness, *span)
            for hours, refresh_day in refreshed.items():
                at = np.flatnonzero(refresh_day == scored)
                taught.cached_until[staleness, hours][at] = day
                evening.tell_cached(served, taught, (staleness, hours), at)
    return taught


class _Columns:
    """The rows' columns where the teacher learns."""

    def __init__(self, rows: Rows, device: torch.device) -> None:
        self.categorical = rows.stream.categorical.to(device)
        self.counts = rows.counts.to(device)
        self.cached = {hours: told.to(device) for hours, told in rows.cached_counts.items()}
        self.domain, self.labels = rows.stream.domain.to(device), rows.stream.labels.to(device)
        self.device = device

    def batch(self, at: slice | Tensor) -> Batch:
        """Some rows as the teacher reads them."""
        return Batch(self.categorical[at], self.counts[at], self.domain[at])


class _Evening:
    """What is made of a teacher every evening, and what that tells of a later day."""

    def __init__(self, study: Study, config: RankerConfig, read: _Columns, seed: int) -> None:
        self.read, self.domain, device = read, study.domain, read.device
        width, user_dim = config.width, config.width * (1 + _NUM_USER_TOKENS)
        self.activation = Compressor(config.representation_dim, study.latent_dim, 4, seed, device)
        self.user = Compressor(user_dim, 2 * study.latent_dim, 8, seed, device)
        dims = user_dim, len(AD) * width, len(CONTEXT) * width, 2 * study.latent_dim
        self.matcher = Matcher(*dims, seed=seed, device=device)
        self.generator = torch.Generator().manual_seed(seed)

    def learn(self, served: _Served, low: int, high: int) -> None:
        """Go on learning how to compress, from a sample of a day's rows."""
        chosen = torch.randperm(high - low, generator=self.generator)[:_NUM_SAMPLES]
        sample = (low + chosen).to(self.read.device)
        self.activation.learn(served.score(self.read.batch(sample))[1])
        self.user.learn(served.users(self.read.categorical[sample], self.read.counts[sample]))
        own = sample[self.read.domain[sample] == self.domain]
        parts = served.parts(self.read.categorical[own], self.read.counts[own])
        self.matcher.learn(*parts, served.score(self.read.batch(own))[0])

    def tell(self, served: _Served, taught: Taught, staleness: int, low: int, high: int) -> None:
        """Score rows, and compress what the snapshot makes of them."""
        for start in range(low, high, _SCORED_ROWS):
            part = slice(start, min(start + _SCORED_ROWS, high))
            logits, activations = served.score(self.read.batch(part))
            taught.logits[staleness][part] = logits.cpu()
            taught.latents[staleness][part] = self.activation.codes(activations)

    def tell_cached(
        self, served: _Served, taught: Taught, key: tuple[int, int], at: np.ndarray
    ) -> None:
        """Compress what the snapshot makes of rows' users, as of the refresh of what is cached."""
        cached = self.read.cached[key[1]]
        for start in range(0, len(at), _SCORED_ROWS):
            part = at[start : start + _SCORED_ROWS]
            place = torch.from_numpy(part).to(self.read.device)
            user, ad, context = served.parts(self.read.categorical[place], cached[place])
            taught.user_vectors[key][part] = self.user.codes(user)
            taught.matched[key][part] = self.matcher.matched(user, ad, context)


def _prior(rows: Rows, count: int) -> Tensor:
    """Base rates of the first rows by domain, (domains, 1); a domain without any has one half."""
    domain, labels = rows.stream.domain[:count], rows.stream.labels[:count]
    shown = torch.bincount(domain, minlength=rows.stream.num_domains)
    clicked = torch.bincount(domain, labels, minlength=rows.stream.num_domains)
    return ((clicked + 1) / (shown + 2))[:, None].float()


def _nothing(study: Study, rows: Rows) -> Taught:
    num, dim = len(rows.day), study.latent_dim
    delays = (study.refresh_hours, *study.delays)
    cached = [(staleness, hours) for staleness in study.staleness for hours in delays]
    return Taught(
        {s: np.full(num, np.nan, np.float32) for s in study.staleness},
        {s: np.zeros((num, dim), np.int8) for s in study.staleness},
        {key: np.zeros((num, 2 * dim), np.int8) for key in cached},
        {key: np.zeros((num, 2 * dim), np.float32) for key in cached},
        {s: np.full(num, -1, np.int64) for s in study.staleness},
        {key: np.full(num, -1, np.int64) for key in cached},
    )
