"""The models of a family: their names, and where their checkpoints lie in a run and in the past."""

from __future__ import annotations

import os
import re
import shutil
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.config import Recipe, RunConfig
from jobs.promotions import Promotion, read_ledger

if TYPE_CHECKING:
    from jobs.contract import LogContract

_REMOTE = re.compile(r"[a-z][a-z0-9+.-]+:/")
"""A location with a scheme, such as `s3://bucket/…` or `mlflow-artifacts:/1/…`."""

TWIN = "twin"
"""Subfolder with the student's undistilled twin."""


def teacher_name(config: Recipe) -> str:
    """Registered name of the teacher."""
    return f"{config.family}-teacher"


def domain_name(config: Recipe, domain: str) -> str:
    """Registered name of a domain student."""
    return f"{config.family}-{domain}"


def vertical_name(config: Recipe, vertical: str) -> str:
    """Registered name of a vertical student; `vertical` is `<domain>-<vertical>`."""
    return f"{config.family}-{vertical}"


def verticals(contract: LogContract) -> list[str]:
    """Every `<domain>-<vertical>` of a contract."""
    return [f"{d}-{v}" for d, domain in contract.domains.items() for v in domain.verticals]


def is_direct(config: Recipe, vertical: str) -> bool:
    """Whether a `<domain>-<vertical>` learns straight from the teacher."""
    return config.teachers.get(vertical) == "teacher"


def scorer_name(config: Recipe, vertical: str) -> str:
    """Registered name of the model that a `<domain>-<vertical>` learns from."""
    if is_direct(config, vertical):
        return teacher_name(config)
    return domain_name(config, vertical.split("-", 1)[0])


def student_names(config: Recipe) -> list[str]:
    """Registered names of all students, domains first."""
    domains = [domain_name(config, domain) for domain in config.contract.domains]
    return domains + [vertical_name(config, v) for v in verticals(config.contract)]


def stage_folder(config: RunConfig, name: str, stage: str) -> Path:
    """Checkpoint of a model in this run: `judged` before the gates, `final` after their window."""
    return config.run_folder / "models" / name / stage


def segment_folder(config: RunConfig, name: str, trial: int, index: int) -> Path:
    """Checkpoint of a model at the end of a training segment."""
    return config.run_folder / "models" / name / f"trial-{trial}" / f"segment-{index:03d}"


def trial_folder(config: RunConfig, name: str, trial: int, *, twin: bool) -> Path:
    """Checkpoint of a student, or of its twin, at the end of a trial: the best is then judged."""
    kind = f"{TWIN}-trial" if twin else "trial"
    return config.run_folder / "models" / name / f"{kind}-{trial}" / "end"


def opponent(config: RunConfig) -> Promotion | None:
    """The family that this run is judged against: the champion, or on a repeat the parent."""
    number = config.plan.champion if config.plan.promotable else config.plan.parent
    return None if number is None else read_ledger(config.table("promotions")).row(number)


def opponent_folder(config: RunConfig, name: str) -> Path | None:
    """Checkpoint of the opponent's model; None if it has none of that name."""
    return member_folder(config, opponent(config), name)


def parent_folder(config: RunConfig, name: str) -> Path | None:
    """Checkpoint that a model starts from; None on a first run or for a new model."""
    families = earlier_families(config)
    return member_folder(config, families[-1], name) if families else None


def earlier_families(config: RunConfig) -> list[Promotion]:
    """The parent and the families that served before it, the oldest first, without what was rolled
    back."""
    found, number = [], config.plan.parent
    ledger = read_ledger(config.table("promotions"))
    while number is not None:
        found.insert(0, ledger.row(number))
        number = found[0].previous
    return found


def trained_from(config: RunConfig, name: str) -> datetime | None:
    """UTC: what a model's parent had learnt; None for a model without one, whose training begins
    with the log."""
    families = earlier_families(config)
    return config.plan.trained_from if families and name in families[-1].members else None


def member_folder(config: RunConfig, family: Promotion | None, name: str) -> Path | None:
    """Checkpoint of a member of a promoted family; None if it has none of that name."""
    if family is None or name not in family.members:
        return None
    uri = family.members[name].uri
    if _REMOTE.match(uri) is None:
        return Path(uri)
    from mlflow.artifacts import download_artifacts

    held = config.run_folder / "members" / str(family.number) / name
    if not held.exists():
        partial = held.with_name(f"{name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        store = config.resources.mlflow_uri
        download_artifacts(artifact_uri=uri, dst_path=str(partial), tracking_uri=store)
        partial.rename(held)
    return held / uri.rstrip("/").rsplit("/", 1)[-1]
