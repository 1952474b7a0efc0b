"""Refresh the vectors of users with the teacher that serves, between two retrains.

Reads the ledger of promotions, the champion's teacher and the newest packed day of the family.
Writes `user_embeddings`: of every user of whom something became known on that day, the vector as of
its end. Guarantees: no vector is written of a moment that the teacher had learnt past; a second
refresh changes nothing. A user of whom nothing new is known keeps the vector of an earlier day,
which holds all that is known.

Vectors as of earlier moments, those at which events of high value arrived among them, are written
by `jobs.score_teacher`, each by the checkpoint before it: that is what students learn from.

    python -m jobs.embed_users --recipe kuairand
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from jobs.command import JobSummary, exit_with, log
from jobs.config import Recipe, RunConfig, lapidary_home, load_config, with_overrides
from jobs.errors import ConfigError
from jobs.family import member_folder, teacher_name, vertical_name, verticals
from jobs.pack_examples import FOLDER, open_packed
from jobs.promotions import Promotion, read_ledger
from jobs.recipes import named_recipe
from jobs.resolve_config import parse_overrides
from jobs.run_folders import packed_folders
from jobs.training.checkpoints import load_model, read_card
from jobs.training.dense import micros
from jobs.training.inputs import to_us
from jobs.training.teacher import teacher_reader
from jobs.training.user_vectors import read_moments, user_vectors
from jobs.user_embeddings import TABLE, write_vectors
from model.history import upstream_ratio


def run(recipe: Recipe, home: str) -> JobSummary:
    """Refresh the vectors of a family's users, as of the end of the newest packed day.

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
    moments = read_moments(packed)
    at_end = np.flatnonzero(micros(moments["as_of"]) == to_us(config.plan.gate_end))
    reader = teacher_reader(config, packed)
    rows = user_vectors(load_model(folder), card, reader, moments.take(pa.array(at_end)))
    written, version = write_vectors(config, rows, packed.inputs) if rows.num_rows else ({}, None)
    log.info("%s: vectors of %d users as of %s", TABLE, rows.num_rows, config.plan.gate_end)
    return JobSummary(
        job="embed_users",
        inputs=packed.inputs,
        outputs={TABLE: version},
        rows={TABLE: sum(written.values())},
        details={
            "as_of": config.plan.gate_end.isoformat(),
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


def _main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="kuairand", help="name of the recipe")
    parser.add_argument("--overrides", default="{}", help="JSON object of changed settings")
    options = parser.parse_args()

    def body() -> dict[str, Any]:
        recipe = with_overrides(named_recipe(options.recipe), parse_overrides(options.overrides))
        return asdict(run(recipe, str(lapidary_home())))

    exit_with(body)


if __name__ == "__main__":
    _main()
