"""The steps of an erasure: find users' rows, rewrite days without them, delete history, look again.

Tables by which impressions are told come last in every step, so that a job that was cut off still
knows, when it is run again, which impressions the users were shown.
"""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs import delta, vocabulary
from jobs.command import log
from jobs.config import Recipe
from jobs.digests import file_sums
from jobs.pins import Pins
from jobs.table_files import delete_files, family_tables, table_files, version_paths
from jobs.trained import tag_trained
from jobs.user_rows import (
    People,
    UserRows,
    copy_without,
    count_rows,
    impressions_of,
    is_readable,
    user_rows,
)

TAG = "training_data"
_LAST = ("examples", "events", "impressions")
"""Tables with a user and an impression in a row."""


@dataclass(frozen=True)
class _Place:
    """A table that may hold rows of users."""

    name: str
    uri: str
    rows: UserRows

    def path(self, relative: str) -> str:
        return f"{self.uri}/{relative}"


class Erasure:
    """One erasure in a family's tables."""

    def __init__(self, recipe: Recipe, home: str, root: Path, pins: Pins) -> None:
        self.recipe = recipe
        self.home = home
        self.root = root
        self.pins = pins

    @cached_property
    def places(self) -> list[_Place]:
        """Tables that may hold rows of users, those that tell impressions last."""
        found = []
        for name in family_tables(self.root):
            uri = str(self.root / name)
            table = delta.open_table(uri)
            columns = [] if table is None else pa.schema(table.schema()).names
            rows = user_rows(self.recipe.contract, name, columns)
            if rows is not None:
                found.append(_Place(name, uri, rows))
        rank = {name: at for at, name in enumerate(_LAST, 1)}
        return sorted(found, key=lambda place: (rank.get(place.name, 0), place.name))

    def impressions_of(self, users: frozenset[str]) -> set[str]:
        """Ids of all impressions of users, in whatever version."""
        found: set[str] = set()
        for place in self.places:
            if place.name in _LAST:
                paths = [place.path(p) for kind in self._files(place).values() for p in kind]
                found |= impressions_of(filter(is_readable, paths), users)
        return found

    def count(self, people: People) -> dict[str, dict[str, int]]:
        """Rows of users in what is live, by table: what a proof is held against."""
        told = {}
        for place in self.places:
            live = [count_rows(place.path(p), place.rows, people) for p in _live(place.uri)]
            told[place.name] = {"rows": sum(theirs for theirs, _ in live)}
        return told

    def rewrite(self, people: People, commit: dict[str, Any]) -> dict[str, int]:
        """Replace every day that holds users' rows by one without them; rows removed by table."""
        work = {p.name: days for p in self.places if (days := _days_with(p, people))}
        removed = {name: sum(rows for _, rows in days.values()) for name, days in work.items()}
        for place in self.places:
            if place.name == "vocabulary":
                rows = vocabulary.forget(place.uri, "user_id", people.users, commit["run_id"])
                removed |= {place.name: rows} if rows else {}
            for day, (paths, _) in work.get(place.name, {}).items():
                version = delta.latest_version(place.uri)
                record = {**commit, "inputs": {place.name: version}}
                _rewrite_day(place, day, paths, people, record)
            log.info("%s: %d rows erased", place.name, removed.get(place.name, 0))
        return removed

    def delete_history(
        self, people: People, *, include_pinned: bool
    ) -> tuple[int, list[dict[str, str]]]:
        """Delete files with users' rows that are not live; number of files, and models tagged.

        Models are tagged first: no crash leaves one that claims data which is gone.
        """
        deleted, tagged = 0, set[tuple[str, str]]()
        for place in self.places:
            files = self._files(place)
            gone = [p for p, kind in _old(files) if kind != "pinned" and _holds(place, p, people)]
            held = [p for p in files["pinned"] if _holds(place, p, people)]
            if include_pinned and held:
                models = [
                    model
                    for version in self._versions_with(place, set(held))
                    for model in self.pins[place.name][version]
                    if (model.name, model.version) not in tagged
                ]
                for model in models:
                    told = f"no longer reproducible: users erased on {datetime.now(UTC):%Y-%m-%d}"
                    tag_trained(self.recipe, self.home, model, {TAG: told})
                    tagged.add((model.name, model.version))
                gone += held
            delete_files(place.uri, gone)
            deleted += len(gone)
        return deleted, [{"name": n, "version": v} for n, v in sorted(tagged)]

    def prove(self, people: People) -> tuple[dict[str, Any], dict[str, Any]]:
        """Look through every file once more.

        Returns:
            By table, its version and what was looked through; and by table and version, the models
            for whose sake users' rows were left.

        Raises:
            StaleSnapshot: There are rows of the users that nobody pins.
        """
        proof: dict[str, Any] = {}
        left: dict[str, Any] = {}
        for place in self.places:
            files = self._files(place)
            pinned = {path for path in files["pinned"] if _holds(place, path, people)}
            looked = [path for kind in files.values() for path in kind if path not in pinned]
            counts = [
                count_rows(place.path(path), place.rows, people)
                for path in looked
                if is_readable(place.path(path))
            ]
            found = sum(theirs for theirs, _ in counts)
            if found or len(counts) < len(looked):
                raise delta.StaleSnapshot(
                    f"{place.name}: {found} rows of erased users, or files that are still being "
                    "written, appeared meanwhile; run the job again"
                )
            proof[place.name] = {
                "version": delta.latest_version(place.uri),
                "files": len(counts),
                "rows": sum(total for _, total in counts),
                "found": found,
            }
            if pinned:
                left[place.name] = {
                    version: sorted(f"{m.name}/{m.version}" for m in self.pins[place.name][version])
                    for version in self._versions_with(place, pinned)
                }
        return proof, left

    def _versions_with(self, place: _Place, paths: set[str]) -> list[int]:
        pinned = sorted(self.pins.get(place.name, {}))
        return [v for v in pinned if (version_paths(place.uri, v) or set()) & paths]

    def _files(self, place: _Place) -> dict[str, dict[str, int]]:
        files = table_files(place.uri, list(self.pins.get(place.name, {})), datetime.now(UTC))
        return {kind: getattr(files, kind) for kind in ("live", *_OLD)}


