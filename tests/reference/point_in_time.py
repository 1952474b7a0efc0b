"""What was known when, computed slowly from plain tuples.

Times are microseconds since 1970 UTC. The rule that everything here follows: nothing that became
known at or after an impression is in its features or its history; a label counts the outcomes
within its window that were known by the end of the day on which the window closed, or by the end of
the day that a repair of its own day reached to.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from hashlib import sha256
from typing import NamedTuple
from zoneinfo import ZoneInfo

DAY_FACTOR = 4
_EPOCH = datetime(1970, 1, 1, tzinfo=ZoneInfo("UTC"))


class Shown(NamedTuple):
    """A raw impression."""

    id: str
    user: str
    ad: str
    place: str
    at: int
    known: int


class Act(NamedTuple):
    """A raw outcome of an impression."""

    id: str
    shown_id: str
    what: str
    at: int
    known: int


class Visit(NamedTuple):
    """A raw event that belongs to no impression."""

    id: str
    user: str
    item: str
    place: str
    what: str
    at: int
    known: int


class State(NamedTuple):
    """An attribute of an ad from a moment on."""

    ad: str
    category: str | None
    known: int


class Plan(NamedTuple):
    """An attribute of a user from a moment on."""

    user: str
    plan: str | None
    known: int


class Event(NamedTuple):
    """Anything a user did, in the order in which timelines hold it."""

    known: int
    at: int
    id: str
    user: str
    item: str
    place: str
    what: str
    day: date


def local_day(micros: int, zone: str) -> date:
    """The day in which a moment lies."""
    return (_EPOCH + timedelta(microseconds=micros)).astimezone(ZoneInfo(zone)).date()


class Log(NamedTuple):
    """A raw log in which every row has arrived."""

    shown: Sequence[Shown]
    acts: Sequence[Act]
    visits: Sequence[Visit]
    states: Sequence[State]
    zone: str
    max_late_days: int
    last_day: date
    plans: Sequence[Plan] = ()

    def day(self, micros: int) -> date:
        """The day in which a moment lies."""
        return local_day(micros, self.zone)

    def impressions(self) -> dict[str, Shown]:
        """The copy of each impression that counts, if it arrived in time."""
        late = timedelta(days=self.max_late_days)
        rows = [
            row
            for row in self.shown
            if row.known >= row.at and self.day(row.known) - self.day(row.at) <= late
        ]
        kept = first_known(rows)
        return {i: row for i, row in kept.items() if self.day(row.known) <= self.last_day}

    def outcomes(self) -> dict[str, Act]:
        """The copy of each outcome that counts."""
        kept = first_known(row for row in self.acts if row.known >= row.at)
        return {i: row for i, row in kept.items() if self.day(row.known) <= self.last_day}

    def events(self) -> list[Event]:
        """Everything that users did, in the order in which it became known."""
        shown = self.impressions()
        found = [
            Event(r.known, r.at, r.id, r.user, r.ad, r.place, "impression", self.day(r.known))
            for r in shown.values()
        ]
        for act in self.outcomes().values():
            of = shown.get(act.shown_id)
            if of is not None:
                known = max(act.known, of.known)
                name = f"acts:{act.id}"
                found.append(
                    Event(known, act.at, name, of.user, of.ad, of.place, act.what, self.day(known))
                )
        for row in first_known(row for row in self.visits if row.known >= row.at).values():
            if self.day(row.known) <= self.last_day:
                day, name = self.day(row.known), f"visits:{row.id}"
                found.append(
                    Event(row.known, row.at, name, row.user, row.item, row.place, row.what, day)
                )
        return sorted(found)

    def events_of(self, types: Sequence[str]) -> list[Event]:
        """Events of some types."""
        return [event for event in self.events() if event.what in types]

    def category(self, ad: str, before: int) -> str | None:
        """An ad's category as known strictly before a moment."""
        return last_known(((s.known, s.category) for s in self.states if s.ad == ad), before)

    def plan(self, user: str, before: int) -> str | None:
        """A user's plan as known strictly before a moment."""
        return last_known(((s.known, s.plan) for s in self.plans if s.user == user), before)


