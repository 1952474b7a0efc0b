"""Folders of runs: what lies in them that can be made again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path


def packed_folders(home: str, family: str, before: datetime) -> list[Path]:
    """Packed arrays of a family's runs that were written before a moment, cut-off ones included."""
    found = []
    for config in sorted((Path(home) / "runs").glob("*/config.json")):
        if json.loads(config.read_text(encoding="utf-8"))["contract"]["name"] == family:
            found += sorted(config.parent.glob("packed*"))
    return [f for f in found if datetime.fromtimestamp(f.stat().st_mtime, UTC) < before]
