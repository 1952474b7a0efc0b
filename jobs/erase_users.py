"""Erase users from every table of a family, and from its history, and prove it.

Reads and rewrites every Delta table that holds rows of users: by user id (impressions, events,
timelines, examples, attributes), by impression id (outcomes, labels, scores), by entity key
(features) and by the raw row (quarantine). In the vocabulary a mark takes the user's place, so that
the row stays taken. Deletes packed arrays of the family's runs, which `jobs.pack_examples` makes
again, and files of old versions with the users in them. Appends to `erased_users` (salted hashes,
by which ingest leaves them out from then on) and to `erasures` (what was found and what a scan of
every file found afterwards; never an id). Guarantees: the other rows stay as they are, and a
rewritten day has the digest that an ingest without the users gives it; a job that was cut off is
finished by running it again.

Old versions that registered models were trained on stay, and are listed, unless `--include-pinned`
says otherwise; the models are then tagged. What stays in any case: the users' share in counts of
ads, surfaces and everybody (`entity_features`, `examples`) until the day is built anew; what
models have learnt; the raw log, which is not ours to change. Of a feed whose user is an expression
every quarantined row goes, and an outcome whose impression never arrived stays: nobody can tell
whose they are. Run it while no retrain runs: one in flight may lose the files that it reads.

    python -m jobs.erase_users --recipe kuairand --users ids.txt --include-pinned
"""

from __future__ import annotations

import argparse
import getpass
import json
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs import ledgers
from jobs.command import JobSummary, log
from jobs.config import Recipe
from jobs.erased import IMPRESSION, USER, add_erased
from jobs.erased import TABLE as ERASED
from jobs.erasure import Erasure
from jobs.errors import ConfigError
from jobs.pins import read_pins
from jobs.recipe_command import recipe_main, recipe_parser
from jobs.resolve_config import code_hash
from jobs.run_folders import packed_folders
from jobs.user_rows import People

LEDGER = "erasures"
_SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("stage", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
        ("who", pa.string()),
        ("num_users", pa.int64()),
        ("ids_hash", pa.string()),
        ("include_pinned", pa.bool_()),
        ("tables", pa.string()),
        ("still_pinned", pa.string()),
    ]
)


def run(
    recipe: Recipe,
    home: str,
    users: list[str],
    *,
    include_pinned: bool = False,
) -> JobSummary:
    """Erase users.

    Args:
        recipe: Names the family, and says which rows are a user's.
        home: Root of all state.
        users: Their ids.
        include_pinned: Whether versions that models were trained on are given up too.

    Raises:
        ConfigError: No user is named, or it is not known what a model was trained on.
        StaleSnapshot: Rows of the users arrived meanwhile. Run it again.
    """
    started = time.time()
    ids = frozenset(filter(None, map(str.strip, users)))
    if not ids:
        raise ConfigError("--users, --user: at least one user id; found none; name whom to erase")
    pins = read_pins(recipe, home)
    root = Path(home) / "tables" / recipe.contract.name
    work = Erasure(recipe, home, root, pins)
    people = People(ids, frozenset(work.impressions_of(ids)))
    known = add_erased(str(root / ERASED), {USER: ids, IMPRESSION: people.impressions}, "erasure")
    ids_hash = known.hash_of("\n".join(sorted(ids)))
    run_id = f"erasure-{ids_hash[:12]}"
    commit = {
        "run_id": run_id,
        "config_hash": recipe.content_hash,
        "code_hash": code_hash(),
    }

    def tell(stage: str, tables: dict[str, Any], left: dict[str, Any]) -> None:
        row = {
            "run_id": run_id,
            "stage": stage,
            "at": datetime.now(UTC),
            "who": getpass.getuser(),
            "num_users": len(ids),
            "ids_hash": ids_hash,
            "include_pinned": include_pinned,
            "tables": json.dumps(tables),
            "still_pinned": json.dumps(left),
        }
        ledgers.append(str(root / LEDGER), pa.Table.from_pylist([row], schema=_SCHEMA))

    found = work.count(people)
    tell("begun", found, {})
    packed = packed_folders(home, recipe.contract.name, datetime.now(UTC))
    for folder in packed:
        shutil.rmtree(folder)
    removed = work.rewrite(people, commit)
    deleted, tagged = work.delete_history(people, include_pinned=include_pinned)
    proof, left = work.prove(people)
    tell("proven", proof, left)
    log.info("%s: %d users erased; still pinned: %s", run_id, len(ids), left or "nothing")
    return JobSummary(
        job="erase_users",
        outputs={name: values["version"] for name, values in proof.items()},
        rows=removed,
        details={
            "run_id": run_id,
            "num_users": len(ids),
            "ids_hash": ids_hash,
            "found": found,
            "proof": proof,
            "still_pinned": left,
            "files_deleted": deleted,
            "models_tagged": tagged,
            "packed_deleted": len(packed),
        },
        started=started,
        seconds=round(time.time() - started, 2),
    )


def read_ids(path: Path) -> list[str]:
    """Read a user id per line.

    Raises:
        ConfigError: There is no such file.
    """
    if not path.is_file():
        raise ConfigError(f"--users: no file {path}; give one with a user id per line")
    return path.read_text(encoding="utf-8").splitlines()


def _main() -> None:
    parser = recipe_parser(__doc__)
    parser.add_argument("--users", type=Path, help="file with a user id per line")
    parser.add_argument("--user", action="append", default=[], help="a user id; may be repeated")
    parser.add_argument(
        "--include-pinned",
        action="store_true",
        help="also from versions that registered models were trained on, which are tagged",
    )

    def body(recipe: Recipe, home: str, options: argparse.Namespace) -> JobSummary:
        users = options.user + ([] if options.users is None else read_ids(options.users))
        return run(recipe, home, users, include_pinned=options.include_pinned)

    recipe_main(parser, body)


if __name__ == "__main__":
    _main()
