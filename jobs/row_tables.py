"""Single rows of a log's tables, and what their values were made from."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import delta
from jobs.config import Recipe
from jobs.errors import ConfigError

if TYPE_CHECKING:
    from pyarrow.dataset import Expression

FEATURES = "entity_features"
_EVENT = ("event_type", "surface", "item_id", "value", "event_ts", "known_ts")
_NUM_SHOWN = 5
"""Last events of the history that are told one by one."""

Story = dict[str, Any]


class RowTables:
    """Tables of a log, looked into for single rows."""

    def __init__(self, root: str, name: str) -> None:
        self.root = root
        self.name = name

    def impression(self, impression: str) -> dict[str, Any]:
        """The impression's row.

        Raises:
            ConfigError: No such impression.
        """
        table = delta.open_table(f"{self.root}/impressions")
        found = [] if table is None else self.all("impressions", "impression_id", impression)
        if not found:
            days = delta.partition_days(table)
            held = f"{len(days)} days, {days[0]} to {days[-1]}" if days else "no table"
            raise ConfigError(
                f"impressions: no impression {impression!r} in the log {self.name!r} ({held}); "
                "give an impression_id as the tables hold it, and the home and recipe it is in"
            )
        return found[0]

    def all(self, table: str, column: str, value: str) -> list[dict[str, Any]]:
        """Every row with a value, of any day."""
        if delta.open_table(f"{self.root}/{table}") is None:
            return []
        return self._rows(table, None, _is(column, value))

    def one(self, table: str, day: date, column: str, value: str) -> dict[str, Any] | None:
        """The row of a day with a value; None if there is none yet."""
        if delta.open_table(f"{self.root}/{table}") is None:
            return None
        return next(iter(self._rows(table, [day], _is(column, value))), None)

    def quarantined(self, recipe: Recipe, shown: dict[str, Any]) -> list[dict[str, Any]] | None:
        """Rejected copies of the row; None where the id is made of several columns."""
        from pyarrow import compute as pc

        feed = recipe.contract.impressions
        if len(feed.id) > 1:
            return None
        if delta.open_table(f"{self.root}/quarantine") is None:
            return []
        names = [name for name, one in recipe.contract.feeds.items() if one is feed]
        rows = self._rows("quarantine", None, pc.field("feed").isin(names))
        told = [(row, json.loads(row["row"]).get(feed.id[0])) for row in rows]
        return [row for row, value in told if str(value) == shown["impression_id"]]

    def features(self, recipe: Recipe, example: dict[str, Any]) -> Story:
        """Counts of every entity: up to the day before, and of the impression's day so far."""
        from pyarrow import compute as pc

        features = recipe.contract.features
        before = example["day"] - timedelta(days=1)
        version, note = self._readable(FEATURES, self._origin(example["day"]).get(FEATURES))
        found: Story = {"day": before, "version": version, "note": note, "entities": {}}
        for entity, columns in features.entities.items():
            if not set(columns) <= set(example):
                continue  # An attribute that is no feature: the example does not hold it.
            key = "\u0001".join(example[column] or "" for column in columns)
            where = (pc.field("entity") == entity) & (pc.field("key") == key)
            held = [] if version is None else self._rows(FEATURES, [before], where, version)
            stored = held[0] if held else {}
            counts = {}
            for name in features.counts:
                for window in features.windows_days:
                    total = example[f"{entity}_{name}_{window}d"]
                    until = stored.get(f"{name}_{window}d") or 0
                    counts[f"{name}_{window}d"] = {"before": until, "today": total - until}
            found["entities"][entity] = {"key": key.split("\u0001"), "counts": counts}
        named = {*features.categorical, *features.numeric, *features.bags}
        found["values"] = {name: example[name] for name in sorted(named) if name in example}
        return found

    def history(self, recipe: Recipe, example: dict[str, Any]) -> Story | None:
        """What a model reads of the user's timeline, and the last events of it."""
        line = self.one("timelines", example["day"], "user_id", example["user_id"])
        if line is None:
            return None
        end, num = example["history_end"], recipe.timeline.num_events
        first = max(end - num, 0)
        shown = range(max(end - _NUM_SHOWN, first), end)
        return {
            "history_end": end,
            "num_read": end - first,
            "num_stored": len(line["known_ts"]),
            "num_prior": line["num_prior"],
            "num_cut": line["num_cut"],
            "last": [{name: line[name][i] for name in _EVENT} for i in shown],
        }

    def scores(self, day: date, impression: str) -> Story:
        """Scores by table: the scorer's probabilities, and what it had learnt."""
        folder = Path(self.root) / "teacher_scores"
        names = sorted(path.parent.name for path in folder.glob("*/_delta_log"))
        rows = {
            f"teacher_scores/{name}": self.one(
                f"teacher_scores/{name}", day, "impression_id", impression
            )
            for name in names
        }
        return {
            # Kept representations are bytes, which no page can show.
            name: {k: v.hex() if isinstance(v, bytes) else v for k, v in row.items()}
            for name, row in rows.items()
            if row is not None
        }

    def commit(self, table: str, day: date) -> Story | None:
        """The commit that holds a day; None where none does."""
        held = delta.live_records(delta.open_table(f"{self.root}/{table}")).get(day)
        if held is None:
            return None
        version, commit = held
        return {"version": version, **asdict(commit)}

    def _origin(self, day: date) -> dict[str, int | None]:
        """What a day's features were made from: a repair's commit leads to the one before it."""
        version = None
        inputs: dict[str, int | None] = {}
        while True:
            version, _ = self._readable("examples", version)
            table = delta.open_table(f"{self.root}/examples", version)
            held = delta.live_commits(table).get(day)
            if held is None:
                return inputs
            inputs = held.inputs
            if inputs.get("examples") is None:
                return inputs
            version = inputs["examples"]

    def _readable(self, table: str, version: int | None) -> tuple[int | None, str | None]:
        """A version if it can still be opened, else the newest, and a note that says so."""
        newest = delta.latest_version(f"{self.root}/{table}")
        if version is None or newest is None:
            return newest, "the commit does not name a version: as it is now"
        if delta.can_open(f"{self.root}/{table}", version):
            return version, None
        return newest, f"version {version} is gone: as it is now"

    def _rows(
        self, table: str, days: list[date] | None, where: Expression, version: int | None = None
    ) -> list[dict[str, Any]]:
        return delta.read_days(
            f"{self.root}/{table}", days, version=version, where=where
        ).to_pylist()


def _is(column: str, value: str) -> Expression:
    from pyarrow import compute as pc

    return pc.field(column) == value