def last_known(states: Iterable[tuple[int, str | None]], before: int) -> str | None:
    """Of (known, value) the last value known strictly before a moment; of several at once the
    greatest."""
    known = [(at, value is not None, value) for at, value in states if at < before]
    return max(known)[-1] if known else None


def first_known(rows: Iterable) -> dict:
    """Of several copies of a row, the one that was known first."""
    kept: dict = {}
    for row in rows:
        if row.id not in kept or row.known < kept[row.id].known:
            kept[row.id] = row
    return kept


def label(
    log: Log,
    row: Shown,
    outcomes: Sequence[str],
    window_micros: int,
    clicks: Sequence[str] | None = None,
    repaired: Mapping[date, date] | None = None,
) -> int | None:
    """Whether an impression was followed; None while its window is open.

    With `clicks`, an outcome counts only if one of these happened no later on the same impression.
    `repaired` says by day of impression until when late outcomes count.
    """
    closes = row.at + window_micros
    mature_day = max(log.day(closes), log.day(row.known))
    if mature_day > log.last_day:
        return None
    last = max(mature_day, (repaired or {}).get(log.day(row.at), mature_day))
    mine = [
        act
        for act in log.outcomes().values()
        if act.shown_id == row.id and log.day(act.known) <= last
    ]
    for act in mine:
        if act.what in outcomes and act.at <= closes:
            if clicks is None:
                return 1
            if any(click.what in clicks and click.at <= act.at for click in mine):
                return 1
    return 0


def zipper_micros(name: str, seed: int, windows: Sequence[int], shares: Sequence[float]) -> int:
    """The window that the hash of an id falls into, each window as wide as its share."""
    drawn = int(sha256(f"{seed}:{name}".encode()).hexdigest()[:13], 16) / 16**13
    for window, end in zip(windows[:-1], itertools.accumulate(shares), strict=False):
        if drawn < end:
            return window
    return windows[-1]


Key = Callable[[str, str, str, str | None, str | None], tuple]
"""An entity's key, of user, ad, surface, the ad's category and the user's plan."""


def seen(
    log: Log,
    events: Sequence[Event],
    row: Shown,
    key: Key,
    types: Sequence[str],
    window_days: int,
) -> list[int]:
    """When things seen with an entity before an impression became known."""

    def key_of(user: str, ad: str, place: str, at: int) -> tuple:
        return key(user, ad, place, log.category(ad, at), log.plan(user, at))

    mine = key_of(row.user, row.ad, row.place, row.at)
    first = log.day(row.at) - timedelta(days=window_days)
    return [
        event.known
        for event in events
        if event.what in types
        and event.known < row.at
        and event.day >= first
        and key_of(event.user, event.item, event.place, event.known) == mine
    ]


class Timeline(NamedTuple):
    """A user's history for the impressions of a day."""

    num_prior: int
    num_cut: int
    events: list[Event]


def timeline(
    events: Sequence[Event], user: str, day: date, num_events: int, lookback_days: int
) -> Timeline:
    """The N latest events known before a day, and the first 4N that became known on it."""
    mine = [event for event in events if event.user == user]
    first = day - timedelta(days=lookback_days)
    prior = [event for event in mine if first <= event.day < day][-num_events:]
    new = [event for event in mine if event.day == day]
    kept = new[: DAY_FACTOR * num_events]
    return Timeline(len(prior), len(new) - len(kept), prior + kept)


def history(
    log: Log, events: Sequence[Event], row: Shown, num_events: int, lookback_days: int
) -> list[Event]:
    """The N latest events that a model may see at an impression, if its day was not cut."""
    first = log.day(row.at) - timedelta(days=lookback_days)
    known = [e for e in events if e.user == row.user and e.known < row.at and e.day >= first]
    return known[-num_events:]


def timelines(
    log: Log, events: Sequence[Event], days: Sequence[date], num_events: int, lookback_days: int
) -> Mapping[tuple[str, date], Timeline]:
    """The timeline of every user with an impression or a new event on a day."""
    seen = {(row.user, log.day(row.at)) for row in log.impressions().values()}
    seen |= {(event.user, event.day) for event in events}
    return {
        (user, day): timeline(events, user, day, num_events, lookback_days)
        for user, day in seen
        if day in days
    }
