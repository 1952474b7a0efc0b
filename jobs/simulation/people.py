"""Who is in the simulated world, and what users do of their own accord."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jobs.simulation.draws import (
    Stream,
    categories,
    mixed,
    picked,
    random,
    scaled,
    times_of_day,
    whitened,
)
from jobs.simulation.world import (
    AGE_GROUPS,
    COMMON_RATIO,
    COUNTRIES,
    DAY_MS,
    DEVICES,
    DOMAIN_WEIGHTS,
    EVENT_TYPE_SHARES,
    FOCUS_RATIO,
    ITEMS_PER_CATEGORY,
    NUM_CATEGORIES,
    SURFACE_DOMAIN,
    SURFACE_SHARES,
    WIDTH,
    Array,
    Columns,
    Indexes,
    World,
)


@dataclass(frozen=True)
class People:
    """What never changes: users and the tasks' directions."""

    latents: Array
    """u, one row per user."""
    tastes: Array
    """q, one row per user, made like u."""
    active_up_to: Array
    """Share of the traffic that falls to each user and the ones before."""
    surfaces_up_to: Array
    """Cumulated shares of a user's time on each surface, one row per user."""
    interests_up_to: Array
    """Cumulated long-term shares of the categories, one row per user."""
    users: Columns
    directions: Array
    """w by task, then user or ad."""


def draw_people(world: World) -> People:
    """Draw users and directions."""
    rng = random(world, Stream.USERS)
    num = world.num_users
    activity = np.cumsum(rng.lognormal(0.0, 1.0, num))
    interests = np.cumsum(rng.dirichlet(np.full(NUM_CATEGORIES, 0.4), num), axis=1)
    platforms = rng.dirichlet(DOMAIN_WEIGHTS[: world.num_domains], num)
    there = world.num_domains > SURFACE_DOMAIN
    on_surfaces = np.cumsum(platforms[:, SURFACE_DOMAIN[there]] * SURFACE_SHARES[there], axis=1)
    users = {
        "number": np.arange(num),
        "country": rng.integers(len(COUNTRIES), size=num),
        "age_group": rng.integers(len(AGE_GROUPS), size=num),
        "device": rng.integers(len(DEVICES), size=num),
        "created_ms": world.day_ms(0) - rng.integers(DAY_MS, 400 * DAY_MS, size=num),
    }
    latents, tastes = (_grouped(rng, users["age_group"], users["country"]) for _ in range(2))
    directions = random(world, Stream.TASKS).standard_normal((2, 2, WIDTH))
    return People(
        latents=latents,
        tastes=tastes,
        active_up_to=activity / activity[-1],
        surfaces_up_to=on_surfaces / on_surfaces[:, -1:],
        interests_up_to=interests / interests[:, -1:],
        users=users,
        directions=scaled(directions, 1.0),
    )


def draw_organic(world: World, people: People, number: int) -> Columns:
    """Draw what users do of their own accord on a day, in order of time.

    A user has one category in mind for the day, on all platforms, beside long-term interests. Types
    are drawn independently, so that a journey and its reverse are equally frequent, and nothing but
    the order of the actions tells them apart.
    """
    rng = random(world, Stream.ORGANIC, number)
    rows = world.events_per_impression * world.num_impressions
    focus = categories(people.interests_up_to, rng.random(world.num_users))
    event_ms = world.day_ms(number) + times_of_day(rng, rows)
    user = picked(people.active_up_to, rng.random(rows))
    is_focused = rng.random(rows) < FOCUS_RATIO
    category = focus[user]
    others = user[~is_focused]
    category[~is_focused] = categories(people.interests_up_to[others], rng.random(len(others)))
    popular = (ITEMS_PER_CATEGORY * rng.random(rows) ** 2).astype(np.int64)
    return {
        "number": world.row_numbers(number, rows),
        "user": user,
        "item": popular * NUM_CATEGORIES + category,
        "category": category,
        "surface": draw_surfaces(people, user, rng),
        "event_type": picked(np.cumsum(EVENT_TYPE_SHARES), rng.random(rows)),
        "event_ms": event_ms,
    }


def draw_surfaces(people: People, user: Indexes, rng: np.random.Generator) -> Indexes:
    return categories(people.surfaces_up_to[user], rng.random(len(user)))


def _grouped(rng: np.random.Generator, one: Indexes, other: Indexes) -> Array:
    """Vectors of users, most of them common to a group of each of two kinds."""
    first, second = (rng.standard_normal((g.max() + 1, WIDTH))[g] for g in (one, other))
    own = rng.standard_normal((len(one), WIDTH))
    return whitened(mixed((first + second) / np.sqrt(2), own, COMMON_RATIO))
