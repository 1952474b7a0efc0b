"""Days of the simulated log, one after another: outcomes, and when they arrive."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.simulation.ads import FIRST_WEEK, Ads, Campaigns, draw_ads, draw_campaigns
from jobs.simulation.auctions import draw_impressions
from jobs.simulation.draws import Stream, random
from jobs.simulation.history import Actions, past_of
from jobs.simulation.people import People, draw_organic, draw_people
from jobs.simulation.world import (
    ARRIVAL_DAYS,
    CREATIVES_PER_CAMPAIGN,
    DAY_MS,
    FAST_DAYS,
    FAST_RATIO,
    HISTORY_DAYS,
    SLOW_DAYS,
    Columns,
    Indexes,
    World,
)


def draw_outcomes(world: World, impressions: Columns, truth: Columns, number: int) -> Columns:
    """Draw a day's clicks, within ten minutes, and the conversions that follow them."""
    rng = random(world, Stream.OUTCOMES, number)
    rows = world.num_impressions
    clicked = rng.random(rows) < truth["p_click"]
    wait_ms = 1000 + np.minimum(rng.exponential(20_000, rows), 599_000)
    click_ms = impressions["event_ms"] + wait_ms.astype(np.int64)
    converted = clicked & (rng.random(rows) < truth["p_conversion_given_click"])
    mean_days = np.where(rng.random(rows) < FAST_RATIO, FAST_DAYS, SLOW_DAYS)
    delay_ms = 1 + (mean_days * rng.standard_exponential(rows) * DAY_MS).astype(np.int64)
    price = np.round(rng.lognormal(3.0, 0.7, rows), 2)
    kinds = [
        {"event_ms": click_ms[clicked], "value": np.full(clicked.sum(), np.nan)},
        {"event_ms": (click_ms + delay_ms)[converted], "value": price[converted]},
    ]
    for kind, (columns, happened) in enumerate(zip(kinds, (clicked, converted), strict=True)):
        columns["number"] = impressions["number"][happened]
        columns["outcome_type"] = np.full(happened.sum(), kind)
        columns["shown_day"] = np.full(happened.sum(), number)
    return concatenated(kinds)


def converted_within(days: float) -> float:
    """Share of conversions that follow their click within some days."""
    slow = 1 - FAST_RATIO
    return float(1 - FAST_RATIO * np.exp(-days / FAST_DAYS) - slow * np.exp(-days / SLOW_DAYS))


@dataclass(frozen=True)
class Day:
    """Everything that arrives on one day, and the truth about its impressions."""

    world: World
    number: int
    people: People
    campaigns: Campaigns
    ads: Ads
    impressions: Columns
    truth: Columns
    organic: Columns
    outcomes: Columns
    """Clicks and conversions that arrive on this day, of whatever impressions."""
    num_dropped: int
    """Conversions of this day's impressions that would arrive too late."""


def days(world: World, first: int, num_days: int) -> Iterator[Day]:
    """Simulate days one after another; what a day needs of earlier ones is drawn anew.

    Args:
        world: The world.
        first: Number of the first day wanted.
        num_days: How many days.

    Yields:
        The days, equal whatever `first` is. At most one day's rows, the organic events that sway
        it and the outcomes still to arrive are held.
    """
    people, campaigns = draw_people(world), draw_campaigns(world)
    recent: deque[Actions] = deque(maxlen=HISTORY_DAYS + 1)
    pending: list[Columns] = []
    for number in range(max(0, first - ARRIVAL_DAYS - HISTORY_DAYS), first + num_days):
        organic = draw_organic(world, people, number)
        recent.append(past_of(organic, world.num_users))
        if number < first - ARRIVAL_DAYS:
            continue
        ads = draw_ads(world, campaigns, number)
        shown, truth = draw_impressions(world, people, ads, recent, number)
        drawn = draw_outcomes(world, shown, truth, number)
        in_time = (drawn["event_ms"] - world.day_ms(number)) // DAY_MS <= ARRIVAL_DAYS
        pending.append(rows_of(drawn, in_time))
        waiting = concatenated(pending)
        arrived = waiting["event_ms"] < world.day_ms(number + 1)
        pending = [rows_of(waiting, ~arrived)]
        if number >= first:
            outcomes = in_time_order(rows_of(waiting, arrived))
            dropped = int((~in_time).sum())
            yield Day(
                world, number, people, campaigns, ads, shown, truth, organic, outcomes, dropped
            )


def whole_day(world: World, number: int) -> Day:
    """A day alone, quickly: its outcomes are those of its own impressions, whenever they arrive."""
    people, campaigns = draw_people(world), draw_campaigns(world)
    organic = {}
    recent: deque[Actions] = deque()
    for day in range(max(0, number - HISTORY_DAYS), number + 1):
        organic = draw_organic(world, people, day)
        recent.append(past_of(organic, world.num_users))
    ads = draw_ads(world, campaigns, number)
    shown, truth = draw_impressions(world, people, ads, recent, number)
    outcomes = in_time_order(draw_outcomes(world, shown, truth, number))
    return Day(world, number, people, campaigns, ads, shown, truth, organic, outcomes, 0)


def creative_numbers(day: Day) -> Indexes:
    """The creative of each of a day's ads: ads of one creative say and show the same."""
    ads, num_campaigns = day.ads, len(day.campaigns.bid)
    booked = (ads.week - FIRST_WEEK) * num_campaigns + ads.campaign
    return booked * CREATIVES_PER_CAMPAIGN + ads.variant


def concatenated(parts: Sequence[Columns]) -> Columns:
    """Rows of several parts, one after another."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def rows_of(columns: Columns, chosen: np.ndarray) -> Columns:
    return {name: values[chosen] for name, values in columns.items()}


def in_time_order(outcomes: Columns) -> Columns:
    keys = (outcomes["outcome_type"], outcomes["number"], outcomes["event_ms"])
    return rows_of(outcomes, np.lexsort(keys))
