"""The data of a run: what arrived, who saw what and how often it worked, how long histories are."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from jobs import delta
from jobs.config import RunConfig
from jobs.ingest_log import PROFILE
from jobs.report.tables import Table

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
RATE_DAYS = 14
"""Days over which base rates are shown."""
MAX_SURFACES = 10
"""Surfaces that are listed, the busiest first."""
_LABEL_COLUMNS = ("label", "mature_ts")
_NO_FAULT = ("ok", "duplicate", "no_consent", "erased")


@dataclass(frozen=True)
class Arrivals:
    """Raw rows of one arrival day, by verdict."""

    day: str
    accepted: int = 0
    """Impressions that were accepted."""
    other: int = 0
    """Accepted rows of other feeds."""
    duplicates: int = 0
    no_consent: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)
    """Rejected rows by reason."""

    @property
    def rejected(self) -> int:
        """Rows in quarantine."""
        return sum(self.quarantined.values())


@dataclass(frozen=True)
class Share:
    """A part of the gate day's examples."""

    level: str
    """`all`, `domain`, `vertical` or `surface`."""
    name: str
    rows: int
    share: float
    rates: dict[str, float]
    """Task to base rate."""


@dataclass(frozen=True)
class Maturity:
    """Labels of one task on the gate day."""

    task: str
    window: str
    rows: int
    mature: int
    """Examples whose attribution window had closed by the end of the gate window."""
    labelled: int
    positives: int
    rate_before: float
    """Base rate of the days before."""

    @property
    def rate(self) -> float:
        """Base rate of the gate day."""
        return self.positives / self.labelled if self.labelled else math.nan


@dataclass(frozen=True)
class DayRates:
    """Base rates of one day."""

    day: str
    rows: int
    rates: dict[str, float]


@dataclass(frozen=True)
class Lengths:
    """A distribution of history lengths."""

    what: str
    number: int
    quantiles: list[float]
    """At `QUANTILES`."""
    empty: int
    """How many have no event at all."""


@dataclass(frozen=True)
class Data:
    """Everything about the run's data."""

    arrivals: list[Arrivals] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    maturity: list[Maturity] = field(default_factory=list)
    rates: list[DayRates] = field(default_factory=list)
    lengths: list[Lengths] = field(default_factory=list)


def read_data(config: RunConfig, tables: Sequence[Table]) -> Data:
    """Gather it, as far as the run came."""
    versions = {table.name: table.version for table in tables if table.pinned}
    arrivals = _arrivals(config)
    if "examples" not in versions:
        return Data(arrivals)
    recent = _recent_labels(config, versions["examples"])
    examples = _gate_day(config, versions["examples"])
    return Data(
        arrivals=arrivals,
        shares=_shares(config, examples),
        maturity=_maturity(config, examples, recent),
        rates=[
            DayRates(str(day), len(rows), _base_rates(config, rows))
            for day, rows in recent.groupby("day")
        ],
        lengths=_lengths(config, examples, versions.get("timelines")),
    )


def _arrivals(config: RunConfig) -> list[Arrivals]:
    path = config.run_folder / PROFILE
    if not path.is_file():
        return []
    days: dict[str, list[dict]] = {}
    for entry in json.loads(path.read_text(encoding="utf-8")):
        days.setdefault(entry["day"], []).append(entry)
    feeds = config.contract.feeds
    found = []
    for day in sorted(days):
        verdicts = Counter[str]()
        accepted = 0
        for entry in days[day]:
            verdicts[entry["verdict"]] += entry["rows"]
            feed = feeds.get(entry["feed"])
            if feed is not None and feed.kind == "impressions" and entry["verdict"] == "ok":
                accepted += entry["rows"]
        found.append(
            Arrivals(
                day=day,
                accepted=accepted,
                other=verdicts["ok"] - accepted,
                duplicates=verdicts["duplicate"],
                no_consent=verdicts["no_consent"],
                quarantined={v: rows for v, rows in verdicts.items() if v not in _NO_FAULT},
            )
        )
    return found


def _gate_day(config: RunConfig, version: int) -> pd.DataFrame:
    """The gate day's examples, the columns that the report looks at."""
    columns = ["domain", "vertical", "surface", "event_ts", "history_end"]
    columns += [f"{kind}_{task}" for task in config.contract.tasks for kind in _LABEL_COLUMNS]
    uri = config.table("examples")
    return delta.read_days(uri, [config.plan.day], columns, version=version).to_pandas()


def _recent_labels(config: RunConfig, version: int) -> pd.DataFrame:
    """Labels of the last days up to the gate day."""
    uri = config.table("examples")
    held = delta.partition_days(delta.open_table(uri, version))
    days = [day for day in held if day <= config.plan.day][-RATE_DAYS:]
    columns = ["day", *(f"label_{task}" for task in config.contract.tasks)]
    return delta.read_days(uri, days, columns, version=version).to_pandas()


def _shares(config: RunConfig, examples: pd.DataFrame) -> list[Share]:
    if examples.empty:
        return []
    total = len(examples)
    found = [Share("all", "all", total, 1.0, _base_rates(config, examples))]
    vertical = examples["domain"] + "-" + examples["vertical"]
    busiest = Counter(examples["surface"]).most_common(MAX_SURFACES)
    for level, column, names in (
        ("domain", examples["domain"], sorted(examples["domain"].unique())),
        ("vertical", vertical, sorted(vertical.unique())),
        ("surface", examples["surface"], [name for name, _ in busiest]),
    ):
        for name in names:
            rows = examples.loc[column == name]
            rates = _base_rates(config, rows)
            found.append(Share(level, str(name), len(rows), len(rows) / total, rates))
    return found


def _base_rates(config: RunConfig, rows: pd.DataFrame) -> dict[str, float]:
    """Share of positives among the labels; NaN where there is none."""
    return {task: float(rows[f"label_{task}"].mean()) for task in config.contract.tasks}


def _maturity(config: RunConfig, examples: pd.DataFrame, recent: pd.DataFrame) -> list[Maturity]:
    if examples.empty:
        return []
    before = _base_rates(config, recent.loc[recent["day"] < config.plan.day])
    found = []
    for task, settings in config.contract.tasks.items():
        labels = examples[f"label_{task}"]
        closed = examples[f"mature_ts_{task}"] <= config.plan.gate_end
        found.append(
            Maturity(
                task=task,
                window=_window(settings.window.total_seconds()),
                rows=len(examples),
                mature=int(closed.sum()),
                labelled=int(labels.count()),
                positives=int(labels.sum()),
                rate_before=before[task],
            )
        )
    return found


def _window(seconds: float) -> str:
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:g} s"


def _lengths(config: RunConfig, examples: pd.DataFrame, timelines: int | None) -> list[Lengths]:
    found = []
    if timelines is not None:
        uri, day = config.table("timelines"), config.plan.day
        stored = delta.read_days(uri, [day], ["known_ts"], version=timelines)["known_ts"]
        lengths = np.array([len(events) for events in stored.to_numpy()], dtype=np.int64)
        found.append(_quantiles("stored per user and day", lengths))
    ends = examples["history_end"].clip(upper=config.timeline.num_events)
    found.append(_quantiles("seen by an impression", ends.to_numpy()))
    return [lengths for lengths in found if lengths.number]


def _quantiles(what: str, lengths: np.ndarray) -> Lengths:
    quantiles = np.quantile(lengths, QUANTILES).tolist() if len(lengths) else []
    return Lengths(what, len(lengths), quantiles, int((lengths == 0).sum()))
