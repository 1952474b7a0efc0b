"""A small log contract and what follows from it: a recipe, a plan and a run's configuration."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from jobs import delta
from jobs.config import Recipe, RunConfig, RunContext, day_start, with_overrides
from jobs.contract import LogContract
from jobs.promotions import Ledger, Member, Promotion
from jobs.recipes import tiny
from jobs.resolve_config import make_plan
from jobs.settings import checked

ZONE = "Europe/Berlin"
DAY = date(2024, 3, 5)

CONTRACT: dict[str, Any] = {
    "name": "shop",
    "title": "A small log",
    "time_zone": ZONE,
    "first_day": date(2024, 3, 1),
    "feeds": {
        "shown": {
            "kind": "impressions",
            "path": "shown.parquet",
            "id": ["id"],
            "user_id": "user",
            "ad_id": "ad",
            "surface": "place",
            "event_ts": {"column": "at", "unit": "us"},
            "known_ts": {"column": "known", "unit": "us"},
            "context": {"position": "position"},
            "after_impression": ["dwell"],
        },
        "acts": {
            "kind": "outcomes",
            "path": "acts.parquet",
            "id": ["id"],
            "impression_id": ["shown_id"],
            "outcome_type": "what",
            "event_ts": {"column": "at", "unit": "us"},
            "known_ts": {"column": "known", "unit": "us"},
        },
        "visits": {
            "kind": "events",
            "path": "visits.parquet",
            "id": ["id"],
            "user_id": "user",
            "item_id": "item",
            "surface": "place",
            "event_type": "what",
            "event_ts": {"column": "at", "unit": "us"},
            "known_ts": {"column": "known", "unit": "us"},
        },
    },
    "domains": {
        "app": {"verticals": {"feed": {"surfaces": ["feed"]}, "search": {"surfaces": ["search"]}}}
    },
    "tasks": {
        "click": {"outcomes": ["click"], "window": "30m"},
        "buy": {"outcomes": ["buy", "basket"], "window": "1d", "level": "domain"},
    },
    "features": {
        "categorical": ["user_id", "ad_id", "surface", "hour"],
        "numeric": ["position"],
        "entities": {
            "all": [],
            "user": ["user_id"],
            "ad": ["ad_id"],
            "surface": ["surface"],
            "user_surface": ["user_id", "surface"],
        },
        "counts": {
            "impression": ["impression"],
            "click": ["click"],
            "buy": ["buy", "basket"],
            "visit": ["visit"],
        },
        "rates": {"click": "impression", "buy": "impression"},
        "recency": {"click": ["user", "ad"]},
        "prior_entity": "all",
        "windows_days": [1, 2, 7],
        "vocabulary": {"min_count": 2},
    },
    "timeline_event_types": ["impression", "click", "buy", "visit"],
}


def raw_contract(**changes: Any) -> dict[str, Any]:
    """The contract's raw values, changed at dotted paths (`__` for the dot); None removes a key."""
    raw = copy.deepcopy(CONTRACT)
    for path, value in changes.items():
        *above, last = path.split("__")
        place = raw
        for part in above:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return raw


def contract(**changes: Any) -> LogContract:
    """The small contract, changed."""
    return checked(LogContract, raw_contract(**changes), "contract")


def recipe(log: LogContract | None = None, **changes: Any) -> Recipe:
    """The smallest recipe, on a contract; its models read whole histories, however short."""
    networks = ("teacher", "domain_student.training", "vertical_student.training")
    whole = {f"{network}.network.num_events": None for network in networks}
    base = with_overrides(tiny(), whole)
    return base.model_copy(update={"contract": log or contract(), "name": "small", **changes})


def promotion(number: int, learnt: datetime, previous: int | None = None) -> Promotion:
    """A row of the ledger."""
    return Promotion(
        number=number,
        action="promote",
        day=f"day-{number}",
        trained_until=learnt,
        members={"shop-teacher": Member(str(number), str(number), f"/models/{number}")},
        previous=previous,
        run_id=f"run-{number}",
        reason="better",
        who="test",
        at=datetime(2024, 1, 1, tzinfo=UTC),
        config_hash="c",
        code_hash="k",
    )


def ledger(*rows: Promotion) -> Ledger:
    """A ledger with rows, without its table."""
    return Ledger("", None, rows)


def run_config(
    home: object,
    settings: Recipe,
    day: date,
    *,
    first: date | None = None,
    run_id: str = "run",
) -> RunConfig:
    """A frozen configuration.

    Args:
        home: Root of all state.
        settings: The recipe.
        day: The run's day.
        first: First arrival day to build where a family is there already; a bootstrap if None.
        run_id: Name of the run's folder.
    """
    rows = []
    if first is not None:
        rows = [promotion(1, day_start(first, settings.contract.time_zone))]
    plan = make_plan(settings, day, ledger(*rows))
    context = RunContext(
        run_id=run_id,
        dag_run_id=run_id,
        code_hash="code",
        config_hash=settings.content_hash,
        mlflow_run="none",
    )
    return RunConfig(**settings.model_dump(), home=str(home), plan=plan, run=context)


COMMIT: dict[str, Any] = {"run_id": "run", "config_hash": "c", "code_hash": "k", "inputs": {}}
"""What a write says of itself."""


def hold(config: RunConfig, table: str, days: Iterable[date]) -> None:
    """Make a table hold days, a row each."""
    for day in days:
        delta.write_arrow_day(config.table(table), pa.table({"x": [1]}), day, ["x"], COMMIT)
