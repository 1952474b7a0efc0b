"""Resolve a run's configuration once, freeze it, and say where it is.

Reads the recipe, the overrides and the ledger of promotions. Writes `runs/<run>/config.json` with
the plan: which days are built, which family is the parent, which one is the champion, and whether
the run may promote. Guarantees: no later job reads a flag, a variable or the clock.

    python -m jobs.resolve_config --recipe kuairand --day 2022-05-03
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import Any

from jobs.command import JobSummary, exit_with, run_job, write_json
from jobs.config import (
    REPOSITORY,
    Plan,
    Recipe,
    RunConfig,
    RunContext,
    day_of,
    day_start,
    lapidary_home,
    parse_day,
    with_overrides,
)
from jobs.errors import ConfigError
from jobs.family import is_direct, verticals
from jobs.promotions import Ledger, Promotion, read_ledger
from jobs.recipes import named_recipe
from jobs.tracking import project_aliases, start_parent

CONFIG = "config.json"


def resolve(
    recipe: str, overrides: dict[str, Any], day: date | None, moment: datetime | None, dag_run: str
) -> RunConfig:
    """Resolve and freeze a run's configuration.

    Args:
        recipe: Name of the recipe.
        overrides: Changes to it.
        day: The day asked for.
        moment: Start of the schedule's interval, or the logical date; used where no day is given.
        dag_run: Id of the Airflow run, or of a local one. Equal ids give equal run folders.

    Returns:
        The frozen configuration, already written to the run's folder.

    Raises:
        ConfigError: No day can be resolved, it lies outside the log, or a setting is wrong.
    """
    settings = with_overrides(named_recipe(recipe), overrides)
    contract = settings.contract
    if day is None and moment is None:
        raise ConfigError(
            "day: none given and the run has no logical date; trigger with "
            """--conf '{"day": "YYYY-MM-DD"}'"""
        )
    chosen = day or day_of(moment, contract.time_zone)  # pyright: ignore[reportArgumentType]
    last = contract.last_day
    if chosen < contract.first_day or (last is not None and chosen > last):
        raise ConfigError(
            f"day: {chosen} lies outside the log {contract.name!r}, which covers "
            f"{contract.first_day} to {last or 'today'}; choose a day within"
        )
    home = lapidary_home()
    code = code_hash()
    ledger = read_ledger(str(home / "tables" / contract.name / "promotions"))
    project_aliases(settings, str(home), ledger)
    plan = make_plan(settings, chosen, ledger)
    hashes = {"config_hash": settings.content_hash, "code_hash": code}
    short = hashlib.sha256(f"{dag_run}:{settings.content_hash}:{code}".encode()).hexdigest()[:8]
    run_id = f"{chosen.isoformat()}-{short}"
    config = RunConfig(
        **settings.model_dump(),
        home=str(home),
        plan=plan,
        run=RunContext(
            run_id=run_id,
            dag_run_id=dag_run,
            mlflow_run=start_parent(settings, str(home), run_id, plan, hashes),
            **hashes,
        ),
    )
    write_json(config.run_folder / CONFIG, config.model_dump(mode="json"))
    return config


def make_plan(recipe: Recipe, day: date, ledger: Ledger) -> Plan:
    """Decide what a run of a day trains on, starts from and is judged against."""
    zone = recipe.contract.time_zone
    gate_end = day_start(day + timedelta(days=1), zone)
    gate_start = gate_end - timedelta(hours=recipe.windows.gate_hours)
    champion = ledger.champion
    parent = _parent(ledger, gate_start)
    promotable = champion is None or champion.trained_until <= gate_start
    if champion is None:
        reason = "There is no family yet: this run bootstraps one."
    elif promotable:
        reason = (
            f"The champion has learnt nothing after {champion.trained_until:%Y-%m-%d %H:%M} UTC."
        )
    else:
        reason = (
            f"Not promotable: champion {champion.number} has already learnt up to "
            f"{champion.trained_until:%Y-%m-%d %H:%M} UTC, past the start of the gate window "
            f"({gate_start:%Y-%m-%d %H:%M} UTC)."
        )
    first = day - timedelta(days=recipe.windows.bootstrap_days - 1)
    if parent is not None:
        first = day_of(parent.trained_until, zone)
    return Plan(
        day=day,
        first_day=max(first, recipe.contract.first_day),
        bootstrap=parent is None,
        champion=None if champion is None else champion.number,
        parent=None if parent is None else parent.number,
        promotable=promotable,
        reason=reason,
        trained_from=None if parent is None else parent.trained_until,
        gate_start=gate_start,
        gate_end=gate_end,
    )


def _parent(ledger: Ledger, gate_start: datetime) -> Promotion | None:
    """The newest family that serves or served and has learnt nothing of the gate window.

    Following `previous` skips families that were rolled back.
    """
    row = ledger.champion
    while row is not None and row.trained_until > gate_start:
        row = None if row.previous is None else ledger.row(row.previous)
    return row


def code_hash() -> str:
    """Hash of the source files that decide what a run computes."""
    digest = hashlib.sha256()
    for folder in ("jobs", "model", "validation"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            digest.update(path.relative_to(REPOSITORY).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def run(config: RunConfig) -> JobSummary:
    """Summarise a resolved configuration for the tasks that follow."""
    contract = config.contract
    feed = contract.impressions
    ready = (feed.ready or feed.path).format(day=config.plan.day.isoformat())
    return JobSummary(
        job="resolve_config",
        details={
            "config": str(config.run_folder / CONFIG),
            "run_id": config.run.run_id,
            "day": config.plan.day.isoformat(),
            "plan": config.plan.reason,
            "domains": list(contract.domains),
            "verticals": [v for v in verticals(contract) if not is_direct(config, v)],
            "direct_verticals": [v for v in verticals(contract) if is_direct(config, v)],
            "ready": f"{config.log_uri}/{ready}",
        },
    )


def parse_overrides(text: str) -> dict[str, Any]:
    """Read overrides.

    Raises:
        ConfigError: Not a JSON object. The text is not told, for it may hold a secret.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--overrides: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--overrides: a JSON object is needed; found a {type(values).__name__}")
    return values


def _parse_moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--moment: an ISO time; found {text!r}") from None
    if moment.tzinfo is None:
        raise ConfigError(f"--moment: an ISO time with its offset, such as +00:00; found {text!r}")
    return moment


def _main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="kuairand", help="name of the recipe")
    parser.add_argument("--day", help="day D, YYYY-MM-DD")
    parser.add_argument("--moment", help="ISO time that decides the day where --day is not given")
    parser.add_argument("--overrides", default="{}", help="JSON object of changed settings")
    parser.add_argument("--dag-run", default="local", help="id of the run; equal ids, equal folder")
    options = parser.parse_args()

    def body() -> dict[str, Any]:
        day = parse_day(options.day, "--day") if options.day else None
        moment = _parse_moment(options.moment) if options.moment else None
        config = resolve(
            options.recipe, parse_overrides(options.overrides), day, moment, options.dag_run
        )
        return asdict(run_job(config, run))

    exit_with(body)


if __name__ == "__main__":
    _main()
