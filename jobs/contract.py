"""The log contract: one YAML file that maps a company's raw log to Lapidary's tables.

A contract names the feeds (files, formats, columns, units), the time zone that defines a day, the
id rule, which surface belongs to which vertical and domain, the tasks with their attribution
windows, and the features. Adding a log is writing one contract; no code.

A contract is as trusted as code: whoever writes it chooses the SQL that runs.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import Field, field_validator, model_validator

from jobs.content.settings import Content
from jobs.contract_checks import check_consistency
from jobs.errors import ConfigError
from jobs.feeds import (
    IMPRESSION,
    AnyFeed,
    AttributesFeed,
    Duration,
    ImpressionsFeed,
)
from jobs.settings import Settings, checked

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
    bags: list[str] = []
    """Columns with any number of values per row, from raw lists (of text,
    `{expr: "split(tags, ',')"}`): their embeddings are added up."""
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
    timeline_item_attributes: list[str] = []
    """Attributes of ads, among the categorical features, that every event of a history tells of
    its item too, as known at the event's time."""
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
        check_consistency(self)
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
        read = {*features.categorical, *features.numeric, *features.bags, *keys}
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
