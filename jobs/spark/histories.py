"""Cuts timelines out of events, in numpy and Arrow: the kernel of `jobs/spark/timelines.py`.

Two halves with a shuffle between. The first packs batches of events by bucket of users and leaves
out what no timeline can hold. The second takes whole buckets, sorts them once, and copies slices.
"""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.spark.buckets import chunks, scattered
from validation import tables

DAY_FACTOR = 4
"""A day's timeline holds at most this many times N new events."""

VALUES = ("event_type", "surface", "item_id", "value", "event_ts", "known_ts", "time_is_synthetic")
"""What a timeline keeps of an event."""
HISTORY_COLUMNS = ("user_id", "event_id", "day", *VALUES)
"""What is read of an event."""
HISTORY_TEXTS = ("user_id", "event_type", "surface", "item_id")
"""Those of them with far fewer values than rows."""
REQUEST_COLUMNS = ("user_id", "event_day")
"""What is read of an impression."""

_MOMENT = pa.timestamp("us", "UTC")
_ROWS_PER_BATCH = 2_000
_EVENTS_PER_BATCH = 1_000_000


@dataclass(frozen=True)
class Cut:
    """What of a user's history a timeline keeps."""

    num_events: int
    """N."""
    lookback_days: int
    """Events that became known on an earlier day than this are forgotten."""
    num_recent: int | None = None
    """R: of more than N events before the day the R latest stay, the others by worth; all N are
    the latest if None."""
    worth: Mapping[str, float] | None = None
    """What an event of a type is worth; its own value if None. Nothing where nothing is said."""


def packed_events(
    batches: Iterable[pa.RecordBatch],
    days: Sequence[date],
    cut: Cut,
    event_types: Sequence[str],
    num_buckets: int,
) -> Iterator[pa.RecordBatch]:
    """Events by bucket of users, without those that no timeline can hold.

    Args:
        batches: Columns `HISTORY_COLUMNS`, of which `HISTORY_TEXTS` may be dictionaries.
        days: Days whose timelines will be built, in order.
        cut: What is kept.
        event_types: Event types that enter histories.
        num_buckets: Buckets over which users are spread.

    Yields:
        `bucket` and `packed`: rows as an Arrow stream, `num_left_out` beside them.
    """
    for chunk in chunks(batches):
        enters = pc.is_in(chunk.column("event_type"), pa.array(event_types))
        # Where all do, nothing needs to be copied.
        rows = chunk if pc.all(enters).as_py() else chunk.filter(enters)
        if rows.num_rows:
            texts = {name: rows.column(name).dictionary_encode() for name in HISTORY_TEXTS}
            columns = [texts.get(name, rows.column(name)) for name in HISTORY_COLUMNS]
            rows = pa.table(columns, names=list(HISTORY_COLUMNS))
            rows = rows.unify_dictionaries().combine_chunks()
            yield from scattered(_without_surplus(rows, days, cut), num_buckets)


def packed_requests(
    batches: Iterable[pa.RecordBatch], days: Sequence[date], num_buckets: int
) -> Iterator[pa.RecordBatch]:
    """Users with an impression on one of the days, by bucket of users.

    Args:
        batches: Columns `REQUEST_COLUMNS`.
        days: Days whose timelines will be built.
        num_buckets: Buckets over which users are spread.
    """
    for chunk in chunks(batches):
        rows = chunk.filter(pc.is_in(chunk.column("event_day"), pa.array(days, pa.date32())))
        if rows.num_rows:
            rows = rows.group_by(list(REQUEST_COLUMNS)).aggregate([])
            users = rows.column("user_id").dictionary_encode()
            rows = pa.table({"user_id": users, "day": rows.column("event_day")})
            yield from scattered(rows.unify_dictionaries().combine_chunks(), num_buckets)


