"""The files of a Delta table: which of them some version still needs, and which none does.

A file is kept while it is live, while a pinned version has it, or while a reader may still be at
work on the version that it left. The log is cut only behind a checkpoint, and only once the
records of all live days are told again in front of it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deltalake import DeltaTable

from jobs import delta

_LOG = "_delta_log"


@dataclass(frozen=True)
class TableFiles:
    """Files of a table by what they are kept for: their bytes, by path relative to the table."""

    version: int
    days: int
    live: dict[str, int]
    pinned: dict[str, int]
    """Not live, but of a version that a registered model was trained on."""
    recent: dict[str, int]
    """Replaced, or written and not committed, so lately that somebody may be at work on them."""
    expired: dict[str, int]
    """Of versions that nobody needs."""
    orphans: dict[str, int]
    """Of writers that never committed them."""
    lost_versions: list[int]
    """Pinned versions that can no longer be read as they were."""

    @property
    def sizes(self) -> dict[str, int]:
        """What the report says of a table."""
        return {
            "version": self.version,
            "days": self.days,
            "files": len(self.live),
            "live_bytes": sum(self.live.values()),
            "pinned_bytes": sum(self.pinned.values()),
            "recent_bytes": sum(self.recent.values()),
            "expired_bytes": sum(self.expired.values()),
            "orphan_bytes": sum(self.orphans.values()),
            "lost_versions": len(self.lost_versions),
        }


def family_tables(root: Path) -> list[str]:
    """Names of the Delta tables below a family's folder."""
    return sorted(log.parent.relative_to(root).as_posix() for log in root.rglob(_LOG))


def table_files(uri: str, pinned: Collection[int], cutoff: datetime) -> TableFiles:
    """Sort a table's files by what they are kept for.

    Args:
        uri: Table.
        pinned: Versions to keep whole.
        cutoff: What was replaced or written after it may be in use.
    """
    table = delta.open_table(uri)
    assert table is not None, f"{uri} is a table"
    live = _paths(table)
    kept: set[str] = set()
    lost = []
    for version in sorted(pinned):
        paths = version_paths(uri, version)
        if paths is None or not all((Path(uri) / path).is_file() for path in paths):
            lost.append(version)
        kept |= paths or set()
    removed = _removals(uri)
    found: dict[str, dict[str, int]] = {
        kind: {} for kind in ("live", "pinned", "recent", "expired", "orphans")
    }
    # The folder is listed after the log was read: a file committed since is too young to go.
    for path, num_bytes, written in _files(uri):
        left = removed.get(path, written)
        if path in live:
            kind = "live"
        elif path in kept:
            kind = "pinned"
        elif max(left, written) > cutoff:
            kind = "recent"
        else:
            kind = "expired" if path in removed else "orphans"
        found[kind][path] = num_bytes
    return TableFiles(
        version=table.version(),
        days=len(set(delta.paths_by_day(table)) - {None}),
        lost_versions=lost,
        **found,
    )


def delete_files(uri: str, paths: Collection[str]) -> None:
    """Delete files of a table, their check sums, and the folders that are empty without them."""
    root = Path(uri)
    for path in sorted(paths):
        file = root / path
        file.unlink(missing_ok=True)
        file.with_name(f".{file.name}.crc").unlink(missing_ok=True)
        for folder in file.relative_to(root).parents:
            if folder == Path() or any((root / folder).iterdir()):
                break
            (root / folder).rmdir()


def add_checkpoint(uri: str, commits: int) -> bool:
    """Write a checkpoint of the newest version where so many commits lie after the last one.

    Returns:
        Whether one was written.
    """
    table = delta.open_table(uri)
    assert table is not None, f"{uri} is a table"
    last = max(_checkpoints(uri), default=-1)
    if table.version() - last < commits:
        return False
    table.create_checkpoint()
    return True


def trim_log(
    uri: str, pinned: Collection[int], cutoff: datetime, *, dry_run: bool = False
) -> list[str]:
    """Delete log entries that no version younger than a cut-off, and no pinned one, needs.

    Args:
        uri: Table.
        pinned: Versions that stay readable.
        cutoff: Versions that were the newest after it stay readable.
        dry_run: Whether to change nothing.

    Returns:
        Names of the entries that went, or would.

    Raises:
        StaleSnapshot: Another writer came between.
    """
    table = delta.open_table(uri)
    assert table is not None, f"{uri} is a table"
    history = {entry["version"]: entry["timestamp"] for entry in table.history()}
    old = [version for version, at in history.items() if _moment(at) < cutoff]
    needed = [max(old, default=0), *(version for version in pinned if version in history)]
    start = max((v for v in _checkpoints(uri) if v <= min(needed)), default=0)
    gone = sorted(
        entry
        for entry in (Path(uri) / _LOG).iterdir()
        if entry.name[:20].isdigit() and int(entry.name[:20]) < start
    )
    if gone and not dry_run:
        if any(version < start for version, _ in delta.live_records(table).values()):
            delta.carry_records(uri)
        for entry in gone:
            entry.unlink()
    return [entry.name for entry in gone]


def _paths(table: DeltaTable) -> set[str]:
    return set().union(*delta.paths_by_day(table).values())


def version_paths(uri: str, version: int) -> set[str] | None:
    """Paths of a version; None where the log no longer reaches back to it."""
    if not (Path(uri) / _LOG / f"{version:020d}.json").is_file():
        return None
    table = delta.open_table(uri, version)
    return None if table is None else _paths(table)


def _removals(uri: str) -> dict[str, datetime]:
    """When each file left the table last, by its path."""
    found: dict[str, datetime] = {}
    for entry in sorted((Path(uri) / _LOG).glob("*.json")):
        for line in entry.read_text(encoding="utf-8").splitlines():
            action = json.loads(line).get("remove")
            if action is not None:
                found[action["path"]] = _moment(action["deletionTimestamp"])
    return found


def _files(uri: str) -> Iterator[tuple[str, int, datetime]]:
    root = Path(uri)
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if inside.parts[0] == _LOG or not path.is_file():
            continue
        if path.name.endswith(".crc") and path.with_name(path.name[1:-4]).is_file():
            continue  # Spark's check sum of a file that is there.
        status = path.stat()
        yield inside.as_posix(), status.st_size, datetime.fromtimestamp(status.st_mtime, UTC)


def _checkpoints(uri: str) -> list[int]:
    return [int(p.name[:20]) for p in (Path(uri) / _LOG).glob("*.checkpoint*.parquet")]


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
