"""What a log contract's parts demand of each other, beyond what each says of itself.

Every mistake is told with its place in the contract, what was found, and what to do; a misspelt
name with the nearest known one.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from jobs.feeds import (
    IMPRESSION,
    AttributesFeed,
    EventsFeed,
    Feed,
    OutcomesFeed,
    SequencesFeed,
    columns_of,
)
from validation import tables

if TYPE_CHECKING:
    from jobs.contract import LogContract

_NAME = re.compile(r"^[a-z][a-z0-9_]*$")


def check_consistency(contract: LogContract) -> None:
    """Hold the parts of a contract against each other.

    Raises:
        ValueError: They do not fit together.
    """
    _check_names(contract)
    _check_feeds(contract)
    _check_surfaces(contract)
    _check_event_types(contract)
    _check_features(contract)
    _check_item_attributes(contract)
    _check_content(contract)
    _check_column_names(contract)


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
        "bags": features.bags,
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
    _check_bags(contract)
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


_SINGLE = {"user_id", "ad_id", "surface", "hour"}


def _check_bags(contract: LogContract) -> None:
    features = contract.features
    keys = [column for key in features.entities.values() for column in key]
    single = {*features.categorical, *features.numeric, *keys, *_SINGLE}
    wrong = [name for name, times in Counter(features.bags).items() if times > 1 or name in single]
    if wrong:
        raise ValueError(
            "features.bags: columns of lists, each named once, which are no other feature and no "
            f"part of an entity's key; found {wrong}; name them in one place"
        )
    sources = dict(contract.impressions.context)
    for feed in contract.feeds.values():
        if isinstance(feed, AttributesFeed):
            sources |= {f"{feed.entity}_{name}": one for name, one in feed.attributes.items()}
    for name in features.bags:
        if sources[name].values is not None or sources[name].has_range:
            raise ValueError(
                f"features.bags: {name} is made of lists, of which `values`, `min` and `max` say "
                "nothing; remove them"
            )


def _check_item_attributes(contract: LogContract) -> None:
    names = contract.timeline_item_attributes
    read = [
        name
        for name in contract.attribute_columns("ad")
        if name in set(contract.features.categorical)
    ]
    _check_known("timeline_item_attributes: no categorical attribute of ads", names, read)
    if len(set(names)) != len(names):
        raise ValueError(f"timeline_item_attributes: different attributes; found {names}")


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