def _without_surplus(rows: pa.Table, days: Sequence[date], cut: Cut) -> pa.Table:
    """Leave out events that N others of a user push out, whatever other tasks hold.

    Of the days before the first wanted one the N latest may be needed; of every later day the 4N
    earliest, as its own, and the N latest, as history of the days after it. Where histories are
    sampled, the N of most worth as well: of the days that every timeline still remembers together,
    of the others one by one.
    """
    num_events, first, last = cut.num_events, number_of(days[0]), number_of(days[-1])
    num_left_out = np.zeros(rows.num_rows, np.int32)
    user = rows.column("user_id").chunk(0).indices.to_numpy()
    is_busy = (np.bincount(user) > num_events)[user]
    busy = np.flatnonzero(is_busy)
    kept = np.flatnonzero(~is_busy)
    if len(busy):
        some = rows.take(pa.array(busy))
        order = known_order(some, user[busy])
        user = user[busy][order]
        day = day_numbers(some.column("day"))[order]
        is_alone = (day >= first) | (day < last - cut.lookback_days)
        start, end = _runs(user_day(user, np.where(is_alone, day, first - 1)))
        from_start = np.arange(len(order)) - np.repeat(start, end - start)
        to_end = np.repeat(end, end - start) - np.arange(len(order)) - 1
        is_kept = (to_end < num_events) | ((day >= first) & (from_start < DAY_FACTOR * num_events))
        if cut.num_recent is not None:
            is_kept |= _of_most_worth(_worth(some, cut)[order], end - start, num_events)
        # Told by the last row of the day, which is always kept.
        lacking = np.zeros(len(order), np.int32)
        lacking[end - 1] = np.add.reduceat((~is_kept).astype(np.int32), start)
        places = busy[order[is_kept]]
        num_left_out[places] = lacking[is_kept]
        kept = np.concatenate([kept, places])
    rows = rows.append_column("num_left_out", pa.array(num_left_out))
    return rows if len(kept) == rows.num_rows else rows.take(pa.array(kept))


def bucket_timelines(
    parts: Sequence[pa.Table], days: Sequence[date], cut: Cut
) -> Iterator[pa.RecordBatch]:
    """Timelines of the users of one bucket.

    Args:
        parts: What `packed_events` and `packed_requests` have packed of it.
        days: Days to produce, in order.
        cut: What is kept.

    Yields:
        The timelines table's columns, a bounded number of rows and events at a time.
    """
    events = [part for part in parts if "event_id" in part.column_names]
    requests = [part for part in parts if "event_id" not in part.column_names]
    held = pa.concat_tables(events or [_EVENTS.empty_table()]).unify_dictionaries()
    asked = pa.concat_tables([r.select(["user_id", "day"]) for r in (held, *requests)])
    users = asked.column("user_id").unify_dictionaries()
    names = users.chunk(0).dictionary
    order = pc.sort_indices(names)
    names = names.take(order)
    place = np.empty(len(names), np.int32)
    place[order.to_numpy()] = np.arange(len(names))
    user = place[np.concatenate([chunk.indices.to_numpy() for chunk in users.chunks])]
    day = day_numbers(asked.column("day"))
    # A request is of one of the days; an event asks for its own only if that is one.
    is_wanted = np.isin(day, [number_of(day) for day in days])
    wanted = np.unique(user_day(user, day)[is_wanted])
    events_user = user[: held.num_rows]
    yield from timelines(held.combine_chunks(), events_user, names, wanted, cut)


def timelines(
    events: pa.Table, user: np.ndarray, names: pa.Array, wanted: np.ndarray, cut: Cut
) -> Iterator[pa.RecordBatch]:
    """Cut timelines out of whole histories.

    Args:
        events: Columns `HISTORY_COLUMNS` and `num_left_out`, in any order.
        user: Number of each event's user.
        names: User ids by number.
        wanted: User and day of every timeline, as `user_day` gives them, in order.
        cut: What is kept.

    Yields:
        The timelines table's columns, a bounded number of rows and events at a time.
    """
    who, day = wanted >> 32, (wanted & 0xFFFFFFFF).astype(np.int32)
    order = known_order(events, user)
    of_event = user_day(user, day_numbers(events.column("day")))[order]
    # A user's events become known day after day, so that what is sorted by time is by day too.
    first = np.searchsorted(of_event, user_day(who, day - cut.lookback_days))
    begin, end = (np.searchsorted(of_event, wanted, side) for side in ("left", "right"))
    prior = np.minimum(begin - first, cut.num_events)
    left_out = np.concatenate([[0], np.cumsum(events.column("num_left_out").to_numpy()[order])])
    sampled = np.flatnonzero((begin - first > cut.num_events) & (cut.num_recent is not None))
    worth = _worth(events, cut)[order] if len(sampled) else np.zeros(0)
    num_new = end - begin + left_out[end] - left_out[begin]
    new = np.minimum(num_new, DAY_FACTOR * cut.num_events)
    values = {name: events.column(name).combine_chunks() for name in VALUES}
    ends = np.cumsum(prior + new)
    low = 0
    while low < len(wanted):
        so_far = ends[low - 1] if low else 0
        high = int(np.searchsorted(ends, so_far + _EVENTS_PER_BATCH, side="right"))
        high = min(max(high, low + 1), low + _ROWS_PER_BATCH)
        part = slice(low, high)
        lengths = (prior + new)[part]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - (begin - prior)[part], lengths)
        for line in sampled[(sampled >= low) & (sampled < high)].tolist():
            older = np.arange(int(first[line]), int(begin[line]) - (cut.num_recent or 0))
            number = cut.num_events - (cut.num_recent or 0)
            best = _of_most_worth(worth[older], np.array([len(older)]), number)
            at[offsets[line - low] : offsets[line - low] + number] = older[best]
        taken = pa.array(order[at])
        lists = {
            name: pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), _plain(column, taken))
            for name, column in values.items()
        }
        columns = {
            "user_id": names.take(pa.array(who[part])),
            "num_prior": pa.array(prior[part], pa.int32()),
            "num_cut": pa.array((num_new - new)[part], pa.int32()),
            **lists,
            "day": pa.array(day[part], pa.int32()).cast(pa.date32()),
        }
        yield pa.RecordBatch.from_arrays(
            [columns[name] for name in tables.TIMELINES], names=list(tables.TIMELINES)
        )
        low = high


