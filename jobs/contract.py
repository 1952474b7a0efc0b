"""The log contract: one YAML file that maps a company's raw log to Lapidary's tables.

A contract names the feeds (files, formats, columns, units), the time zone that defines a day, the
id rule, which surface belongs to which vertical and domain, the tasks with their attribution
windows, and the features. Adding a log is writing one contract; no code.

A contract is as trusted as code: whoever writes it chooses the SQL that runs.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import Field, field_validator, model_validator

from jobs.content.settings import Content
from jobs.errors import ConfigError
from jobs.feeds import (
    AnyFeed,
    AttributesFeed,
    Duration,
    EventsFeed,
    Feed,
    ImpressionsFeed,
    OutcomesFeed,
    SequencesFeed,
    columns_of,
)
from jobs.settings import Settings, checked
from validation import tables

_NAME = re.compile(r"^[a-z][a-z0-9_]*$")

IMPRESSION = "impression"
"""The event type that every shown ad contributes to `events`."""

BASE_FEATURE_COLUMNS = ("user_id", "ad_id", "surface", "hour")
"""Columns every log has; `hour` is the hour of the day in the contract's time zone."""


class Vertical(Settings):
    """A group of surfaces served by one student."""

    surfaces: list[str]
    tasks: list[str] | None = None
    """Tasks this vertical's student predicts; every vertical-level task if left out."""


class Domain(Settings):
    """A platform: the verticals that share a domain student."""

    verticals: dict[str, Vertical]


class Task(Settings):
    """A binary outcome to predict."""

    outcomes: list[str]
    """Outcome types that make the label 1."""
    window: Duration
    """Attribution window after the impression; the label is mature when it has closed."""
    level: Literal["vertical", "domain"] = "vertical"
    """`vertical`: predicted by every model. `domain`: by the teacher and the domain students."""
    attribution: Literal["view_through", "click_through"] = "view_through"
    """`view_through`: an outcome of the impression counts. `click_through`: it counts only at or
    after a click on the same impression, both within the window."""
    clicks: list[str] = ["click"]
    """Outcome types that are a click, for `click_through`."""
    zipper_windows: list[Duration] = []
    """Windows of Lattice's Zipper: every impression is assigned exactly one of them by the hash of
    its id, and has a second label under it."""
    zipper_shares: list[Annotated[float, Field(gt=0)]] = []
    """Share of impressions that each of `zipper_windows` gets; equal ones if left out."""
    zipper_seed: int = 0
    """Another seed assigns anew."""

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        windows, shares = self.zipper_windows, self.zipper_shares
        if len(set(windows)) != len(windows):
            raise ValueError(f"zipper_windows: different windows; found {list(map(str, windows))}")
        if shares and (len(shares) != len(windows) or abs(sum(shares) - 1.0) > 1e-9):
            raise ValueError(
                f"zipper_shares: one for each of the {len(windows)} zipper_windows, of sum 1; "
                f"found {shares}"
            )
        return self

    @property
    def longest_window(self) -> timedelta:
        """How long after its impression an outcome may still count."""
        return max([self.window, *self.zipper_windows])

    @property
    def read_types(self) -> set[str]:
        """Outcome types that decide the label."""
        return {*self.outcomes, *(self.clicks if self.attribution == "click_through" else [])}


class VocabularyRule(Settings):
    """Which values of a field get an embedding row of their own."""

    min_count: int = Field(default=10, ge=1)
    """A value is admitted once seen this often before the training cut-off."""
    evict_after_days: int | None = Field(default=None, ge=1)
    """A value that none of so many days before the gate window's first has seen is out of
    vocabulary from then on; it regains its row when it comes back. None: it never is."""


class Features(Settings):
    """What the models read of an impression, all of it known before the impression."""

    categorical: list[str]
    """Columns that get embeddings: ids, surface, hour, context, attributes."""
    numeric: list[str] = []
    """Columns read as numbers."""
    entities: dict[str, list[str]]
    """What counts are kept of, by name: the columns that make its key."""
    counts: dict[str, list[str]]
    """What is counted, by name: the event types."""
    rates: dict[str, str] = {}
    """Which counts are read as rates too: count in the numerator, count in the denominator."""
    rate_prior_strength: float = Field(default=10.0, gt=0.0)
    """Strength of the prior in smoothed rates, in counts of the denominator."""
    recency: dict[str, list[str]] = {}
    """Of which counts it is read how long ago the last event became known: entities by the count's
    name. It is missing where the longest window holds none."""
    prior_entity: str
    """Entity whose own rate, as known then, is the prior of every other entity's; with an empty
    key it is the rate of the whole log."""
    windows_days: list[Annotated[int, Field(ge=1)]] = [1, 7, 30]
    """Whole days before the impression's day that a count covers, today's part always added. One
    of them is 1: the longer ones are sums of days."""
    vocabulary: VocabularyRule = VocabularyRule()
    vocabulary_by_field: dict[str, VocabularyRule] = {}
    use_undated_attributes: bool = False
    """Whether attributes without a known time are read. They may tell of the future."""


