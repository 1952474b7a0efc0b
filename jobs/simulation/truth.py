"""The true log-odds of a click and of a conversion, by component."""

from __future__ import annotations

import numpy as np

from jobs.simulation.people import Ads, People
from jobs.simulation.world import (
    CONVERSION,
    EVENT_WEIGHT,
    HALF_LIFE_MS,
    HISTORY_SCALE,
    NUM_CATEGORIES,
    POSITION_BIAS,
    PRIOR_WEIGHT,
    SURFACE_DOMAIN,
    SURFACE_SIGNS,
    WIDTH,
    Array,
    Columns,
    Indexes,
    Task,
)


def history_shares(history: Columns, user: Indexes, category: Indexes, at_ms: Indexes) -> Array:
    """Share of each user's recent actions that were about a category, strictly before a moment.

    share = (sum_{e: category} w_e 2^(-age_e / half-life) + prior / K) / (sum_e ... + prior)

    Args:
        history: Organic events.
        user: Users, (B,).
        category: Categories, (B, C).
        at_ms: Moments, (B,).
    """
    start_ms = history["event_ms"].min(initial=at_ms.min(initial=np.iinfo(np.int64).max))
    event_ms, at_ms = history["event_ms"] - start_ms, at_ms - start_ms
    weight = EVENT_WEIGHT[history["event_type"]] * np.exp2(event_ms / HALF_LIFE_MS)
    now = np.exp2(-at_ms / HALF_LIFE_MS)[:, None]
    pair = history["user"] * NUM_CATEGORIES + history["category"]
    wanted = user[:, None] * NUM_CATEGORIES + category
    about = now * sums_before(pair, event_ms, weight, wanted, at_ms[:, None])
    total = now * sums_before(history["user"], event_ms, weight, user[:, None], at_ms[:, None])
    return (about + PRIOR_WEIGHT / NUM_CATEGORIES) / (total + PRIOR_WEIGHT)


def sums_before(
    key: Indexes, event_ms: Indexes, weight: Array, wanted: Indexes, at_ms: Indexes
) -> Array:
    """Sum of the weights of a key's events strictly before a moment."""
    span = max(int(event_ms.max(initial=0)), int(at_ms.max(initial=0))) + 1
    place = key * span + event_ms
    order = np.argsort(place, kind="stable")
    place, sums = place[order], np.concatenate([[0.0], np.cumsum(weight[order])])
    first = np.searchsorted(place, wanted * span)
    return np.maximum(sums[np.searchsorted(place, wanted * span + at_ms)] - sums[first], 0.0)


def logit_parts(
    task: Task, people: People, ads: Ads, request: Columns, *, slot: Indexes, share: Array
) -> Columns:
    """The summands of z for candidates of requests.

    Args:
        task: `CLICK` or `CONVERSION`.
        people: Users and campaigns.
        ads: The day's ads.
        request: `user`, `surface` and `position`, (B,).
        slot: Candidates, (B, C).
        share: `history_shares` of the candidates' categories.

    Returns:
        Natural log-odds by component, (B, C); they add up to z.
    """
    user, surface = request["user"], request["surface"]
    domain = SURFACE_DOMAIN[surface]
    towards_user, towards_ad = people.directions[int(task is CONVERSION)]
    taken = people.latents[user][:, None, :] * np.array(task.signs) * ads.latents[slot]
    alone = (people.latents @ towards_user)[user][:, None] + (ads.latents @ towards_ad)[slot]
    content = people.campaign_content[ads.campaign[slot]]
    with_surface = np.einsum("bcd,bd->bc", taken, SURFACE_SIGNS[surface])
    liking = np.einsum("bcd,bd->bc", content, people.tastes[user])
    root = np.sqrt(WIDTH)

    def by_domain(pair: tuple[float, float]) -> Array:
        return np.array(pair)[domain][:, None]

    return {
        "domain": np.broadcast_to(by_domain(task.bias), slot.shape),
        "ad": task.ad * ads.bias[slot],
        "order_1": by_domain(task.order_1) * alone / np.sqrt(2),
        "order_2": by_domain(task.order_2) * taken.sum(axis=2) / root,
        "order_3": by_domain(task.order_3) * with_surface / root,
        "history": by_domain(task.history) * (share - 1 / NUM_CATEGORIES) / HISTORY_SCALE,
        "content": by_domain(task.content) * liking / root,
        "position": np.broadcast_to(
            task.position * POSITION_BIAS[request["position"]][:, None], slot.shape
        ),
    }
