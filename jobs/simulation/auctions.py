"""Impressions of a simulated day: who asks for an ad, which one an auction shows, and the truth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jobs.simulation.ads import Ads
from jobs.simulation.draws import Stream, picked, random, times_of_day
from jobs.simulation.history import Actions, attention, blocks, by_user
from jobs.simulation.people import People, draw_surfaces
from jobs.simulation.tasks import CLICK, CONVERSION
from jobs.simulation.truth import candidate_logits, logit_parts, probabilities, sigmoid
from jobs.simulation.world import (
    DEVICES,
    EXPLORATION,
    NUM_CANDIDATES,
    POSITION_UP_TO,
    PREDICTION_SIGMA,
    SURFACE_DOMAIN,
    Array,
    Columns,
    Indexes,
    World,
)

_BLOCK_ROWS = 1 << 17
"""Actions and requests that one thread works on at a time: some 50 MB of tables."""


def draw_requests(world: World, people: People, number: int) -> Columns:
    """Draw who is to see an ad on a day, when and where, in order of time."""
    rng = random(world, Stream.REQUESTS, number)
    rows = world.num_impressions
    event_ms = world.day_ms(number) + times_of_day(rng, rows)
    user = picked(people.active_up_to, rng.random(rows))
    own = people.users["device"][user]
    other = rng.integers(len(DEVICES), size=rows)
    surface = draw_surfaces(people, user, rng)
    return {
        "number": world.row_numbers(number, rows),
        "user": user,
        "surface": surface,
        "domain": SURFACE_DOMAIN[surface],
        "position": picked(POSITION_UP_TO, rng.random(rows)),
        "device": np.where(rng.random(rows) < 0.8, own, other),
        "event_ms": event_ms,
    }


def draw_candidates(world: World, ads: Ads, number: int) -> Columns:
    """Draw what an auction knows and decides by chance, for every request of a day.

    Candidates are different ads, one from each of C equal stretches of the day's list.
    """
    rng = random(world, Stream.AUCTIONS, number)
    shape = (world.num_impressions, NUM_CANDIDATES)
    stretch = world.num_ads // NUM_CANDIDATES
    turn = rng.integers(world.num_ads, size=(shape[0], 1))
    within = rng.integers(stretch, size=shape)
    slot = (turn + np.arange(NUM_CANDIDATES) * stretch + within) % world.num_ads
    return {
        "slot": slot,
        "error": PREDICTION_SIGMA * rng.standard_normal(shape),
        "bid": ads.bid[slot] * rng.lognormal(0.0, 0.2, shape),
        "at_random": rng.integers(NUM_CANDIDATES, size=shape[0]),
        "explores": rng.random(shape[0]) < EXPLORATION,
    }


def auction(score: Array, at_random: Indexes, explores: np.ndarray) -> tuple[Indexes, Array]:
    """Show the candidate of the highest score, or any one in epsilon of the cases.

    propensity = (1 - epsilon) [best] + epsilon / C, given the candidates.

    Args:
        score: (B, C).
        at_random: A candidate drawn at random, (B,).
        explores: Whether to show that one, with probability epsilon, (B,).

    Returns:
        Index of the candidate shown, (B,), and its propensity, (B,).
    """
    best = score.argmax(axis=1)
    shown = np.where(explores, at_random, best)
    return shown, (1 - EXPLORATION) * (shown == best) + EXPLORATION / score.shape[1]


def draw_impressions(
    world: World, people: People, ads: Ads, past: Sequence[Actions], number: int
) -> tuple[Columns, Columns]:
    """Draw a day's impressions by auction.

    Args:
        world: The world.
        people: Users.
        ads: The day's ads.
        past: Organic events of the days that can sway this one, itself the last.
        number: The day.

    Returns:
        Impressions, in order of time, and the truth about each.
    """
    request = draw_requests(world, people, number)
    candidates = draw_candidates(world, ads, number)
    confounder = random(world, Stream.CONFOUNDER, number).standard_normal(len(request["user"]))
    row = np.arange(len(confounder))
    sorted_rows = by_user(
        {**request, "confounder": world.confounding * confounder, "row": row}, world.num_users
    )

    def decide(users: tuple[int, int]) -> Columns:
        chosen = slice(*sorted_rows.up_to[list(users)])
        asked = {name: values[chosen] for name, values in sorted_rows.rows.items()}
        offered = {name: values[asked["row"]] for name, values in candidates.items()}
        swayed = attention(past, *users, asked, world.history_reach, world.num_domains)
        z = candidate_logits(people, ads, asked, swayed, offered["slot"])
        score = offered["bid"] * sigmoid(z + offered["error"])
        shown, propensity = auction(score, offered["at_random"], offered["explores"])
        every = np.arange(len(shown))
        slot, bid = offered["slot"][every, shown], offered["bid"][every, shown]
        click, conversion = (
            logit_parts(task, people, ads, asked, swayed, slot) for task in (CLICK, CONVERSION)
        )
        told = probabilities(click, conversion, world.confounding)
        return {"row": asked["row"], "slot": slot, "bid": bid, "propensity": propensity, **told}

    found: Columns = {}
    # Threads share what they read, and numpy lets go of the interpreter's lock.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for part in pool.map(decide, blocks([*past, sorted_rows], _BLOCK_ROWS)):
            where = part.pop("row")
            for name, values in part.items():
                found.setdefault(name, np.empty(len(row), values.dtype))[where] = values
    decided = {name: found.pop(name) for name in ("slot", "bid", "propensity")}
    return {**request, **decided}, {"number": request["number"], **found}
