"""Refresh the vectors of users with the teacher that serves, between two retrains.

Reads the ledger of promotions, the champion's teacher and the newest packed days of the family.
Writes what `user_embeddings` lacks of the moments after all that the teacher has learnt: the ends
of days, for every user of whom something became known on the day, and the arrivals of events of
high value. Guarantees: no vector is written of a moment that the teacher had learnt past; what is
there stays, so a second refresh changes nothing. A user of whom nothing new is known keeps the
vector of an earlier day, which holds all that is known.

Earlier moments are written by `jobs.score_teacher`, each by the checkpoint before it: that is what
students learn from. An event arrives here with its day, as the log is delivered.

    python -m jobs.embed_users --recipe kuairand
"""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from jobs import delta
from jobs.command import JobSummary, log
from jobs.config import Recipe, RunConfig, load_config
from jobs.errors import ConfigError
from jobs.family import member_folder, teacher_name, vertical_name, verticals
from jobs.pack_examples import FOLDER, open_packed
from jobs.promotions import Promotion, read_ledger
from jobs.recipe_command import recipe_main, recipe_parser
from jobs.run_folders import packed_folders
from jobs.training.checkpoints import Card, learnt_until_us, load_model, read_card
from jobs.training.dense import micros
from jobs.training.inputs import to_us
from jobs.training.reader import Reader
from jobs.training.teacher import teacher_reader
from jobs.training.user_vectors import read_moments, user_vectors
from jobs.user_embeddings import SCHEMA, TABLE, days_of, write_vectors
from model.history import upstream_ratio


def run(recipe: Recipe, home: str) -> JobSummary:
    """Refresh the vectors of a family's users, up to the end of the newest packed day.

    Args:
        recipe: Names the family.
        home: Root of all state.

    Raises:
        ConfigError: The recipe makes no vectors, there is no champion, or nothing is packed.
    """
    started = time.time()
    if recipe.user_vectors is None:
        raise ConfigError(
            "user_vectors: this recipe makes no vectors of users; found none set; set user_vectors "
            "and a teacher.network.upstream"
        )
    champion = read_ledger(str(Path(home) / "tables" / recipe.family / "promotions")).champion
    if champion is None:
        raise ConfigError(
            f"promotions: vectors come from the teacher that serves; {recipe.family} has none yet; "
            "run a retrain first"
        )
    config = _newest_run(recipe, home)
    torch.set_num_threads(config.resources.num_workers * config.resources.worker_threads)
    packed, name = open_packed(config), teacher_name(config)
    reader = teacher_reader(config, packed)
    folder = _folder(config, champion, name)
    card = read_card(folder)
    history = card.ranker_config.history
    if history is None or history.upstream is None:
        raise ConfigError(
            f"{name}: vectors come from an upstream; the champion's teacher has none; retrain the "
            "family with teacher.network.upstream"
        )
    assert card.learnt_until is not None, "a champion has learnt something"
    if card.learnt_until > config.plan.gate_end:
        raise ConfigError(
            f"packed: the champion has learnt until {card.learnt_until}; the newest packed day "
            f"ends at {config.plan.gate_end}; run jobs.pack_examples in the champion's run again"
        )
    rows = user_vectors(load_model(folder), card, reader, _lacking(config, reader, card))
    written, version = _add(config, rows, packed.inputs)
    log.info("%s: %d vectors, the last as of %s", TABLE, written, config.plan.gate_end)
    return JobSummary(
        job="embed_users",
        inputs=packed.inputs,
        outputs={TABLE: version},
        rows={TABLE: written},
        details={
            "until": config.plan.gate_end.isoformat(),
            "teacher": {"name": name, "run": card.run_id, "trained_until": card.trained_until},
            "upstream_flops_ratio": _ratios(config, champion, folder),
        },
        started=started,
        seconds=round(time.time() - started, 2),
    )


def _newest_run(recipe: Recipe, home: str) -> RunConfig:
    """The run of the latest day that still has its packed arrays."""
    folders = packed_folders(home, recipe.family, datetime.now(UTC))
    found = [load_config(str(f.parent / "config.json")) for f in folders if f.name == FOLDER]
    if not found:
        raise ConfigError(
            "packed: vectors are made of a run's packed timelines; found no run that has them; run "
            "jobs.pack_examples in the latest one"
        )
    return max(found, key=lambda config: (config.plan.day, config.run.run_id))


def _lacking(config: RunConfig, reader: Reader, card: Card) -> pa.Table:
    """Moments of the packed days after all that a teacher has learnt, without a vector yet."""
    moments = read_moments(reader.packed)
    as_of = micros(moments["as_of"])
    after = (as_of >= learnt_until_us(card)) & (as_of <= to_us(config.plan.gate_end))
    moments = moments.take(pa.array(np.flatnonzero(after)))
    uri, zone = config.table(TABLE), config.contract.time_zone
    if delta.latest_version(uri) is None or moments.num_rows == 0:
        return moments
    days = days_of(moments["as_of"], zone)
    held = delta.read_days(uri, sorted(set(days.to_pylist())), ["user_id", "as_of"])
    keys, known = (
        pc.binary_join_element_wise(
            rows["user_id"], rows["as_of"].cast(pa.int64()).cast(pa.string()), "\u0001"
        )
        for rows in (moments, held)
    )
    return moments.filter(pc.invert(pc.is_in(keys, value_set=known)))


def _add(
    config: RunConfig, rows: pa.Table, inputs: Mapping[str, int | None]
) -> tuple[int, int | None]:
    """Write vectors beside what their days hold; how many, and the table's version."""
    uri = config.table(TABLE)
    version = delta.latest_version(uri)
    if rows.num_rows == 0:
        return 0, version
    beside = rows
    if version is not None:
        days = sorted(set(days_of(rows["as_of"], config.contract.time_zone).to_pylist()))
        beside = pa.concat_tables([delta.read_days(uri, days, SCHEMA.names), rows])
    _, version = write_vectors(config, beside, inputs)
    return rows.num_rows, version


def _folder(config: RunConfig, champion: Promotion, name: str) -> Path:
    folder = member_folder(config, champion, name)
    assert folder is not None, "a family has a teacher"
    return folder


def _ratios(config: RunConfig, champion: Promotion, teacher: Path) -> dict[str, float]:
    """How many times the sequence FLOPs of each vertical's student go into one user's vector.

    At full length: the timeline's N events, and as many of them as the student reads.
    """
    upstream, found = read_card(teacher).ranker_config, {}
    for vertical in verticals(config.contract):
        name = vertical_name(config, vertical)
        if name in champion.members:
            online = read_card(_folder(config, champion, name)).ranker_config
            if online.history is not None:
                longest = online.history.max_events
                ratio = upstream_ratio(upstream, online, config.timeline.num_events, longest)
                found[vertical] = round(ratio, 2)
    return found


if __name__ == "__main__":
    recipe_main(recipe_parser(__doc__), lambda recipe, home, _: run(recipe, home))
