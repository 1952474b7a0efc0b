"""Parameter sharing: a student that starts with parts of its scorer.

What the student is yet to learn, the scorer must not have learnt: the parts come from a checkpoint
that had learnt none of the labels which the student learns. In a family's first run there is no
earlier one than that at the end of the scorer's first segment, so the student begins after it,
while its twin, which shares nothing, learns those labels itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.command import read_summary
from jobs.config import RunConfig
from jobs.errors import ConfigError
from jobs.family import earlier_families, member_folder, segment_folder, teacher_name
from jobs.training.checkpoints import Card, load_checkpoint, read_card
from jobs.training.loop import Learner
from jobs.training.reader import Reader
from jobs.training.segments import Segment
from model.distillation.sharing import part_module, take_over
from model.embeddings import forget_rows

if TYPE_CHECKING:
    from jobs.training.students import StudentPlan

_RANKER = "ranker."
"""How the weights of a student's ranker are prefixed."""


@dataclass(frozen=True)
class SharedStart:
    """A checkpoint of the scorer, and what is left for the student to learn."""

    scorer: str
    folder: Path
    segments: list[Segment]


def training_job(config: RunConfig, plan: StudentPlan) -> str:
    """Name of the summary of the job that trained a student's scorer."""
    trained_teacher = plan.scorer == teacher_name(config)
    return "train_teacher" if trained_teacher else f"train_domain_student-{plan.domain}"


def shared_start(
    config: RunConfig, plan: StudentPlan, segments: Sequence[Segment]
) -> SharedStart | None:
    """From where a student without a past takes its scorer's parts.

    Args:
        config: The run's configuration.
        plan: The student.
        segments: What it would learn alone.

    Returns:
        The last checkpoint of the scorer from before all that the student would learn, else the
        first one and the segments after it; None where nothing is shared.

    Raises:
        ConfigError: Nothing is left to learn after the scorer's first checkpoint.
    """
    distillation = plan.settings.distillation
    if not (distillation.initialised or distillation.frozen):
        return None
    found = _checkpoints(config, plan)
    start = segments[0].start
    before = [one for one in found if start is not None and one[0] <= start]
    until, folder = before[-1] if before else found[0]
    left = [s for s in segments if s.start is not None and s.start >= until]
    if not left:
        raise ConfigError(
            f"{plan.name}: initialised and frozen parts come from a checkpoint of {plan.scorer} "
            f"that has learnt no label which the student learns; found none before {until}, and no "
            "segment of training after it; let the first run read more days "
            "(windows.bootstrap_days), or share nothing"
        )
    return SharedStart(plan.scorer, folder, left)


def _checkpoints(config: RunConfig, plan: StudentPlan) -> list[tuple[datetime, Path]]:
    """Until when each checkpoint of the scorer has learnt, the oldest first, and its folder."""
    trained = read_summary(config, training_job(config, plan)).details
    found = [
        (family.trained_until, member_folder(config, family, plan.scorer))
        for family in earlier_families(config)
    ]
    for index in range(trained["segments"]):
        folder = segment_folder(config, plan.scorer, trained["chosen_trial"], index)
        until = read_card(folder).learnt_until
        assert until is not None, "the end of a segment"
        found.append((until, folder))
    return [(until, folder) for until, folder in found if folder is not None]


def share(card: Card, learner: Learner, reader: Reader, start: SharedStart) -> Card:
    """Give a fresh student the parts of its scorer that it is configured to share.

    The parts are those that the scorer serves with, its averages. Tables bring their AdaGrad sums:
    without them a first step would be as wide as that of a fresh row.

    Args:
        card: The student.
        learner: It too, changed in place.
        reader: Its batches.
        start: Where the parts come from.

    Returns:
        The card, which names the scorer's checkpoint.

    Raises:
        ConfigError: The scorer reads other columns or another vocabulary, or a part does not fit.
    """
    held = load_checkpoint(start.folder)
    _refuse_other_inputs(card, held.card, reader)
    distillation = card.distillation_config
    assert distillation is not None, "a twin shares nothing"
    parts = (*distillation.initialised, *distillation.frozen)
    weights = forget_rows({**held.weights, **held.averages}, card.evicted)
    is_student = held.card.distillation is not None
    if is_student:
        weights = {k.removeprefix(_RANKER): v for k, v in weights.items() if k.startswith(_RANKER)}
    try:
        take_over(learner.ranker, weights, parts)
    except ValueError as error:
        raise ConfigError(f"{card.name}: {error}") from error
    for name, parameter in learner.bare.named_parameters():
        if name in learner.average.averages:
            learner.average.averages[name].copy_(parameter.detach())
    prefix = _RANKER if is_student else ""
    (group,) = held.sparse_state["param_groups"]
    sums = {
        name.removeprefix(prefix): held.sparse_state["state"][index]["sum"]
        for index, name in zip(group["params"], group["param_names"], strict=True)
    }
    for part in parts:
        if not f"{part}.".startswith("tables."):
            continue
        for name, table in learner.ranker.get_submodule(part_module(part)).named_parameters():
            known = sums[f"{part_module(part)}.{name}"]
            learner.optimizers.sparse.state[table]["sum"][: len(known)] = known
    shared = {
        "scorer": start.scorer,
        "run_id": held.card.run_id,
        "trained_until": held.card.trained_until,
    }
    return replace(card, shared=shared)


def _refuse_other_inputs(card: Card, scorer: Card, reader: Reader) -> None:
    if (scorer.categorical, scorer.dense) != (card.categorical, card.dense):
        raise ConfigError(
            f"{card.name}: to share parts a student reads the columns of its scorer; found "
            f"{scorer.categorical + scorer.dense} in {scorer.name} and "
            f"{card.categorical + card.dense} here; train the scorer on them first"
        )
    rows = {table.name: table.num_rows for table in scorer.ranker_config.tables}
    if reassigned := reader.packed.reassigned_tables(rows, scorer.table_digests):
        raise ConfigError(
            f"{card.name}: to share parts a student's vocabulary extends that of its scorer; found "
            f"other values in the rows of {reassigned}; bring back the vocabulary table that "
            f"{scorer.name} was trained with"
        )
