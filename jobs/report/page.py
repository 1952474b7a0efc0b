"""The report as one page that stands alone: style, drawings and figures in a single file."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.config import RunConfig
from jobs.gating import docs_folder
from jobs.report import charts, figures
from jobs.report.data import QUANTILES, Data
from jobs.report.facts import Facts, busy_spans
from jobs.report.models import METRICS, OTHERS, Gain, Model, Record
from jobs.report.runs import Job
from jobs.report.tree import OPPONENTS, family_tree

if TYPE_CHECKING:
    from jinja2 import Environment

    from jobs.report.svg import Drawing

NAMES = {
    "model": "this model",
    "champion": "champion",
    "twin": "twin",
    "teacher": "teacher",
    "trees": "trees",
    "logistic": "logistic",
    "log_odds": "log-odds",
    "base_rate": "base rate",
}
"""How predictors are called."""

METRIC_NAMES = {"ne": "NE", "auc": "AUC", "gauc": "gAUC", "calibration": "calibration"}
DIGITS = {"ne": 4, "auc": 4, "gauc": 4, "calibration": 3}

_BREAK = 0.02
"""Share of the time axis that an idle span takes, however long it was."""


@dataclass(frozen=True)
class Bar:
    """A job's place on the time axis, as shares of it."""

    job: Job
    start: float
    width: float


@dataclass(frozen=True)
class Comparison:
    """A model and task with its two differences drawn."""

    model: Model
    record: Record
    gain: Gain | None
    versus: Drawing
    twin: Drawing | None


def render(facts: Facts) -> str:
    """The report as HTML."""
    config = facts.config
    members = [model for model in facts.models if model.overall]
    compared = comparisons(members, config.gates.max_ne_regression_ratio)
    records = [record for model in members for record in model.overall]
    alone = [m for m in METRICS if not any(record.others.get(m) for record in records)]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            f=facts,
            config=config,
            plan=config.plan,
            run=config.run,
            zone=config.contract.time_zone,
            limits=config.gates,
            names=NAMES,
            metric_names=METRIC_NAMES,
            digits=DIGITS,
            others=beside(records),
            compared_metrics=[metric for metric in METRICS if metric not in alone],
            alone=alone,
            with_interval=[m for m in alone if any(r.own[m].low == r.own[m].low for r in records)],
            opponents=OPPONENTS,
            levels=[f"{q:.0%}" if q < 1 else "max" for q in QUANTILES],
            docs=_relative(config, docs_folder(config) / "docs" / "index.html"),
            link=lambda path: _relative(config, path),
            mlflow_uri=mlflow_uri(config),
            served=mlflow_uri(config).startswith("http"),
            bars=time_bars(facts.jobs),
            tree=family_tree(facts.models) if members else None,
            comparisons=compared,
            distilled=any(c.gain is not None for c in compared),
            why_undefined=[
                (c, name, ratio.reason)
                for c in compared
                if c.gain is not None
                for name, ratio in (("eta", c.gain.eta), ("TR", c.gain.tr))
                if ratio.reason
            ],
            standing=charts.standing,
            arrivals=charts.arrivals_chart(facts.data.arrivals),
            rates=_rates(config, facts.data),
            reliability=_reliability(members),
            drawn=[k for k in NAMES if any(c.key == k for m in members for c in m.curves)],
            slices=_slices(config, facts.teacher),
            learning=_learning(config, facts.models),
            absorbed=absorbed(facts.models, config.gates.max_absorbed_ne_regression_ratio),
            trained=facts.teacher.learnt is not None,
            brief=[m for m in facts.models if _learnt(m) and not charts.learns_long_enough(m)],
        )
    )


def _learnt(model: Model) -> bool:
    """Whether some segment had enough labels for a figure."""
    return any(not math.isnan(value) for line in model.learning for value in line.ne)


def mlflow_uri(config: RunConfig) -> str:
    """The store in which the run's models lie."""
    return config.resources.mlflow_uri or f"sqlite:///{config.home}/mlflow/mlflow.db"


