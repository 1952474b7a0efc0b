"""The true log-odds of a click and of a conversion, by component, and what each is worth."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from jobs.simulation.ads import Ads
from jobs.simulation.people import People
from jobs.simulation.tasks import CLICK, CONVERSION, DAY_PART_VECTORS, ORDERS, SURFACE_VECTORS, Task
from jobs.simulation.world import (
    HISTORY_CUTS,
    HOUR_MS,
    HOURS_PER_PART,
    POSITION_BIAS,
    WIDTH,
    Array,
    Columns,
    Indexes,
)

HISTORY_PARTS = tuple(f"history_beyond_{cut}" for cut in HISTORY_CUTS)
COMPONENTS = (
    *ORDERS,
    "history",
    *HISTORY_PARTS,
    "other_platform",
    "journey",
    "content",
    "drift",
    "position",
    "confounder",
)
"""What the truth tells the worth of; the parts of the history are summands of it."""
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
"""Gauss and Hermite's quadrature over a standard normal variable."""


def likings(task: Task, people: People, request: Columns) -> Columns:
    """Of each component that is a product with an ad's vector, the other factor, (B, WIDTH)."""
    domain = request["domain"]
    user = people.latents[request["user"]] * np.array(task.signs) / np.sqrt(WIDTH)
    turned = np.roll(people.latents, -1, axis=1)[request["user"]] * np.array(task.signs)
    surface = SURFACE_VECTORS[request["surface"]]
    part = DAY_PART_VECTORS[request["event_ms"] // HOUR_MS % 24 // HOURS_PER_PART]
    return {
        "order_2": _each(task.order_2, domain)[:, None] * user,
        "order_3": _each(task.order_3, domain)[:, None] * user * surface,
        "order_4": _each(task.order_4, domain)[:, None] * turned / np.sqrt(WIDTH) * surface * part,
        "content": _each(task.content, domain)[:, None]
        * people.tastes[request["user"]]
        / np.sqrt(WIDTH),
    }


def candidate_logits(
    people: People, ads: Ads, request: Columns, past: Columns, slot: Indexes
) -> Array:
    """z of a click for candidates, but for the confounder, which nobody knows.

    Args:
        people: Users.
        ads: The day's ads.
        request: `user`, `surface`, `domain`, `position` and `event_ms`, (B,).
        past: What `attention` tells of the requests.
        slot: Candidates, (B, C).
    """
    task, domain, user = CLICK, request["domain"], request["user"]
    liked = likings(task, people, request)
    towards_user, towards_ad = people.directions[0]
    interest = (
        _each(task.history, domain)[:, None] * past["history"]
        + _each(task.journey, domain)[:, None] * past["journey"]
    )
    order_1 = _each(task.order_1, domain) / np.sqrt(2)
    fixed = (
        _each(task.bias, domain)
        + order_1 * _dot(people.latents, towards_user)[user]
        + task.position * POSITION_BIAS[request["position"]]
    )
    z = fixed[:, None] + order_1[:, None] * _dot(ads.latents, towards_ad)[slot]
    z += (task.ad * (ads.bias + ads.drift))[slot]
    z += np.take_along_axis(interest, ads.category[slot], axis=1)
    factors = np.hstack([liked["order_2"] + liked["order_3"] + liked["order_4"], liked["content"]])
    vectors = np.hstack([ads.latents, ads.content])
    for candidate in range(slot.shape[1]):
        z[:, candidate] += _dot(factors, vectors[slot[:, candidate]])
    return z


def logit_parts(
    task: Task, people: People, ads: Ads, request: Columns, past: Columns, slot: Indexes
) -> Columns:
    """The summands of z for the ads shown.

    Args:
        task: `CLICK` or `CONVERSION`.
        people: Users.
        ads: The day's ads.
        request: As for `candidate_logits`, and `confounder`, (B,).
        past: What `attention` tells of the requests, (B, categories).
        slot: The ads shown, (B,).

    Returns:
        Natural log-odds by component, (B,). Those of `domain`, `ad` and of `COMPONENTS` but
        `HISTORY_PARTS` and `other_platform`, which are parts of `history`, add up to z.
    """
    domain, user = request["domain"], request["user"]
    towards_user, towards_ad = people.directions[int(task is CONVERSION)]
    liked = likings(task, people, request)
    row = np.arange(len(slot))
    told = {name: values[row, ads.category[slot]] for name, values in past.items()}
    alone = _dot(people.latents, towards_user)[user] + _dot(ads.latents, towards_ad)[slot]
    latents = ads.latents[slot]
    history = _each(task.history, domain)
    return {
        "domain": _each(task.bias, domain),
        "ad": task.ad * ads.bias[slot],
        "order_1": _each(task.order_1, domain) * alone / np.sqrt(2),
        **{name: _dot(liked[name], latents) for name in ORDERS[1:]},
        **{name: history * told[name] for name in ("history", *HISTORY_PARTS, "other_platform")},
        "journey": _each(task.journey, domain) * told["journey"],
        "content": _dot(liked["content"], ads.content[slot]),
        "drift": task.ad * ads.drift[slot],
        "position": task.position * POSITION_BIAS[request["position"]],
        "confounder": request["confounder"],
    }


def probabilities(click: Columns, conversion: Columns, confounding: float) -> Columns:
    """p* of both tasks, and p* without each component.

    Without a component, p is sigmoid(z - component): the best there is for who cannot learn it. The
    confounder is averaged over instead, as nobody knows it: p for whoever knows all else, of a
    conversion too, where it is the mean over all impressions, clicked or not. That over clicked
    ones alone is `p_conversion_among_clicks`: confounded, as clicks prefer a high confounder.

    Args:
        click: The summands of z of a click, (B,).
        conversion: The same of a conversion, given a click.
        confounding: Standard deviation of the confounder.
    """
    told, blind = {}, {}
    for name, parts in (("p_click", click), ("p_conversion_given_click", conversion)):
        z = total(parts)
        told[name] = sigmoid(z)
        for component in COMPONENTS[:-1]:
            told[f"{name}_without_{component}"] = sigmoid(z - parts[component])
        blind[name] = z - parts["confounder"]
    click_alone, conversion_alone, both = np.zeros((3, len(told["p_click"])))
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        clicked = weight * sigmoid(blind["p_click"] + confounding * node)
        converted = sigmoid(blind["p_conversion_given_click"] + confounding * node)
        click_alone += clicked
        conversion_alone += weight * converted
        both += clicked * converted
    told["p_click_without_confounder"] = click_alone
    told["p_conversion_given_click_without_confounder"] = conversion_alone
    told["p_conversion_among_clicks"] = both / click_alone
    return told


def total(parts: Columns) -> Array:
    """z: the sum of the components, those that are parts of others left out."""
    nested = {*HISTORY_PARTS, "other_platform"}
    return sum_of(part for name, part in parts.items() if name not in nested)


def _dot(rows: Array, others: Array) -> Array:
    """Products of rows, or of each row and one vector; equal however rows are cut into blocks."""
    return np.einsum("bd,bd->b", rows, np.broadcast_to(others, rows.shape))


def sum_of(parts: Iterable[Array]) -> Array:
    return np.sum(list(parts), axis=0)


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def _each(by_domain: tuple[float, float, float], domain: Indexes) -> Array:
    return np.array(by_domain)[domain]
