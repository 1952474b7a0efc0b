"""Rows of a simulated world in order of time, straight from the simulation to a ranker's batches.

What the pipeline's tables would add (counts, text) is left out: the columns are those of the log.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from jobs import simulation
from jobs.scaling.sizes import EVENT_FIELDS
from jobs.simulation import OUTCOME_TYPES, Day, World
from jobs.simulation.world import HOUR_MS
from model.batch import Batch, Timelines

FIELDS = (
    "user",
    "ad",
    "campaign",
    "creative",
    "category",
    "surface",
    "position",
    "device",
    "country",
    "age_group",
    "hour",
)
"""Columns of a row, each with a table of its name."""


@dataclass(frozen=True)
class Stream:
    """Days of a world: all but the last to learn from, the last to be held against the truth."""

    categorical: torch.Tensor
    """(rows, fields), in order of time; row 0 of a table is never used."""
    domain: torch.Tensor
    labels: torch.Tensor
    """Clicks, whenever they came."""
    p_star: np.ndarray
    """Probability of a click for whoever knows all but the confounder, which nobody can learn."""
    users: np.ndarray
    row_us: torch.Tensor
    num_train_rows: int
    first_event: np.ndarray
    """First event of the row's user."""
    end_event: np.ndarray
    """The event after the user's last one strictly before the row."""
    event_categorical: torch.Tensor
    """By user and then by time."""
    event_us: torch.Tensor
    event_users: np.ndarray
    table_rows: dict[str, int]
    num_domains: int

    def batch(self, rows: np.ndarray, num_events: int) -> Batch:
        """Rows by number, each with its own copy of its latest events."""
        end = self.end_event[rows]
        length = np.minimum(end - self.first_event[rows], num_events)
        offsets = np.concatenate([[0], np.cumsum(length)])
        place = np.arange(offsets[-1]) + np.repeat(end - offsets[1:], length)
        events, at = torch.from_numpy(place), torch.from_numpy(rows)
        bounds = torch.from_numpy(offsets)
        return Batch(
            self.categorical[at],
            torch.empty(len(rows), 0),
            self.domain[at],
            Timelines(
                categorical=self.event_categorical[events],
                dense=torch.empty(len(place), 0),
                event_us=self.event_us[events],
                offsets=bounds,
                segment=torch.arange(len(rows)),
                start=bounds[:-1],
                end=bounds[1:],
                row_us=self.row_us[at],
            ),
        )


def read_stream(world: World, num_days: int) -> Stream:
    """Simulate a world's first days.

    Args:
        world: The world.
        num_days: At least two: the last is held out.
    """
    days = list(simulation.days(world, 0, num_days))
    rows = simulation.concatenated([_row_columns(day) for day in days])
    events = simulation.concatenated([_event_columns(day) for day in days])
    order = np.lexsort((events["event_ms"], events["user"]))
    events = {name: values[order] for name, values in events.items()}
    # A row of a table is given to a value in advance; it holds nothing before it is trained.
    values = {
        name: np.unique(np.concatenate([c[name] for c in (rows, events) if name in c]))
        for name in dict.fromkeys((*FIELDS, *EVENT_FIELDS))
    }
    return Stream(
        categorical=_indexes(rows, FIELDS, values),
        domain=torch.from_numpy(rows["domain"]),
        labels=torch.from_numpy(rows["clicked"].astype(np.float32)),
        p_star=rows["p_star"],
        users=rows["user"],
        row_us=torch.from_numpy(rows["event_ms"] * 1000),
        num_train_rows=len(rows["user"]) - len(days[-1].impressions["user"]),
        first_event=np.searchsorted(events["user"], rows["user"]),
        end_event=_num_before(events, rows),
        event_categorical=_indexes(events, EVENT_FIELDS, values),
        event_us=torch.from_numpy(events["event_ms"] * 1000),
        event_users=events["user"],
        table_rows={name: len(known) + 1 for name, known in values.items()},
        num_domains=world.num_domains,
    )


def _row_columns(day: Day) -> dict[str, np.ndarray]:
    shown, ads, users = day.impressions, day.ads, day.people.users
    slot, user = shown["slot"], shown["user"]
    drawn = simulation.draw_outcomes(day.world, shown, day.truth, day.number)
    clicks = drawn["number"][drawn["outcome_type"] == OUTCOME_TYPES.index("click")]
    return {
        "user": user,
        "ad": ads.number[slot],
        "campaign": ads.campaign[slot],
        "creative": simulation.creative_numbers(day)[slot],
        "category": ads.category[slot],
        "surface": shown["surface"],
        "position": shown["position"],
        "device": shown["device"],
        "country": users["country"][user],
        "age_group": users["age_group"][user],
        "hour": shown["event_ms"] // HOUR_MS % 24,
        "domain": shown["domain"],
        "event_ms": shown["event_ms"],
        "clicked": np.isin(shown["number"], clicks),
        "p_star": day.truth["p_click_without_confounder"],
    }


def _event_columns(day: Day) -> dict[str, np.ndarray]:
    return {name: day.organic[name] for name in ("user", "event_ms", *EVENT_FIELDS)}


def _indexes(
    columns: dict[str, np.ndarray], names: tuple[str, ...], values: dict[str, np.ndarray]
) -> torch.Tensor:
    """Table indexes of some columns, (rows, columns)."""
    encoded = [np.searchsorted(values[name], columns[name]) + 1 for name in names]
    return torch.from_numpy(np.stack(encoded, axis=1))


def _num_before(events: dict[str, np.ndarray], rows: dict[str, np.ndarray]) -> np.ndarray:
    """Events, in their order, of users before the row's, and of its own strictly before it."""
    origin = min(events["event_ms"].min(), rows["event_ms"].min())
    span = max(events["event_ms"].max(), rows["event_ms"].max()) - origin + 1
    return np.searchsorted(
        events["user"] * span + events["event_ms"] - origin,
        rows["user"] * span + rows["event_ms"] - origin,
    )
