"""The feeds of a log contract: where raw files are, and which raw columns mean what.

Column values are raw column names, or Spark SQL over raw columns as `{expr: ...}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from jobs.settings import Settings

IMPRESSION = "impression"
"""The event type that every shown ad contributes to `events`."""

_DURATION = re.compile(r"^(\d+)\s*(s|m|h|d)$")
_DURATION_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(value: Any) -> Any:
    if isinstance(value, timedelta) or (isinstance(value, str) and value.startswith("P")):
        return value  # P...: ISO 8601, as config.json has it
    match = _DURATION.match(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"a duration is a number with s, m, h or d, such as 30m; found {value!r}")
    return timedelta(seconds=int(match[1]) * _DURATION_SECONDS[match[2]])


_DurationText = Annotated[str, Field(pattern=r"^(\d+\s*[smhd]|P.*)$", examples=["30m", "7d"])]
Duration = Annotated[timedelta, BeforeValidator(_duration, json_schema_input_type=_DurationText)]


def _text(value: Any) -> Any:
    """A value as Spark casts it to text, for YAML reads `1`, `true` and `on` as no text."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, float)) else value


_Text = Annotated[str, BeforeValidator(_text, json_schema_input_type=str | int | float | bool)]


class Column(Settings):
    """How one canonical column is made from raw columns."""

    column: str | None = None
    """Name of a raw column."""
    expr: str | None = None
    """Spark SQL over raw columns (and, where said, over canonical ones)."""
    unit: Literal["s", "ms", "us", "timestamp", "text"] = "timestamp"
    """Of a time: seconds, milliseconds or microseconds since 1970 UTC, a timestamp, or ISO text."""
    values: list[_Text] | dict[_Text, _Text] | None = None
    """The values there are, or what each is called here; a row with another is quarantined as
    `unknown_<column>`. Any value if left out; nothing is no value, and never unknown."""
    min: float | None = None
    """Least value of a number; a row with a lower one is quarantined as `impossible_<column>`."""
    max: float | None = None
    """Greatest value of a number; a row with a higher one is quarantined likewise."""

    @model_validator(mode="after")
    def _one_source(self) -> Column:
        if (self.column is None) == (self.expr is None):
            raise ValueError("give exactly one of `column` and `expr`")
        if self.values is not None and not self.values:
            raise ValueError("`values` lists no value; found an empty list")
        if self.values is not None and self.has_range:
            raise ValueError("give `values` or a range (`min`, `max`); found both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"`min` is at most `max`; found {self.min:g} and {self.max:g}")
        return self

    @property
    def has_range(self) -> bool:
        """Whether the values are numbers within bounds."""
        return self.min is not None or self.max is not None

    @property
    def sql(self) -> str:
        """The Spark SQL that yields this column."""
        return self.expr if self.expr is not None else f"`{self.column}`"


def _column(value: Any) -> Any:
    return {"column": value} if isinstance(value, str) else value


ColumnSource = Annotated[Column, BeforeValidator(_column, json_schema_input_type=str | Column)]


class Feed(Settings):
    """What every feed says: where its raw files are and how they are read."""

    path: str
    """Path below the log's root; `{day}` stands for the arrival day (YYYY-MM-DD)."""
    format: Literal["parquet", "csv", "jsonl", "delta"] = "parquet"
    """File format."""
    options: dict[str, str] = {}
    """Reader options, passed to Spark."""
    columns: dict[str, str] = {}
    """Raw columns that must be there, with their Spark types; others are read but unused."""
    where: str | None = None
    """Spark SQL that is true for the rows that are this feed's, where one file holds those of
    several; the others are counted, never quarantined."""
    consent: str | None = None
    """Spark SQL that is true where the user agreed; other rows are excluded and counted."""
    ready: str | None = None
    """Path that appears when the day is complete, such as `impressions/day={day}/_SUCCESS`."""

    @field_validator("path", "ready")
    @classmethod
    def _below_the_log(cls, value: str | None) -> str | None:
        if value is not None and (value.startswith("/") or ".." in value.split("/")):
            raise ValueError(
                f"a path lies below the log's root, without a leading / or ..; found {value!r}"
            )
        return value

    def names(self, raw_column: str) -> bool:
        """Whether a raw column is declared, or some expression reads it."""
        name = re.compile(rf"(?<!\w){re.escape(raw_column)}(?!\w)", re.IGNORECASE)
        return any(name.search(text) for text in [*self.columns, *_expressions(self)])


_NO_EXPRESSIONS = {"kind", "entity", "path", "format", "options", "columns", "ready"}


def _expressions(value: Any) -> Iterator[str]:
    """Raw columns and SQL over them, wherever a feed has them."""
    if isinstance(value, Column):
        yield value.sql
    elif isinstance(value, str):
        yield value
    elif isinstance(value, Settings):
        for name, inner in value:
            if name not in _NO_EXPRESSIONS:
                yield from _expressions(inner)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _expressions(inner)


class InlineOutcome(Settings):
    """An outcome that a log keeps as a flag on its impression's row."""

    when: str
    """Spark SQL that is true where the outcome happened. Here and below, `event_ts` and `known_ts`
    are the impression's canonical times."""
    event_ts: ColumnSource | None = None
    """When it happened; the impression's time if left out or missing."""
    known_ts: ColumnSource | None = None
    """When the log knew it, never before the row; the row's known time if left out or missing."""
    value: ColumnSource | None = None
    """Its value (price, seconds), if any."""


class ImpressionsFeed(Feed):
    """One row per ad shown."""

    kind: Literal["impressions"]
    id: list[str]
    """Raw columns that identify a row; several are hashed into one id."""
    user_id: ColumnSource
    ad_id: ColumnSource
    surface: ColumnSource
    event_ts: ColumnSource
    """When the ad was shown."""
    known_ts: ColumnSource | None = None
    """When the log knew it (may use canonical `event_ts`); the time shown if left out."""
    bid: ColumnSource | None = None
    propensity: ColumnSource | None = None
    context: dict[str, ColumnSource] = {}
    """Further columns known at the impression, by feature name."""
    outcomes: dict[str, InlineOutcome] = {}
    """Outcomes kept as flags on the row, by outcome type."""
    after_impression: list[str] = []
    """Raw columns known only after the impression: refused as context."""


class OutcomesFeed(Feed):
    """One row per outcome, in a feed of its own, joined by impression id."""

    kind: Literal["outcomes"]
    id: list[str]
    impression_id: list[str]
    """Raw columns that make the impression's id, in the order of the impressions feed's `id`."""
    outcome_type: ColumnSource
    event_ts: ColumnSource
    known_ts: ColumnSource | None = None
    value: ColumnSource | None = None


class EventsFeed(Feed):
    """One row per user action that is no impression of ours: organic views, searches, purchases."""

    kind: Literal["events"]
    id: list[str]
    user_id: ColumnSource
    item_id: ColumnSource
    surface: ColumnSource
    event_type: ColumnSource
    event_ts: ColumnSource
    known_ts: ColumnSource | None = None
    value: ColumnSource | None = None


class SequencesFeed(Feed):
    """One row per user with lists of items, oldest first, without times of their own.

    The last item of each list is given `last_ts`; earlier ones lie `spacing` apart before it. Such
    events are flagged `time_is_synthetic` and become known at `last_ts`.
    """

    kind: Literal["sequences"]
    user_id: ColumnSource
    last_ts: ColumnSource
    spacing: Duration = timedelta(seconds=60)
    surface: str
    sequences: dict[str, str]
    """Raw list column by event type."""


class AttributesFeed(Feed):
    """One row per user or ad (and time) with attributes."""

    kind: Literal["attributes"]
    entity: Literal["user", "ad"]
    key: ColumnSource
    known_ts: ColumnSource | None = None
    """When the row became known. Left out, a row in a day's folder is known by the end of the day;
    a row in one file is undated, see `features.use_undated_attributes`."""
    attributes: dict[str, ColumnSource]
    """Attributes by name; the feature's name is `<entity>_<name>`."""

    @property
    def is_dated(self) -> bool:
        """Whether it is told when a row became known."""
        return self.known_ts is not None or "{day}" in self.path


def attribute_table(feed: str) -> str:
    """Table that holds an attributes feed."""
    return f"attributes_{feed}"


AnyFeed = Annotated[
    ImpressionsFeed | OutcomesFeed | EventsFeed | SequencesFeed | AttributesFeed,
    Field(discriminator="kind"),
]


def columns_of(feed: Settings) -> Iterator[tuple[str, Column]]:
    """Every canonical column of a feed, with its place (`bid`, `context.position`)."""
    for name, value in feed:
        if isinstance(value, Column):
            yield name, value
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                if isinstance(inner, Column):
                    yield f"{name}.{key}", inner
                elif isinstance(inner, Settings):
                    yield from ((f"{name}.{key}.{p}", c) for p, c in columns_of(inner))