def time_bars(jobs: Sequence[Job]) -> list[Bar]:
    """Jobs on an axis of the time in which some job was at work; idle spans are cut short."""
    spans = busy_spans(jobs)
    total = sum(high - low for low, high in spans) or 1.0
    breaks = _BREAK * sum(low - high > _BREAK * total for (_, high), (low, _) in pairwise(spans))
    starts, at = [], 0.0
    for index, (low, high) in enumerate(spans):
        if index and low - spans[index - 1][1] > _BREAK * total:
            at += _BREAK
        starts.append(at)
        at += (high - low) / total * (1 - breaks)
    bars = []
    for job in jobs:
        index = max((i for i, (low, _) in enumerate(spans) if low <= job.started), default=0)
        offset = (job.started - spans[index][0]) / total * (1 - breaks) if job.ran else 0.0
        start = starts[index] + offset if job.ran else 0.0
        bars.append(Bar(job, start, job.seconds / total * (1 - breaks) if job.ran else 0.0))
    return bars


def comparisons(models: Sequence[Model], limit: float) -> list[Comparison]:
    """Every model and task with its differences to opponent and twin, on one scale a column."""
    pairs = [(model, record) for model in models for record in model.overall]
    far = charts.reach([r.versus for _, r in pairs if r.judged], limit)
    gains = [gain for model in models for gain in model.gains]
    near = charts.reach([gain.versus for gain in gains if gain.judged], 0.0)
    found = []
    for model, record in pairs:
        gain = model.gain(record.task)
        twin = None
        if gain is not None:
            twin = charts.interval_glyph(gain.versus, near, 0.0, charts.standing(gain.versus))
        allowed = limit if record.opponent == "champion" and record.kind == "overall" else 0.0
        versus = charts.interval_glyph(record.versus, far, allowed, charts.standing(record.versus))
        found.append(Comparison(model, record, gain, versus, twin))
    return found


def absorbed(models: Sequence[Model], limit: float) -> list[Comparison]:
    """What learning the gate window changed, every model and task on one scale."""
    pairs = [(model, record) for model in models for record in model.absorbed]
    ends = charts.reach([record.versus for _, record in pairs if record.judged], limit)
    found = []
    for model, record in pairs:
        css = charts.standing(record.versus)
        drawing = charts.interval_glyph(record.versus, ends, limit, css)
        found.append(Comparison(model, record, None, drawing, None))
    return found


def beside(records: Sequence[Record]) -> list[str]:
    """Who is shown beside a model, in reading order."""
    keys = {key for record in records for values in record.others.values() for key in values}
    known = [key for key in OTHERS if key in keys]
    return known + sorted(keys - set(known))


def _rates(config: RunConfig, data: Data) -> list[Drawing]:
    return [charts.rates_chart(data.rates, t) for t in config.contract.tasks if data.rates]


def _reliability(models: Sequence[Model]) -> list[tuple[Model, list[Drawing]]]:
    found = []
    for model in models:
        small = {record.task for record in model.overall if not record.judged}
        drawings = [
            charts.reliability_chart(model.curves, task, "too small" if task in small else "")
            for task in charts.tasks_of(model.curves)
        ]
        if drawings:
            found.append((model, drawings))
    return found


def _slices(config: RunConfig, teacher: Model) -> list[Drawing]:
    """NE by slice, every domain before its verticals."""
    order = ["all"]
    for domain, settings in config.contract.domains.items():
        order += [domain, *(f"{domain}-{vertical}" for vertical in settings.verticals)]
    records = [*teacher.overall, *teacher.slices] if teacher.slices else []
    records = [r for name in order for r in records if r.slice == name]
    tasks = charts.tasks_of(records)
    return [charts.slices_chart(records, task, labels=task == tasks[0]) for task in tasks]


def _learning(config: RunConfig, models: Sequence[Model]) -> list[tuple[Model, list[Drawing]]]:
    zone = config.contract.time_zone
    return [
        (m, [charts.learning_chart(m.learning, t, zone) for t in charts.tasks_of(m.learning)])
        for m in models
        if charts.learns_long_enough(m)
    ]


def _relative(config: RunConfig, path: Path) -> str:
    return Path(os.path.relpath(path, config.run_folder)).as_posix()


def _not_a_number(value: float) -> bool:
    return math.isnan(value)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        decimal=figures.decimal,
        count=figures.count,
        rate=figures.rate,
        change=figures.change,
        spread=figures.spread,
        change_spread=figures.change_spread,
        size=figures.size,
        duration=figures.duration,
        moment=figures.moment,
        plain=figures.plain,
    )
    environment.tests["undefined_figure"] = _not_a_number
    return environment
