"""The story of one impression as text, for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from jobs.config import Recipe

_MINE = ("impression_id", "user_id", "ad_id", "surface", "event_ts", "known_ts", "event_day", "day")


def page(recipe: Recipe, story: Mapping[str, Any]) -> str:
    """Lay out what `jobs.explain_row` gathered.

    Args:
        recipe: Names the log.
        story: The details of its summary.
    """
    return "\n".join(_lines(recipe, story))


def _lines(recipe: Recipe, story: Mapping[str, Any]) -> Iterator[str]:
    shown = story["impression"]
    yield f"Impression {shown['impression_id']} of the log {recipe.contract.name!r}"
    yield ""
    yield from _impression(story)
    yield from _labels(story)
    yield from _features(story["features"])
    yield from _history(story["history"])
    yield from _scores(story["scores"])
    yield from _models(story["models"])
    yield from _commits(story["commits"])


def _impression(story: Mapping[str, Any]) -> Iterator[str]:
    shown = story["impression"]
    yield (
        f"Shown     {_moment(shown['event_ts'])}, known {_moment(shown['known_ts'])}, "
        f"arrival day {shown['day']}"
    )
    yield f"          user {shown['user_id']}, ad {shown['ad_id']}, surface {shown['surface']}"
    rest = {k: v for k, v in shown.items() if k not in _MINE and v is not None}
    if rest:
        yield "          " + ", ".join(f"{k} {v}" for k, v in rest.items())
    if story["quarantine"] is None:
        yield "Rejected  cannot be told: the id is made of several raw columns"
    for row in story["quarantine"] or []:
        yield f"Rejected  a copy on {row['day']}: {row['reason']}, {row['source_file']}"
    for row in story["outcomes"]:
        yield (
            f"Outcome   {row['outcome_type']} ({row['outcome_id']}) {_moment(row['event_ts'])}, "
            f"known {_moment(row['known_ts'])}, arrival day {row['day']}"
        )
    if not story["outcomes"]:
        yield "Outcome   none has arrived"


def _labels(story: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield "Labels"
    for task, told in story["labels"].items():
        yield from _label(task, told)
        if "zipper" in told:
            yield from _label(f"{task}, Zipper", told["zipper"])
    for row in story["repairs"]:
        yield (
            f"  repair {row['number']} counted what was known by {row['until']}; it changed "
            f"{row['num_impressions']} impressions of the day"
        )


def _label(name: str, told: Mapping[str, Any]) -> Iterator[str]:
    value = "not mature" if told["label"] is None else told["label"]
    yield (
        f"  {name}: {value}; window {told['window']} ({told['attribution']}), matures "
        f"{_moment(told['mature_ts'])}, counts what was known by {told['counts_until']}"
    )
    for row in told["outcomes"]:
        yield f"    {row['outcome_type']} {_moment(row['event_ts'])}: {row['verdict']}"
    if told["label"] not in (None, told["follows"]):
        yield (
            f"    The outcomes held now give {told['follows']}: build the day's labels again "
            "(jobs.repair_labels, or jobs.build_labels in a run of the day)"
        )


def _features(told: Mapping[str, Any] | None) -> Iterator[str]:
    yield ""
    if told is None:
        yield "Features  no example has been built"
        return
    source = f"entity_features of {told['day']}, version {told['version']}"
    note = f" ({told['note']})" if told["note"] else ""
    yield f"Features  as counted up to {source}{note} + today's before the impression"
    for entity, of in told["entities"].items():
        counts = [
            f"{name} {n['before']}+{n['today']}"
            for name, n in of["counts"].items()
            if n["before"] or n["today"]
        ]
        yield f"  {entity} [{', '.join(of['key'])}]: {', '.join(counts) or 'nothing yet'}"
    yield "  " + ", ".join(f"{name} {value}" for name, value in told["values"].items())


def _history(told: Mapping[str, Any] | None) -> Iterator[str]:
    yield ""
    if told is None:
        yield "History   no timeline has been built"
        return
    yield (
        f"History   {told['num_read']} events are read, up to history_end {told['history_end']} of "
        f"{told['num_stored']} stored ({told['num_prior']} of earlier days, {told['num_cut']} cut)"
    )
    for event in told["last"]:
        yield (
            f"  {_moment(event['event_ts'])} {event['event_type']} {event['item_id']} on "
            f"{event['surface']}, known {_moment(event['known_ts'])}"
        )


def _scores(scores: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield ""
    yield "Scores" if scores else "Scores    none"
    for table, row in scores.items():
        values = [
            f"{name.removeprefix('p_')} {value:.4f}"
            for name, value in row.items()
            if name.startswith("p_") and value is not None
        ]
        yield (
            f"  {table}: {', '.join(values)}, by a checkpoint of {row['scorer_run']} trained until "
            f"{_moment(row['trained_until'])}"
        )


def _models(models: list[dict[str, Any]]) -> Iterator[str]:
    yield ""
    yield "Learnt by" if models else "Learnt by no registered version"
    for one in models:
        since = "the log's start" if one["trained_from"] is None else _moment(one["trained_from"])
        stale = f"; stale: {one['stale']}" if one["stale"] else ""
        yield (
            f"  {one['name']} version {one['version']} ({one['stage']}), labels matured after "
            f"{since} until {_moment(one['trained_until'])}: {', '.join(one['tasks'])}{stale}"
        )


def _commits(commits: Mapping[str, Mapping[str, Any] | None]) -> Iterator[str]:
    yield ""
    yield "Commits"
    for table, commit in commits.items():
        if commit is None:
            yield f"  {table}: none of its own holds the day"
            continue
        inputs = ", ".join(f"{name} {version}" for name, version in commit["inputs"].items())
        yield (
            f"  {table} of {commit['day']}: version {commit['version']}, run {commit['run_id']}, "
            f"{commit['rows']} rows, digest {commit['digest']}, code {commit['code_hash']}"
            + (f", from {inputs}" if inputs else "")
        )


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
