"""Days of the simulated log: requests, auctions, outcomes and when they arrive."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.simulation.people import Ads, People, draw_ads, draw_organic, draw_people
from jobs.simulation.truth import history_shares, logit_parts
from jobs.simulation.world import (
    ARRIVAL_DAYS,
    CLICK,
    CONVERSION,
    DAY_MS,
    DEVICES,
    EXPLORATION,
    FAST_DAYS,
    FAST_RATIO,
    HISTORY_DAYS,
    NUM_CANDIDATES,
    POSITION_UP_TO,
    PREDICTION_SIGMA,
    SLOW_DAYS,
    Array,
    Columns,
    Indexes,
    Stream,
    World,
    picked,
    random,
    surfaces,
    times_of_day,
)


def draw_requests(world: World, people: People, number: int) -> Columns:
    """Draw who is to see an ad on a day, when and where, in order of time."""
    rng = random(world, Stream.REQUESTS, number)
    rows = world.num_impressions
    event_ms = world.day_ms(number) + times_of_day(rng, rows)
    user = picked(people.active_up_to, rng.random(rows))
    own = people.users["device"][user]
    other = rng.integers(len(DEVICES), size=rows)
    return {
        "number": world.row_numbers(number, rows),
        "user": user,
        "surface": surfaces(people.blue_ratio[user], rng),
        "position": picked(POSITION_UP_TO, rng.random(rows)),
        "device": np.where(rng.random(rows) < 0.8, own, other),
        "event_ms": event_ms,
    }


def auction(score: Array, rng: np.random.Generator) -> tuple[Indexes, Array]:
    """Show the candidate of the highest score, or any one in epsilon of the cases.

    propensity = (1 - epsilon) [best] + epsilon / C, given the candidates.

    Args:
        score: (B, C).
        rng: Random numbers.

    Returns:
        Index of the candidate shown, (B,), and its propensity, (B,).
    """
    rows, candidates = score.shape
    best = score.argmax(axis=1)
    at_random = rng.integers(candidates, size=rows)
    shown = np.where(rng.random(rows) < EXPLORATION, at_random, best)
    return shown, (1 - EXPLORATION) * (shown == best) + EXPLORATION / candidates


def draw_impressions(
    world: World, people: People, ads: Ads, history: Columns, number: int
) -> tuple[Columns, Columns]:
    """Draw a day's impressions by auction.

    Candidates are different ads, one from each of C equal stretches of the day's list.

    Returns:
        Impressions, in order of time, and the truth about each.
    """
    request = draw_requests(world, people, number)
    rng = random(world, Stream.AUCTIONS, number)
    shape = (world.num_impressions, NUM_CANDIDATES)
    stretch = world.num_ads // NUM_CANDIDATES
    turn = rng.integers(world.num_ads, size=(shape[0], 1))
    within = rng.integers(stretch, size=shape)
    slot = (turn + np.arange(NUM_CANDIDATES) * stretch + within) % world.num_ads
    category = people.campaign_category[ads.campaign[slot]]
    share = history_shares(history, request["user"], category, request["event_ms"])
    parts = logit_parts(CLICK, people, ads, request, slot=slot, share=share)
    predicted = sigmoid(total(parts) + PREDICTION_SIGMA * rng.standard_normal(shape))
    bid = people.campaign_bid[ads.campaign[slot]] * rng.lognormal(0.0, 0.2, shape)
    shown, propensity = auction(bid * predicted, rng)

    def of_shown(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, shown[:, None], axis=1)

    slot, share, bid = of_shown(slot), of_shown(share), of_shown(bid)
    click = {name: of_shown(part)[:, 0] for name, part in parts.items()}
    parts = logit_parts(CONVERSION, people, ads, request, slot=slot, share=share)
    conversion = {name: part[:, 0] for name, part in parts.items()}
    impressions = {**request, "slot": slot[:, 0], "bid": bid[:, 0], "propensity": propensity}
    truth = {
        "number": request["number"],
        "p_click": sigmoid(total(click)),
        "p_conversion_given_click": sigmoid(total(conversion)),
        **{f"click_{name}": part for name, part in click.items()},
        **{f"conversion_{name}": part for name, part in conversion.items()},
    }
    return impressions, truth


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

    number: int
    people: People
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
    people = draw_people(world)
    recent: deque[Columns] = deque(maxlen=HISTORY_DAYS + 1)
    pending: list[Columns] = []
    for number in range(max(0, first - ARRIVAL_DAYS - HISTORY_DAYS), first + num_days):
        recent.append(draw_organic(world, people, number))
        if number < first - ARRIVAL_DAYS:
            continue
        ads = draw_ads(world, people, number)
        shown, truth = draw_impressions(world, people, ads, concatenated(recent), number)
        drawn = draw_outcomes(world, shown, truth, number)
        in_time = (drawn["event_ms"] - world.day_ms(number)) // DAY_MS <= ARRIVAL_DAYS
        pending.append(rows_of(drawn, in_time))
        waiting = concatenated(pending)
        arrived = waiting["event_ms"] < world.day_ms(number + 1)
        pending = [rows_of(waiting, ~arrived)]
        if number >= first:
            outcomes = in_time_order(rows_of(waiting, arrived))
            dropped = int((~in_time).sum())
            yield Day(number, people, ads, shown, truth, recent[-1], outcomes, dropped)


def concatenated(parts: Sequence[Columns] | deque[Columns]) -> Columns:
    """Rows of several parts, one after another."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def rows_of(columns: Columns, chosen: np.ndarray) -> Columns:
    return {name: values[chosen] for name, values in columns.items()}


def in_time_order(outcomes: Columns) -> Columns:
    keys = (outcomes["outcome_type"], outcomes["number"], outcomes["event_ms"])
    return rows_of(outcomes, np.lexsort(keys))


def total(parts: Columns) -> Array:
    return np.sum(list(parts.values()), axis=0)


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))
