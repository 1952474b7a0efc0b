"""Students: distilled beside their undistilled twins, in one plain process.

A student and its twin share initialisation, rows, order, steps and number of trials; only the
distillation terms differ. Where a student reads what the teacher kept of users, its twin has the
same tokens and reads learned ones, as a row does of which nothing was kept. The twin goes on from
its own past, so that it is the student that the family would have had without a teacher. Parts that
a student takes over from its scorer are a distillation term too, see `sharing`: the twin starts
without them.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from jobs import tracking
from jobs.command import JobSummary, log, read_summary
from jobs.config import RunConfig
from jobs.family import (
    TWIN,
    domain_name,
    parent_folder,
    scorer_name,
    segment_folder,
    stage_folder,
    teacher_name,
    trained_from,
    trial_folder,
    vertical_name,
    verticals,
)
from jobs.pack_examples import open_packed
from jobs.training import trainee
from jobs.training.bars import drawn
from jobs.training.checkpoints import Card, copy_checkpoint, read_card
from jobs.training.inputs import Packed
from jobs.training.loop import Learner
from jobs.training.networks import (
    distillation_config,
    ranker_config,
    with_alignment,
    with_stored,
)
from jobs.training.reader import Reader
from jobs.training.score_facts import fact_metrics, score_facts
from jobs.training.scoring import read_scores, score_out_of_sample
from jobs.training.segments import Segment, training_segments
from jobs.training.sharing import SharedStart, share, shared_start
from jobs.training.side_by_side import side_by_side
from jobs.training.stored import (
    REPRESENTATIONS,
    USER_VECTORS,
    Representations,
    Stored,
    UserVectors,
)
from jobs.training.trainee import SegmentResult, recent_ne
from jobs.training_settings import Student, Trial
from jobs.user_embeddings import TABLE as USER_EMBEDDINGS


@dataclass(frozen=True)
class StudentPlan:
    """Which student, and whom it learns from."""

    name: str
    kind: str
    """`domain` or `vertical`."""
    domain: str
    vertical: str | None
    """`<domain>-<vertical>` of a vertical student."""
    tasks: list[str]
    scorer: str
    """Registered name of the model whose scores it learns from."""
    settings: Student


def domain_plan(config: RunConfig, domain: str) -> StudentPlan:
    """A domain student: all tasks of its domain, taught by the teacher."""
    return StudentPlan(
        name=domain_name(config, domain),
        kind="domain",
        domain=domain,
        vertical=None,
        tasks=list(config.contract.tasks),
        scorer=teacher_name(config),
        settings=config.domain_student,
    )


def vertical_plan(config: RunConfig, vertical: str) -> StudentPlan:
    """A vertical student: its own tasks, taught by its domain student or by the teacher."""
    domain, own = vertical.split("-", 1)
    return StudentPlan(
        name=vertical_name(config, vertical),
        kind="vertical",
        domain=domain,
        vertical=vertical,
        tasks=config.contract.vertical_tasks(domain, own),
        scorer=scorer_name(config, vertical),
        settings=config.vertical_student,
    )


def student_plans(config: RunConfig) -> list[StudentPlan]:
    """All students of a family, domains first."""
    domains = [domain_plan(config, domain) for domain in config.contract.domains]
    return domains + [vertical_plan(config, v) for v in verticals(config.contract)]


def kept_rows(plan: StudentPlan, packed: Packed) -> np.ndarray:
    """Which rows a student sees: those of its domain or vertical."""
    if plan.vertical is None:
        return packed.domain == packed.spec.domains.index(plan.domain)
    return packed.vertical == packed.spec.verticals.index(plan.vertical)


def teacher_scores(
    config: RunConfig, plan: StudentPlan, packed: Packed
) -> tuple[np.ndarray, dict[str, int | None]]:
    """A student's soft labels by packed row, NaN where missing, and the table version of them.

    Raises:
        ConfigError: The scorer has not scored in this run.
    """
    taught_by_teacher = plan.scorer == teacher_name(config)
    job = "score_teacher" if taught_by_teacher else f"train_domain_student-{plan.domain}"
    table = f"teacher_scores/{plan.scorer}"
    version = read_summary(config, job).outputs[table]
    return read_scores(config, plan.scorer, packed, plan.tasks, version), {table: version}


def stored_versions(config: RunConfig, plan: StudentPlan) -> dict[str, int | None]:
    """Versions of the tables from which a student reads what the teacher kept."""
    settings, tables = plan.settings, []
    if settings.representation_history or settings.alignment:
        tables.append(f"teacher_scores/{teacher_name(config)}")
    if settings.user_vector:
        tables.append(USER_EMBEDDINGS)
    return {table: read_summary(config, "score_teacher").outputs[table] for table in tables}


def student_reader(
    config: RunConfig, plan: StudentPlan, packed: Packed, teacher: np.ndarray | None
) -> Reader:
    """A student's batches."""
    spec = packed.spec
    training = plan.settings.training
    network = training.network
    return Reader(
        packed=packed,
        tasks=[spec.tasks.index(task) for task in plan.tasks],
        keep=kept_rows(plan, packed),
        # A student has one domain, its own.
        domains=np.zeros(len(spec.domains), dtype=np.int64),
        batch_size=training.batch_size,
        max_events=(
            config.timeline.num_events if network.num_events is None else network.num_events
        ),
        teacher=teacher,
        whole_timelines=network.upstream is not None,
        content=network.content,
        zipper=network.zipper,
        next_event=training.next_event,
        stored=_stored(config, plan.settings),
        device=config.resources.device,
    )


