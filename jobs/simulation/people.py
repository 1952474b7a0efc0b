"""Who is in the simulated world: users, campaigns, ads, and what users do of their own accord."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jobs.simulation.world import (
    AD_SIGMA,
    AGE_GROUPS,
    COMMON_RATIO,
    COUNTRIES,
    DAY_MS,
    DEVICES,
    DRIFT_SIGMA,
    EVENT_TYPE_UP_TO,
    EVENTS_PER_IMPRESSION,
    FOCUS_RATIO,
    ITEMS_PER_CATEGORY,
    LONG_LIFE_DAYS,
    NUM_CATEGORIES,
    SHORT_LIFE_DAYS,
    SHORT_LIVED_RATIO,
    WIDTH,
    Array,
    Columns,
    Indexes,
    Stream,
    World,
    categories,
    picked,
    random,
    surfaces,
    times_of_day,
)


@dataclass(frozen=True)
class People:
    """What never changes: users, campaigns and the tasks' directions."""

    latents: Array
    """u, one row per user."""
    tastes: Array
    """q, one row per user, made like u."""
    active_up_to: Array
    """Share of the traffic that falls to each user and the ones before."""
    blue_ratio: Array
    interests_up_to: Array
    """Cumulated long-term shares of the categories, one row per user."""
    users: Columns
    campaign_category: Indexes
    campaign_content: Array
    """v, one row per campaign."""
    campaign_latents: Array
    """What the vectors a of a campaign's ads have in common."""
    campaign_bid: Array
    directions: Array
    """w by task, then user or ad."""


def draw_people(world: World) -> People:
    """Draw users, campaigns and directions."""
    rng = random(world, Stream.USERS)
    num = world.num_users
    activity = np.cumsum(rng.lognormal(0.0, 1.0, num))
    interests = np.cumsum(rng.dirichlet(np.full(NUM_CATEGORIES, 0.4), num), axis=1)
    blue_ratio = rng.beta(2.4, 2.0, num)
    users = {
        "number": np.arange(num),
        "country": rng.integers(len(COUNTRIES), size=num),
        "age_group": rng.integers(len(AGE_GROUPS), size=num),
        "device": rng.integers(len(DEVICES), size=num),
        "created_ms": world.day_ms(0) - rng.integers(DAY_MS, 400 * DAY_MS, size=num),
    }
    latents, tastes = (grouped(rng, users["age_group"], users["country"]) for _ in range(2))
    rng = random(world, Stream.CAMPAIGNS)
    num_campaigns = max(NUM_CATEGORIES, world.num_ads // 8)
    category = np.arange(num_campaigns) % NUM_CATEGORIES
    centres = rng.standard_normal((NUM_CATEGORIES, WIDTH))
    own = rng.standard_normal((num_campaigns, WIDTH))
    content = mixed(centres[category], own)
    common = whitened(rng.standard_normal((num_campaigns, WIDTH)))
    directions = random(world, Stream.TASKS).standard_normal((2, 2, WIDTH))
    return People(
        latents=latents,
        tastes=tastes,
        active_up_to=activity / activity[-1],
        blue_ratio=blue_ratio,
        interests_up_to=interests / interests[:, -1:],
        users=users,
        campaign_category=category,
        campaign_content=scaled(content, np.sqrt(WIDTH)),
        campaign_latents=common,
        campaign_bid=rng.lognormal(0.0, 0.4, num_campaigns),
        directions=scaled(directions, 1.0),
    )


@dataclass(frozen=True)
class Ads:
    """The ads that can be shown on one day, one per slot."""

    number: Indexes
    campaign: Indexes
    created_ms: Indexes
    latents: Array
    """a."""
    bias: Array
    """b_ad(day)."""


def draw_ads(world: World, people: People, number: int) -> Ads:
    """Draw a day's ads. A slot's ad lives for 2 or 14 days, then another takes its place."""
    num = world.num_ads
    rng = random(world, Stream.AD_PHASES)
    life = np.where(rng.random(num) < SHORT_LIVED_RATIO, SHORT_LIFE_DAYS, LONG_LIFE_DAYS)
    phase = (rng.random(num) * life).astype(np.int64)
    generation = (number + phase) // life
    born = generation * life - phase
    campaign, created_ms = np.zeros((2, num), np.int64)
    latents, bias = np.zeros((num, WIDTH)), np.zeros(num)
    for day in range(number - LONG_LIFE_DAYS + 1, number + 1):
        drift = random(world, Stream.DRIFT, day).standard_normal(num)
        bias += np.where(day > born, DRIFT_SIGMA * drift, 0.0)
        rng = random(world, Stream.ADS, day)
        new = born == day
        campaign = np.where(new, rng.integers(len(people.campaign_bid), size=num), campaign)
        # Booked on the evening before its first day.
        evening = world.day_ms(day) - rng.integers(1, DAY_MS // 4, size=num)
        created_ms = np.where(new, evening, created_ms)
        own = rng.standard_normal((num, WIDTH))
        latents = np.where(new[:, None], mixed(people.campaign_latents[campaign], own), latents)
        bias = np.where(new, AD_SIGMA * rng.standard_normal(num), bias)
    return Ads(generation * num + np.arange(num), campaign, created_ms, latents, bias)


def draw_organic(world: World, people: People, number: int) -> Columns:
    """Draw what users do of their own accord on a day, in order of time.

    A user has one category in mind for the day, on both platforms, beside long-term interests.
    """
    rng = random(world, Stream.ORGANIC, number)
    rows = EVENTS_PER_IMPRESSION * world.num_impressions
    focus = categories(people.interests_up_to, rng.random(world.num_users))
    event_ms = world.day_ms(number) + times_of_day(rng, rows)
    user = picked(people.active_up_to, rng.random(rows))
    usual = categories(people.interests_up_to[user], rng.random(rows))
    category = np.where(rng.random(rows) < FOCUS_RATIO, focus[user], usual)
    popular = (ITEMS_PER_CATEGORY * rng.random(rows) ** 2).astype(np.int64)
    return {
        "number": world.row_numbers(number, rows),
        "user": user,
        "item": popular * NUM_CATEGORIES + category,
        "category": category,
        "surface": surfaces(people.blue_ratio[user], rng),
        "event_type": picked(EVENT_TYPE_UP_TO, rng.random(rows)),
        "event_ms": event_ms,
    }


def grouped(rng: np.random.Generator, one: Indexes, other: Indexes) -> Array:
    """Vectors of users, most of them common to a group of each of two kinds."""
    first, second = (rng.standard_normal((g.max() + 1, WIDTH))[g] for g in (one, other))
    own = rng.standard_normal((len(one), WIDTH))
    return whitened(mixed((first + second) / np.sqrt(2), own))


def mixed(common: Array, own: Array) -> Array:
    return np.sqrt(COMMON_RATIO) * common + np.sqrt(1 - COMMON_RATIO) * own


def whitened(vectors: Array) -> Array:
    """The vectors, mapped linearly so that their mean is 0 and their covariance I."""
    centred = vectors - vectors.mean(axis=0)
    root = np.linalg.cholesky(centred.T @ centred / len(vectors))
    return np.linalg.solve(root, centred.T).T


def scaled(vectors: Array, length: float) -> Array:
    return vectors * (length / np.linalg.norm(vectors, axis=-1, keepdims=True))