def known_order(events: pa.Table, user: np.ndarray) -> np.ndarray:
    """Places of events by user, `known_ts`, `event_ts` and `event_id`."""
    known, happened = (micros(events.column(name)) for name in ("known_ts", "event_ts"))
    since = known - (known.min() if len(known) else 0)
    bits = int(since.max(initial=0)).bit_length()
    if bits + int(user.max(initial=0)).bit_length() < 63:
        # One number for both sorts several times as fast as two.
        key = (user.astype(np.int64) << bits) | since
        order = np.argsort(key, kind="stable")
        is_tie = np.diff(key[order]) == 0
    else:
        order = np.lexsort((known, user))
        is_tie = (np.diff(user[order]) == 0) & (np.diff(known[order]) == 0)
    tied = np.flatnonzero(np.concatenate([is_tie, [False]]) | np.concatenate([[False], is_tie]))
    if len(tied):
        places = order[tied]
        ids = events.column("event_id").take(pa.array(places))
        rank = pc.rank(ids, sort_keys="ascending", tiebreaker="dense").to_numpy()
        keys = (rank, happened[places], known[places], user[places])
        order[tied] = places[np.lexsort(keys)]
    return order


def _of_most_worth(worth: np.ndarray, lengths: np.ndarray, number: int) -> np.ndarray:
    """Which rows are the most worth of their run; of equal ones the later."""
    places, run = np.arange(len(worth)), np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((-places, -worth, run))
    rank = places - np.repeat(np.cumsum(lengths) - lengths, lengths)
    is_best = np.zeros(len(worth), bool)
    is_best[order] = rank < number
    return is_best


def _worth(events: pa.Table, cut: Cut) -> np.ndarray:
    if cut.worth is None:
        return np.nan_to_num(events.column("value").to_numpy())
    types = events.column("event_type").combine_chunks()
    of_type = [cut.worth.get(name, 0.0) for name in types.dictionary.to_pylist()]
    return np.array(of_type, np.float64)[types.indices.to_numpy()]


def user_day(user: np.ndarray, day: np.ndarray) -> np.ndarray:
    """One number per user and day that orders by both."""
    return (user.astype(np.int64) << 32) + day


def _plain(column: pa.Array, places: pa.Array) -> pa.Array:
    """Values at some places, texts written out: Spark reads no dictionaries."""
    if isinstance(column, pa.DictionaryArray):
        return column.dictionary.take(column.indices.take(places))
    return column.take(places)


def _runs(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs of equal values start and end."""
    change = np.flatnonzero(np.diff(groups)) + 1
    return np.concatenate([[0], change]), np.concatenate([change, [len(groups)]])


def number_of(day: date) -> int:
    """Days since 1970."""
    return day.toordinal() - _EPOCH


def day_numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Days since 1970."""
    return column.cast(pa.int32()).to_numpy()


def micros(column: pa.ChunkedArray) -> np.ndarray:
    """Microseconds since 1970 UTC."""
    return column.cast(_MOMENT).cast(pa.int64()).to_numpy()


_EPOCH = date(1970, 1, 1).toordinal()
_TEXT = pa.dictionary(pa.int32(), pa.string())
_EVENTS = pa.schema(
    {
        "user_id": _TEXT,
        "event_id": pa.string(),
        "day": pa.date32(),
        "event_type": _TEXT,
        "surface": _TEXT,
        "item_id": _TEXT,
        "value": pa.float64(),
        "event_ts": _MOMENT,
        "known_ts": _MOMENT,
        "time_is_synthetic": pa.bool_(),
        "num_left_out": pa.int32(),
    }
)