class LogContract(Settings):
    """A raw log, described once."""

    name: str
    """Short name, used for the model family."""
    title: str
    licence: str = ""
    time_zone: str
    """The time zone in which a day is a day."""
    first_day: date
    """First arrival day that the log holds."""
    last_day: date | None = None
    """Last arrival day of a closed log; none where the log grows daily."""
    earliest_year: int = Field(default=2000, ge=1971, le=2100)
    """Rows of earlier years are quarantined as `impossible_time`."""
    day_closes_after: Duration = timedelta(hours=1)
    """How long after midnight a day's rows may still arrive: the schedule's lag."""
    feeds: dict[str, AnyFeed]
    domains: dict[str, Domain]
    tasks: dict[str, Task]
    features: Features
    timeline_event_types: list[str]
    """Event types that enter user histories."""
    content: Content | None = None
    """Texts of items that are turned into vectors; none if left out."""

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(
                f"unknown time zone {value!r}; use a name such as Europe/Berlin"
            ) from None
        return value

    @model_validator(mode="after")
    def _consistent(self) -> LogContract:
        _check_names(self)
        _check_feeds(self)
        _check_surfaces(self)
        _check_event_types(self)
        _check_features(self)
        _check_content(self)
        _check_column_names(self)
        return self

    @property
    def impressions(self) -> ImpressionsFeed:
        """The one impressions feed."""
        return next(f for f in self.feeds.values() if isinstance(f, ImpressionsFeed))

    @property
    def surface_vertical(self) -> dict[str, tuple[str, str]]:
        """(domain, vertical) by surface."""
        return {
            surface: (domain_name, vertical_name)
            for domain_name, domain in self.domains.items()
            for vertical_name, vertical in domain.verticals.items()
            for surface in vertical.surfaces
        }

    @property
    def feature_columns(self) -> list[str]:
        """Every column that a feature may name."""
        return [
            *BASE_FEATURE_COLUMNS,
            *self.impressions.context,
            *self.attribute_columns("user"),
            *self.attribute_columns("ad"),
        ]

    @property
    def outcome_types(self) -> list[str]:
        """Every outcome type that some task or inline flag names, sorted."""
        named = {o for task in self.tasks.values() for o in task.read_types}
        return sorted(named | set(self.impressions.outcomes))

    @property
    def zipper_tasks(self) -> list[str]:
        """Tasks with a Zipper."""
        return [name for name, task in self.tasks.items() if task.zipper_windows]

    def vertical_tasks(self, domain: str, vertical: str) -> list[str]:
        """Tasks that a vertical's student predicts."""
        own = self.domains[domain].verticals[vertical].tasks
        return own or [name for name, task in self.tasks.items() if task.level == "vertical"]

    def vocabulary_rule(self, field: str) -> VocabularyRule:
        """Which values of a field get a row."""
        features = self.features
        return features.vocabulary_by_field.get(field, features.vocabulary)

    def rate_of(self, task: Task) -> str | None:
        """The count whose rate over impressions is a task's base rate."""
        features = self.features
        for count, shown in features.rates.items():
            same = set(features.counts[count]) == set(task.outcomes)
            if same and features.counts[shown] == [IMPRESSION]:
                return count
        return None

    def attribute_columns(self, entity: str) -> list[str]:
        """Feature names of an entity's attributes, in feed order; undated ones only if wanted."""
        return [
            f"{entity}_{name}" for feed in self.attribute_feeds(entity) for name in feed.attributes
        ]

    @property
    def unread_texts(self) -> set[str]:
        """Attributes that are content alone: read as texts, and joined to no impression."""
        if self.content is None:
            return set()
        features = self.features
        keys = [name for key in features.entities.values() for name in key]
        read = {*features.categorical, *features.numeric, *keys}
        return {f"ad_{field}" for field in self.content.fields} - read

    def attribute_feeds(self, entity: str) -> list[AttributesFeed]:
        """Attribute feeds of an entity that features may read."""
        return [
            feed
            for feed in self.feeds.values()
            if isinstance(feed, AttributesFeed)
            and feed.entity == entity
            and (feed.is_dated or self.features.use_undated_attributes)
        ]