def twin_reader(reader: Reader) -> Reader:
    """A twin's batches: its student's, without what the teacher kept."""
    return replace(reader, stored=reader.stored.untold())


def _stored(config: RunConfig, settings: Student) -> Stored:
    history, aligned = settings.representation_history, settings.alignment is not None
    return Stored(
        length=None if history is None else history.length,
        representations=(
            Representations(config.run_folder / REPRESENTATIONS) if history or aligned else None
        ),
        is_aligned=aligned,
        user_vectors=(
            UserVectors(config.run_folder / USER_VECTORS) if settings.user_vector else None
        ),
    )


@dataclass(frozen=True)
class Arm:
    """A trained model: the student or its twin, by one trial."""

    card: Card
    folder: Path
    """Its checkpoint, until the best is chosen."""
    results: list[SegmentResult]
    segments: list[Path]
    """Checkpoints at the ends of the segments, where they were kept."""
    index: int
    """Which trial it is."""
    distilled: bool

    @property
    def ne(self) -> float:
        """By which a trial is chosen."""
        return recent_ne(self.results)


@dataclass(frozen=True)
class Lesson:
    """What a student and its twin are to learn, and from where on."""

    config: RunConfig
    plan: StudentPlan
    reader: Reader
    """Of the student."""
    segments: Sequence[Segment]
    parent: Path | None
    """Of the student: its twin's lies within."""
    shared: SharedStart | None

    def trials(self, *, distilled: bool) -> tuple[Trial, ...]:
        """All trials; a warm start keeps its parent's."""
        if self.parent is None:
            return self.plan.settings.training.trials
        parent = self.parent if distilled else self.parent / TWIN
        return (Trial(**read_card(parent).trial),)

    def learn(self, trial: Trial, index: int, *, distilled: bool) -> Arm:
        """Train one arm, and leave a checkpoint of it."""
        config, plan, segments, parent = self.config, self.plan, self.segments, self.parent
        reader = self.reader if distilled else twin_reader(self.reader)
        if distilled and self.shared is not None:
            segments = self.shared.segments
        if parent is not None and not distilled:
            parent = parent / TWIN
        card = student_card(config, plan, reader, trial, distilled=distilled)
        card, learner = trainee.start(card, plan.settings.training, reader, segments, parent)
        if distilled and parent is None:
            card = _first_taught(card, learner, plan, reader, segments, self.shared)
        kept: list[Path] = []

        def keep(card: Card, learner: Learner, _: SegmentResult) -> None:
            folder = segment_folder(config, plan.name, index, len(kept))
            trainee.save(folder, card, learner)
            kept.append(folder)

        scores_others = distilled and plan.kind == "domain"
        on_segment = keep if scores_others else trainee.keep_nothing
        card, results = trainee.train(card, learner, reader, segments, on_segment)
        folder = trial_folder(config, plan.name, index, twin=not distilled)
        trainee.save(folder, card, learner)
        arm = Arm(card, folder, results, kept, index, distilled)
        who = plan.name if distilled else f"{plan.name}-{TWIN}"
        log.info("%s: trial %d has NE %.4f on the last day", who, index, arm.ne)
        return arm


