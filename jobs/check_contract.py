"""Hold a raw log against its contract before anything is computed: what would be ingested?

Reads the raw log. Writes no table. Prints, by feed and day, the rows that an ingest would take,
leave out (copies, no consent) and set aside, with an example of each reason; then what several
feeds tell of each other: outcomes without impression, surfaces in no vertical, the tasks' base
rates. Rows are judged by the ingest's own code, but copies of rows on other days than those asked
for are not looked for. Guarantees: where the contract does not fit, exit code 2 and one sentence.

    python -m jobs.check_contract --contract my/contract.yaml --log /data/log --day 2024-03-01
    python -m jobs.check_contract --recipe kuairand
    python -m jobs.check_contract --schema > infra/contracts/contract.schema.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Any

from jobs.command import JobSummary, exit_with
from jobs.config import Recipe, day_of, days_between, parse_day, with_overrides
from jobs.contract import LogContract
from jobs.errors import ConfigError
from jobs.recipes import named_recipe
from jobs.resolve_config import parse_overrides
from jobs.spark.arrivals import contract_mistakes
from jobs.spark.profile import NO_FAULTS, profile_log
from jobs.spark.session import spark_session

_MAX_DAYS = 62
"""Days that are listed one by one; more are listed by month."""
_MAX_EXAMPLE = 120


def run(settings: Recipe, days: Sequence[date]) -> JobSummary:
    """Profile days of a log."""
    started = time.time()
    with (
        tempfile.TemporaryDirectory(prefix="lapidary-check-") as scratch,
        spark_session(settings.resources, scratch, "check_contract") as spark,
        contract_mistakes(),
    ):
        profile = profile_log(spark, settings, days)
    rows = {name: sum(feed["verdicts"].values()) for name, feed in profile["feeds"].items()}
    return JobSummary(
        job="check_contract",
        rows=rows,
        details=profile,
        started=started,
        seconds=round(time.time() - started, 2),
    )


def log_days(contract: LogContract, asked: Iterable[str]) -> list[date]:
    """The days asked for, or all that the log covers until now."""
    days = sorted({parse_day(text, "--day") for text in asked})
    if days:
        return days
    last = contract.last_day or day_of(datetime.now(UTC), contract.time_zone)
    if last < contract.first_day:
        raise ConfigError(f"contract: first_day {contract.first_day} is yet to come; give --day")
    return days_between(contract.first_day, last)


def contract_schema() -> str:
    """The JSON schema of a log contract, for editors."""
    schema = LogContract.model_json_schema()
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(head | schema, indent=1, default=str)


def table(profile: Mapping[str, Any]) -> str:
    """The profile as a person reads it."""
    lines: list[str] = []
    for name, feed in profile["feeds"].items():
        lines += _feed_lines(name, feed)
    lines += [f"raw columns changed: {text}" for text in profile["schema_changes"]]
    lines.append(f"outcomes without impression: {profile['outcomes_without_impression']}")
    unmapped = ", ".join(f"{k} ({n})" for k, n in profile["unmapped_surfaces"].items())
    lines.append(f"surfaces in no vertical: {unmapped or 'none'}")
    for task, found in profile["base_rates"].items():
        rate = "unknown" if found["rate"] is None else f"{found['rate']:.4f}"
        lines.append(
            f"task {task}: base rate {rate}, {found['positives']} of {found['rows']} mature labels"
        )
    return "\n".join(lines)


def _feed_lines(name: str, feed: Mapping[str, Any]) -> list[str]:
    total = sum(feed["verdicts"].values())
    lines = [f"{name} ({feed['kind']}): {total} rows"]
    if not total:
        return [*lines, ""]
    if feed["first"] is not None:
        lines[0] += f", {feed['first']:%Y-%m-%d %H:%M:%S} to {feed['last']:%Y-%m-%d %H:%M:%S} UTC"
    lines.append(
        f"  {'day':10} {'ok':>10} {'duplicate':>10} {'no_consent':>10} {'quarantined':>11}"
    )
    for day, verdicts in _listed(feed["days"]).items():
        kept = " ".join(f"{verdicts.get(verdict, 0):>10}" for verdict in NO_FAULTS)
        aside = sum(rows for verdict, rows in verdicts.items() if verdict not in NO_FAULTS)
        lines.append(f"  {day:10} {kept} {aside:>11}")
    for reason, example in sorted(feed["examples"].items()):
        lines.append(f"  {reason}: {feed['verdicts'][reason]}, such as {example[:_MAX_EXAMPLE]}")
    for what in ("rows_of_other_days", "rows_of_other_feeds"):
        if feed[what]:
            lines.append(f"  {what.replace('_', ' ')}: {feed[what]}")
    if feed["unused_columns"]:
        lines.append(f"  columns not used: {', '.join(feed['unused_columns'])}")
    return [*lines, ""]


def _listed(days: Mapping[str, Mapping[str, int]]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for day, verdicts in days.items():
        place = day if len(days) <= _MAX_DAYS else day[:7]
        found.setdefault(place, Counter()).update(verdicts)
    return found


def _main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contract", help="the contract's file (with --log)")
    parser.add_argument("--log", help="folder of the raw log")
    parser.add_argument("--recipe", default="kuairand", help="recipe that names both, and limits")
    parser.add_argument("--overrides", default="{}", help="JSON object of changed settings")
    parser.add_argument("--day", nargs="+", default=[], help="arrival days; all if left out")
    parser.add_argument("--schema", action="store_true", help="print the contract's JSON schema")
    options = parser.parse_args()
    if options.schema:
        print(contract_schema())
        return

    def body() -> dict[str, Any]:
        given = {"contract": options.contract, "log_uri": options.log}
        if (options.contract is None) != (options.log is None):
            raise ConfigError("--contract and --log belong together; found one of them; give both")
        named = {key: value for key, value in given.items() if value is not None}
        overrides = {**named, **parse_overrides(options.overrides)}
        settings = with_overrides(named_recipe(options.recipe), overrides)
        summary = run(settings, log_days(settings.contract, options.day))
        print(table(summary.details), file=sys.stderr, flush=True)
        return asdict(summary)

    exit_with(body)


if __name__ == "__main__":
    _main()
