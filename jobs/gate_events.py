"""Gate `events` (1): has every expected day arrived, and is little of it rejected?

Reads the ingest's profile and the table of impressions. Writes the verdict. Runs before anything
is built; a refused day replaces nothing downstream.

    python -m jobs.gate_events --config var/runs/<run>/config.json
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import date, timedelta
from statistics import median
from typing import Any

from jobs import delta
from jobs.command import JobSummary, main
from jobs.config import RunConfig, days_between
from jobs.errors import GateFailed
from jobs.gating import gate
from jobs.ingest_log import PROFILE

_MEDIAN_DAYS = 28
_NO_FAULT = ("ok", "duplicate", "no_consent", "erased")


def run(config: RunConfig) -> JobSummary:
    """Judge the run's arrival days."""
    import pandas as pd

    from validation.frames import EVENT_DAYS

    records = [_record(config, day) for day in expected_days(config)]
    verdict = gate(config, "events", {"days": pd.DataFrame(records, columns=pd.Index(EVENT_DAYS))})
    if not verdict.passed:
        raise GateFailed(verdict.reason)
    return JobSummary(
        job="gate_events",
        rows={"days": len(records)},
        details={"gate": verdict.summary()},
    )


def expected_days(config: RunConfig) -> list[date]:
    """Days on which impressions should have arrived: from the first that has any, to the run's,
    but for those that were declared empty."""
    held = delta.partition_days(delta.open_table(config.table("impressions")))
    first = max(config.plan.first_day, held[0]) if held else config.plan.day
    days = days_between(min(first, config.plan.day), config.plan.day)
    return [day for day in days if day not in config.windows.empty_days]


def _record(config: RunConfig, day: date) -> dict[str, Any]:
    profile = json.loads((config.run_folder / PROFILE).read_text(encoding="utf-8"))
    feeds = config.contract.feeds
    verdicts = Counter[str]()
    accepted = 0
    for entry in profile:
        if entry["day"] != day.isoformat():
            continue
        verdicts[entry["verdict"]] += entry["rows"]
        if feeds[entry["feed"]].kind == "impressions" and entry["verdict"] == "ok":
            accepted += entry["rows"]
    raw = sum(verdicts.values())
    rejected = sum(rows for verdict, rows in verdicts.items() if verdict not in _NO_FAULT)
    commits = delta.live_commits(delta.open_table(config.table("impressions")))
    earlier = [
        commit.rows
        for other, commit in commits.items()
        if day - timedelta(days=_MEDIAN_DAYS) <= other < day
    ]
    usual = float(median(earlier)) if earlier else float("nan")
    return {
        "day": day.isoformat(),
        "rows": accepted,
        "raw_rows": raw,
        "quarantined": rejected,
        "duplicates": verdicts["duplicate"],
        "no_consent": verdicts["no_consent"],
        "quarantine_ratio": rejected / raw if raw else 0.0,
        "median_rows": usual,
        "rows_ratio": accepted / usual if earlier else 1.0,
    }


if __name__ == "__main__":
    main(run, __doc__)