_OLD = ("pinned", "recent", "expired", "orphans")


def _old(files: Mapping[str, Mapping[str, int]]) -> Iterator[tuple[str, str]]:
    for kind in _OLD:
        for path in files[kind]:
            yield path, kind


def _live(uri: str) -> list[str]:
    table = delta.open_table(uri)
    return sorted(path for paths in delta.paths_by_day(table).values() for path in paths)


def _holds(place: _Place, path: str, people: People) -> bool:
    """Whether a file holds users' rows; one that cannot be read may."""
    whole = place.path(path)
    return not is_readable(whole) or count_rows(whole, place.rows, people)[0] > 0


def _days_with(place: _Place, people: People) -> dict[str, tuple[list[str], int]]:
    """Files of the days that hold users' rows, and how many rows those are."""
    found = {}
    for day, paths in sorted(delta.paths_by_day(delta.open_table(place.uri)).items(), key=str):
        if day is not None:
            rows = sum(count_rows(place.path(p), place.rows, people)[0] for p in paths)
            if rows:
                found[day] = sorted(paths), rows
    return found


def _rewrite_day(
    place: _Place, day: str, paths: list[str], people: People, commit: dict[str, Any]
) -> None:
    folder = delta.write_folder(place.uri, commit["run_id"])
    files = []
    for number, path in enumerate(paths):
        target = folder / f"day={day}" / f"part-{number:05d}.parquet"
        if copy_without(place.path(path), target, place.rows, people):
            files.append(target.relative_to(place.uri).as_posix())
    if not files:
        _drop(place, day, paths, commit)
        return
    found = reduce(add, (file_sums(place.path(path)) for path in files))
    record = delta.PartitionCommit(
        day=day, digest=found.digest, rows=found.rows, files=files, **commit
    )
    schema = _schema_of(place.path(files[0]))
    delta.replace_day(place.uri, schema, record, paths)


def _drop(place: _Place, day: str, paths: list[str], commit: dict[str, Any]) -> None:
    record = delta.PartitionCommit(day=day, digest="", rows=0, files=[], **commit)
    delta.drop_day(place.uri, record, paths)


def _schema_of(path: str) -> pa.Schema:
    schema = pq.read_schema(path).remove_metadata()
    return schema.append(pa.field("day", pa.date32()))
