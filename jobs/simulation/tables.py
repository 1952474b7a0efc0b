"""The tables of a simulated day, as they are written."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.simulation.ads import Ads
from jobs.simulation.days import Day, creative_numbers
from jobs.simulation.texts import draw_descriptions, draw_titles, written
from jobs.simulation.world import (
    AGE_GROUPS,
    COUNTRIES,
    DEVICES,
    EVENT_TYPES,
    ITEMS_PER_CATEGORY,
    NUM_CATEGORIES,
    OUTCOME_TYPES,
    SURFACES,
    Columns,
)

TRUTH = "truth"
"""The side table with true probabilities; no contract names it."""
_OUTCOME_PREFIX = ("k", "v")
"""First letters of the ids of clicks and conversions: ids of all feeds share one table."""


def tables(day: Day) -> dict[str, pa.Table]:
    """A day's tables by name, in the order in which they are written."""
    ads, shown, outcomes = day.ads, day.impressions, day.outcomes
    kind = outcomes["outcome_type"]
    prefixes = pa.array(_OUTCOME_PREFIX).take(pa.array(kind))
    users = _ids("u", day.people.users["number"])
    campaigns = _ids("c", ads.campaign)
    return {
        "users": _users(day.people.users, users),
        "ads": _ads(day),
        "events": _events(day.organic, users),
        "outcomes": pa.table(
            {
                "outcome_id": _ids(prefixes, outcomes["number"]),
                "impression_id": _ids("i", outcomes["number"]),
                "outcome_type": _names(OUTCOME_TYPES, kind),
                "event_ms": outcomes["event_ms"],
                "value": pa.array(outcomes["value"], from_pandas=True),
            }
        ),
        TRUTH: _truth(day.truth),
        "impressions": pa.table(
            {
                "impression_id": _ids("i", shown["number"]),
                "user_id": users.take(pa.array(shown["user"])),
                "ad_id": _ids("a", ads.number).take(pa.array(shown["slot"])),
                "campaign_id": campaigns.take(pa.array(shown["slot"])),
                "surface": _names(SURFACES, shown["surface"]),
                "event_ms": shown["event_ms"],
                "position": pa.array(shown["position"], pa.int32()),
                "device": _names(DEVICES, shown["device"]),
                "bid": shown["bid"],
                "propensity": shown["propensity"],
            }
        ),
    }


def _users(users: Columns, ids: pa.Array) -> pa.Table:
    return pa.table(
        {
            "user_id": ids,
            "country": _names(COUNTRIES, users["country"]),
            "age_group": _names(AGE_GROUPS, users["age_group"]),
            "device": _names(DEVICES, users["device"]),
            "created_ms": users["created_ms"],
        }
    )


def _ads(day: Day) -> pa.Table:
    ads: Ads = day.ads
    descriptions = pa.array(written(draw_descriptions(day.world, day.campaigns)))
    return pa.table(
        {
            "ad_id": _ids("a", ads.number),
            "campaign_id": _ids("c", ads.campaign),
            "category": _ids("t", ads.category),
            "created_ms": ads.created_ms,
            "creative_id": _ids("x", creative_numbers(day)),
            "title": written(draw_titles(day.world, day.campaigns, ads)),
            "description": descriptions.take(pa.array(ads.campaign)),
        }
    )


def _events(organic: Columns, users: pa.Array) -> pa.Table:
    items = _ids("n", np.arange(ITEMS_PER_CATEGORY * NUM_CATEGORIES))
    of_items = _ids("t", np.arange(NUM_CATEGORIES))
    return pa.table(
        {
            "event_id": _ids("o", organic["number"]),
            "user_id": users.take(pa.array(organic["user"])),
            "item_id": items.take(pa.array(organic["item"])),
            "surface": _names(SURFACES, organic["surface"]),
            "event_type": _names(EVENT_TYPES, organic["event_type"]),
            "event_ms": organic["event_ms"],
            "category": of_items.take(pa.array(organic["category"])),
        }
    )


def _truth(truth: Columns) -> pa.Table:
    """p* as drawn from; the others, which are only ever compared, in single precision."""
    drawn_from = ("p_click", "p_conversion_given_click")
    figures = {
        name: values if name in drawn_from else values.astype(np.float32)
        for name, values in truth.items()
        if name != "number"
    }
    return pa.table({"impression_id": _ids("i", truth["number"]), **figures})


def _ids(prefix: str | pa.Array, numbers: np.ndarray) -> pa.Array:
    parts = [prefix, pa.array(numbers).cast(pa.string()), ""]
    return pc.call_function("binary_join_element_wise", parts)


def _names(names: tuple[str, ...], indexes: np.ndarray) -> pa.Array:
    return pa.array(names).take(pa.array(indexes))