def train_student(config: RunConfig, plan: StudentPlan) -> JobSummary:
    """Train a student and its twin up to the gate window; a domain student scores its rows too."""
    packed = open_packed(config)
    teacher, scores = teacher_scores(config, plan, packed)
    scores |= stored_versions(config, plan)
    reader = student_reader(config, plan, packed, teacher)
    keep = kept_rows(plan, packed)
    parent = parent_folder(config, plan.name)
    zone = config.contract.time_zone
    segments = training_segments(config.plan, packed, zone, afresh=parent is None)
    shared = None if parent is not None else shared_start(config, plan, segments)
    judged = stage_folder(config, plan.name, "judged")
    student, twin = _best(Lesson(config, plan, reader, segments, parent, shared), judged)
    scored, version, facts = {}, None, None
    if plan.kind == "domain":
        torch.set_num_threads(config.resources.num_workers * config.resources.worker_threads)
        checkpoints = ([] if parent is None else [parent]) + student.segments
        scored, version = score_out_of_sample(config, plan.name, reader, checkpoints)
        facts = score_facts(config, plan.name, reader, plan.tasks, version)
    with tracking.child_run(config, plan.name, plan.kind) as mlflow_run:
        training = plan.settings.training
        tracking.log_training(mlflow_run, config, student.card, training, packed, student.results)
        mlflow_run.inputs(config, scores)
        settings = plan.settings.distillation.model_dump(mode="json")
        mlflow_run.params({f"distillation.{name}": value for name, value in settings.items()})
        mlflow_run.params({"teacher": plan.scorer, "twin_trial": twin.card.trial})
        told = ("representation_history", "alignment", "user_vector")
        mlflow_run.params({name: getattr(plan.settings, name) for name in told})
        tags = {
            "trained_from": str(trained_from(config, plan.name)),
            "trained_until": str(student.card.trained_until),
            "teacher": plan.scorer,
        }
        registered, _ = tracking.register(mlflow_run, plan.name, judged, "judged", tags)
        tracking.set_challenger(mlflow_run, plan.name, registered)
        mlflow_run.metrics({"student_ne": student.ne, "twin_ne": twin.ne}, step=0)
        mlflow_run.metrics({} if facts is None else fact_metrics(facts))
        with tracking.child_run(config, *_twin_run(plan), below=mlflow_run) as twin_run:
            tracking.log_training(twin_run, config, twin.card, training, packed, twin.results)
    return JobSummary(
        job=f"train_{plan.kind}_student",
        part=plan.vertical or plan.domain,
        inputs={**packed.inputs, **scores},
        outputs={f"teacher_scores/{plan.name}": version} if plan.kind == "domain" else {},
        rows={
            "learnt": int(sum(max(result.num_labels) for result in student.results)),
            "with_teacher_score": int((~np.isnan(teacher[keep])).all(axis=1).sum()),
            "scored": sum(scored.values()),
        },
        details={
            "student_ne_before_update": student.results[-1].ne,
            "twin_ne_before_update": twin.results[-1].ne,
            "curve": [result.to_dict() for result in student.results],
            "twin_curve": [result.to_dict() for result in twin.results],
            "segments": len(student.results),
            "chosen_trial": student.index,
            "trial": student.card.trial,
            "trials": len(training.trials),
            "teacher": plan.scorer,
            "shared": student.card.shared,
            "version": registered,
            **({} if facts is None else {"scores": facts}),
        },
        mlflow_run=mlflow_run.id,
    )


def _twin_run(plan: StudentPlan) -> tuple[str, str]:
    """Name and kind of the MLflow run of a student's twin."""
    return f"{plan.name}-{TWIN}", f"{plan.kind}_{TWIN}"


def student_card(
    config: RunConfig, plan: StudentPlan, reader: Reader, trial: Trial, *, distilled: bool
) -> Card:
    """The card of a student, or of its twin, that has learnt nothing yet."""
    training, spec = plan.settings.training, reader.packed.spec
    ranker = ranker_config(
        training.network,
        config.timeline,
        spec,
        [plan.domain],
        plan.tasks,
        reader.packed.content_dim,
        training,
    )
    ranker = with_stored(ranker, config, plan.settings)
    card = trainee.blank_card(config, plan.name, ranker, reader, trial)
    if not distilled:
        return card
    distillation = distillation_config(plan.settings.distillation, plan.tasks)
    distillation = with_alignment(distillation, config, plan.settings)
    return replace(card, distillation=distillation.model_dump(mode="json"))


def _best(lesson: Lesson, judged: Path) -> tuple[Arm, Arm]:
    """Train a student and its twin with every trial, side by side; the best of each is judged."""
    with drawn(lesson.config.run_folder):
        arms = side_by_side(
            [
                partial(lesson.learn, trial, index, distilled=distilled)
                for distilled in (True, False)
                for index, trial in enumerate(lesson.trials(distilled=distilled))
            ],
            lesson.config.resources,
        )
    student = min((arm for arm in arms if arm.distilled), key=lambda arm: arm.ne)
    twin = min((arm for arm in arms if not arm.distilled), key=lambda arm: arm.ne)
    copy_checkpoint(student.folder, judged)
    copy_checkpoint(twin.folder, judged / TWIN)
    for arm in arms:
        shutil.rmtree(arm.folder)
    return student, twin


def _first_taught(
    card: Card,
    learner: Learner,
    plan: StudentPlan,
    reader: Reader,
    segments: Sequence[Segment],
    shared: SharedStart | None,
) -> Card:
    """A fresh student with what only a first run gives it: its scorer's parts, and a warm-up."""
    num_steps = sum(reader.num_steps(segment) for segment in segments)
    warmup_steps = int(plan.settings.distillation.warmup_ratio * num_steps)
    learner.distillation_warmup_steps = warmup_steps
    card = replace(card, distillation_warmup_steps=warmup_steps)
    return card if shared is None else share(card, learner, reader, shared)
