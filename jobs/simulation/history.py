"""What users' pasts tell about an impression: attention to its category, and journeys.

A_c = 1/M sum_m 1/N_m sum_{n <= N_m} w_n [category_n = c], over a user's latest actions n = 1, 2, ..
before the impression: with N_m = 4, 16, .., 1024 every factor of four in n has equal mass, which is
attention that decays with the logarithm of the distance, and 30 % of it lies beyond n = 100. w is
an action's weight by type. The history's effect is A_c less its mean over categories.

J_c = +1 where the user's latest three actions about c were view, search, like in this order, -1
where they were like, search, view, otherwise 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.simulation.world import (
    EVENT_WEIGHT,
    HISTORY_CUTS,
    HISTORY_SCALE,
    HISTORY_WINDOWS,
    JOURNEY_SCALE,
    LIKE,
    NUM_CATEGORIES,
    SEARCH,
    SURFACE_DOMAIN,
    VIEW,
    Columns,
    Indexes,
)

_MAX_USERS = (1 << 16) // NUM_CATEGORIES
"""So that a pair of user and category is a 16-bit number, which sorts in linear time."""


@dataclass(frozen=True)
class Actions:
    """Organic events of one day, or the requests of one, by user and then by time."""

    up_to: Indexes
    """Where each user's rows begin, and the end, (users + 1,)."""
    rows: Columns


def by_user(rows: Columns, num_users: int) -> Actions:
    """Rows in order of time, sorted by user."""
    order = np.argsort(rows["user"], kind="stable")
    up_to = np.searchsorted(rows["user"][order], np.arange(num_users + 1))
    return Actions(up_to, {name: values[order] for name, values in rows.items()})


def past_of(organic: Columns, num_users: int) -> Actions:
    """What of a day's organic events sways later impressions, in few bytes."""
    kept = {
        "user": organic["user"],
        "event_ms": organic["event_ms"],
        "category": organic["category"].astype(np.int8),
        "domain": SURFACE_DOMAIN[organic["surface"]].astype(np.int8),
        "event_type": organic["event_type"].astype(np.int8),
    }
    return by_user(kept, num_users)


def blocks(parts: Sequence[Actions], num_rows: int) -> Iterator[tuple[int, int]]:
    """Stretches of users, first and end, with about so many rows each."""
    total = np.sum([part.up_to for part in parts], axis=0)
    num_users = len(total) - 1
    first = 0
    while first < num_users:
        end = int(np.searchsorted(total, total[first] + num_rows, side="right")) - 1
        end = min(max(end, first + 1), first + _MAX_USERS, num_users)
        yield first, end
        first = end


def attention(
    past: Sequence[Actions], first: int, end: int, request: Columns, reach: int, num_domains: int
) -> Columns:
    """How a stretch of users' pasts sway their requests, for every category.

    Args:
        past: Days of organic events, oldest first.
        first: First user of the stretch.
        end: The user after its last.
        request: `user`, all of the stretch, `event_ms` and `domain`, (B,).
        reach: Actions at which every window ends.
        num_domains: Domains of the world.

    Returns:
        Natural log-odds of unit scale, (B, categories): `history`, its summands
        `history_beyond_20`, `.._100`, `.._400` (older actions) and `other_platform` (actions on
        another domain than the request's), and `journey`.
    """
    rows = _joined(past, first, end)
    user = rows["user"] - first
    asking = request["user"] - first
    num, starts = len(user), np.searchsorted(user, np.arange(end - first))
    begin = starts[asking]
    now = _places(user, rows["event_ms"], asking, request["event_ms"])
    sums = np.zeros((num + 1, num_domains, NUM_CATEGORIES), np.int32)
    weight = EVENT_WEIGHT[rows["event_type"]]
    sums[np.arange(1, num + 1), rows["domain"], rows["category"]] = weight
    np.cumsum(sums, axis=0, out=sums)

    def latest(length: int) -> np.ndarray:
        return sums[now] - sums[np.maximum(now - length, begin)]

    windows = [min(window, reach) for window in HISTORY_WINDOWS]
    needed = {length for length in (*windows, *HISTORY_CUTS) if length <= reach}
    found = {length: latest(length) for length in needed}
    own = np.arange(len(now)), request["domain"]

    def attended(cut: int) -> np.ndarray:
        parts = [found[min(w, cut)] / n for w, n in zip(windows, HISTORY_WINDOWS, strict=True)]
        return np.sum(parts, axis=0) / len(windows)

    whole = attended(reach)
    everywhere = whole.sum(axis=1)
    told = {"history": everywhere, "other_platform": everywhere - whole[own]}
    for cut in HISTORY_CUTS:
        told[f"history_beyond_{cut}"] = everywhere - attended(min(cut, reach)).sum(axis=1)
    centred = {
        name: (a - a.mean(axis=1, keepdims=True)) / HISTORY_SCALE for name, a in told.items()
    }
    return {**centred, "journey": _journeys(rows, user, now, begin) / JOURNEY_SCALE}


def _joined(past: Iterable[Actions], first: int, end: int) -> Columns:
    """A stretch of users' actions of all days, by user and then by time."""
    slices = [(day, slice(day.up_to[first], day.up_to[end])) for day in past]
    rows = {
        name: np.concatenate([day.rows[name][chosen] for day, chosen in slices])
        for name in ("user", "event_ms", "category", "domain", "event_type")
    }
    order = np.argsort((rows["user"] - first).astype(np.uint16), kind="stable")
    return {name: values[order] for name, values in rows.items()}


def _places(user: Indexes, event_ms: Indexes, asking: Indexes, at_ms: Indexes) -> Indexes:
    """How many rows are of a user before the asking one, or of that one before a moment."""
    origin = event_ms.min(initial=at_ms.min(initial=np.iinfo(np.int64).max))
    span = max(event_ms.max(initial=0), at_ms.max(initial=0)) - origin + 1
    return np.searchsorted(user * span + (event_ms - origin), asking * span + (at_ms - origin))


def _journeys(rows: Columns, user: Indexes, now: Indexes, begin: Indexes) -> np.ndarray:
    """J for every category, (B, categories)."""
    pair = (user * NUM_CATEGORIES + rows["category"]).astype(np.uint16)
    order = np.argsort(pair, kind="stable")
    pair, kind = pair[order], rows["event_type"][order]
    state = np.zeros(len(pair), np.int8)
    same = pair[2:] == pair[:-2]
    for sign, steps in ((1, (VIEW, SEARCH, LIKE)), (-1, (LIKE, SEARCH, VIEW))):
        one, two, three = steps
        state[2:][same & (kind[:-2] == one) & (kind[1:-1] == two) & (kind[2:] == three)] = sign
    change = state.copy()
    change[1:] -= np.where(pair[1:] == pair[:-1], state[:-1], 0).astype(np.int8)
    sums = np.zeros((len(pair) + 1, NUM_CATEGORIES), np.int8)
    sums[order + 1, rows["category"][order]] = change
    np.cumsum(sums, axis=0, out=sums)  # Wraps around; a difference is right again.
    return sums[now] - sums[begin]