def _check_names(contract: LogContract) -> None:
    kinds = [feed.kind for feed in contract.feeds.values()]
    if kinds.count("impressions") != 1:
        raise ValueError(f"feeds: exactly one is of kind `impressions`; found {kinds}")
    names = [
        contract.name,
        *contract.feeds,
        *contract.tasks,
        *contract.domains,
        *(name for domain in contract.domains.values() for name in domain.verticals),
        *contract.impressions.context,
        *contract.attribute_columns("user"),
        *contract.attribute_columns("ad"),
        *contract.features.entities,
        *contract.features.counts,
    ]
    for name in names:
        if _NAME.match(name) is None:
            raise ValueError(f"a name is lower case letters, digits and _; found {name!r}")


def _check_feeds(contract: LogContract) -> None:
    for name, feed in contract.feeds.items():
        for path in (feed.path, feed.ready or ""):
            if re.search(r"[{}]", path.replace("{day}", "")):
                raise ValueError(f"feeds.{name}: a path fills in {{day}} alone; found {path!r}")
        # A delta table is read as a whole; a sequence has no arrival day but its last item's.
        if "{day}" in feed.path and (feed.format == "delta" or isinstance(feed, SequencesFeed)):
            raise ValueError(
                f"feeds.{name}.path: a feed of {feed.kind} in format {feed.format} has no folder "
                f"per day; found {feed.path!r}"
            )
        _check_columns(name, feed)
    impressions = contract.impressions
    for name, source in impressions.context.items():
        for column in impressions.after_impression:
            if re.search(rf"\b{re.escape(column)}\b", source.sql):
                raise ValueError(
                    f"feeds: context {name!r} reads {column!r}, which is known only after the "
                    "impression; remove it from `context`"
                )


_NUMBERS = {"bid", "propensity", "value"}
_TIMES = {"event_ts", "known_ts", "last_ts"}


def _check_columns(feed_name: str, feed: Feed) -> None:
    """Only text has listed values, and only a number a range."""
    for place, source in columns_of(feed):
        name = place.rsplit(".", 1)[-1]
        numeric = name in _NUMBERS or place.startswith(("context.", "attributes."))
        if source.has_range and not numeric:
            raise ValueError(
                f"feeds.{feed_name}.{place}: `min` and `max` are of numbers (bid, propensity, "
                "value, context, attributes); remove them"
            )
        if source.values is not None and name in _TIMES | _NUMBERS:
            raise ValueError(
                f"feeds.{feed_name}.{place}: `values` are of text, not of times or numbers; "
                "remove them"
            )


def _check_surfaces(contract: LogContract) -> None:
    seen: dict[str, str] = {}
    for domain_name, domain in contract.domains.items():
        for vertical_name, vertical in domain.verticals.items():
            for surface in vertical.surfaces:
                place = f"{domain_name}.{vertical_name}"
                if surface in seen:
                    raise ValueError(
                        f"domains: surface {surface!r} is in {seen[surface]} and in {place}; "
                        "a surface belongs to one vertical"
                    )
                seen[surface] = place
            for task in vertical.tasks or []:
                if task not in contract.tasks:
                    raise ValueError(
                        f"domains.{domain_name}.verticals.{vertical_name}.tasks: unknown task "
                        f"{task!r}; the tasks are {sorted(contract.tasks)}"
                    )
            if not contract.vertical_tasks(domain_name, vertical_name):
                raise ValueError(f"domains.{domain_name}.verticals.{vertical_name}: no task")


def _check_event_types(contract: LogContract) -> None:
    """A misspelt type would count nothing. Other feeds name their types only in their rows."""
    feeds = contract.feeds.values()
    known = set(contract.impressions.outcomes)
    if not any(isinstance(feed, OutcomesFeed) for feed in feeds):
        for name, task in contract.tasks.items():
            _check_known(f"tasks.{name}.outcomes: unknown outcome", task.outcomes, known)
            _check_known(f"tasks.{name}.clicks: unknown outcome", sorted(task.read_types), known)
    known |= {IMPRESSION, *contract.outcome_types}
    known |= {t for f in feeds if isinstance(f, SequencesFeed) for t in f.sequences}
    if not any(isinstance(feed, EventsFeed) for feed in feeds):
        for name, types in contract.features.counts.items():
            _check_known(f"features.counts.{name}: unknown event type", types, known)
        _check_known("timeline_event_types: unknown type", contract.timeline_event_types, known)


def _check_known(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {sorted(known)}"
            raise ValueError(f"{what} {name!r}; {hint}")


def _check_features(contract: LogContract) -> None:
    known = contract.feature_columns
    features = contract.features
    wanted = {
        "categorical": features.categorical,
        "numeric": features.numeric,
        **{f"entities.{name}": key for name, key in features.entities.items()},
    }
    for place, columns in wanted.items():
        _check_known(f"features.{place}: unknown column", columns, known)
    for column in ("ad_id", "surface"):
        if column not in features.categorical:
            raise ValueError(
                f"features.categorical: {column} is missing; histories are read through its "
                "embeddings, so add it"
            )
    both = set(features.categorical) & set(features.numeric)
    if both:
        raise ValueError(
            f"features: a column is categorical or numeric; found both of {sorted(both)}"
        )
    windows = features.windows_days
    if 1 not in windows or len(set(windows)) != len(windows):
        raise ValueError(
            f"features.windows_days: different whole days, 1 among them; found {windows}"
        )
    for numerator, denominator in features.rates.items():
        if not {numerator, denominator} <= set(features.counts):
            raise ValueError(
                f"features.rates: {numerator} / {denominator} names no count; "
                f"the counts are {list(features.counts)}"
            )
    for count, entities in features.recency.items():
        _check_known("features.recency: unknown count", [count], features.counts)
        _check_known(f"features.recency.{count}: unknown entity", entities, features.entities)
        if len(set(entities)) != len(entities):
            raise ValueError(f"features.recency.{count}: different entities; found {entities}")
    if features.prior_entity not in features.entities:
        raise ValueError(
            f"features.prior_entity: {features.prior_entity!r} is no entity; "
            f"the entities are {list(features.entities)}"
        )
    _check_baseline(contract)
    contextual = {"hour", *contract.impressions.context}
    for name, key in features.entities.items():
        if contextual & set(key):
            raise ValueError(
                f"features.entities.{name}: counts are kept of users, ads, surfaces and their "
                f"attributes; found {sorted(contextual & set(key))}, which no other event has"
            )


def _check_content(contract: LogContract) -> None:
    content = contract.content
    if content is None:
        return
    ads = contract.attribute_feeds("ad")
    feeds = {name: feed for name, feed in contract.feeds.items() if feed in ads}
    if content.feed not in feeds:
        raise ValueError(
            "content.feed: one of the attributes feeds of ads that are dated (or read undated, by "
            f"features.use_undated_attributes), which are {list(feeds)}; found {content.feed!r}"
        )
    known = feeds[content.feed].attributes
    _check_known(f"content.fields: {content.feed} has no attribute", content.fields, known)


def _check_column_names(contract: LogContract) -> None:
    """Everything about an impression lies side by side in one table."""
    features = contract.features
    names = [
        *tables.impressions({}),
        *set(tables.examples([], [], [], list(contract.tasks), zippers=contract.zipper_tasks))
        - set(tables.impressions({})),
        *contract.impressions.context,
        *contract.attribute_columns("user"),
        *contract.attribute_columns("ad"),
        *(
            f"{entity}_{count}"
            for entity in features.entities
            for count in tables.count_columns(list(features.counts), features.windows_days)
        ),
        *tables.recency_columns(features.recency),
    ]
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise ValueError(
            f"columns need names of their own; found two called {twice}; rename the context, "
            "attribute, entity or count"
        )


def _check_baseline(contract: LogContract) -> None:
    """The counting baseline needs rates of every task by surface, ad and user."""
    features = contract.features
    keys = [tuple(key) for key in features.entities.values()]
    for column in ("surface", "ad_id", "user_id"):
        if (column,) not in keys:
            raise ValueError(f"features.entities: no entity has the key [{column}]; add one")
    for name, task in contract.tasks.items():
        if contract.rate_of(task) is None:
            raise ValueError(
                f"features.rates: task {name!r} has no rate; count {task.outcomes} and divide "
                f"by a count of [{IMPRESSION}]"
            )


def load_contract(path: Path) -> LogContract:
    """Read a contract from YAML.

    Args:
        path: The contract's file.

    Returns:
        The checked contract.

    Raises:
        ConfigError: The file is missing, is not YAML, or breaks a rule of the contract.
    """
    if not path.is_file():
        raise ConfigError(f"contract: no file {path}; give the path of a log contract (YAML)")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"contract {path.name}: not YAML: {error}") from error
    return checked(LogContract, raw, f"contract {path.name}")
