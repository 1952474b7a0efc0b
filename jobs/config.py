"""The configuration of one run: resolved once, frozen, passed as one URI.

`Recipe` says what to do; `RunConfig` adds what the first task found out (which day, which parent,
which champion, which code) and is written to `config.json` in the run's folder. Every job reads
that file and nothing else: no flag, variable or clock.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, model_validator

from jobs.contract import LogContract, load_contract
from jobs.errors import ConfigError
from jobs.representation_settings import Representation, UserVectors
from jobs.settings import Settings, checked
from jobs.training_settings import Student, Training
from model.heads_config import ChainConfig

REPOSITORY = Path(__file__).resolve().parent.parent
"""The repository's root: the one import root."""


class Windows(Settings):
    """Which rows a run trains on and which it is judged on."""

    gate_hours: int = Field(default=24, ge=1, le=24)
    """The gate window is the last hours of the run's day; 24 for the whole day. A shorter one lets
    the challenger learn the day's first hours before it is judged; see RESULTS.md."""
    bootstrap_days: int = Field(default=30, ge=2)
    """Arrival days that a first run reads, its own included (fewer where the log starts later)."""
    baseline_days: int = Field(default=30, ge=1)
    """Days of examples that the baselines are fitted on, the run's day included."""
    max_late_days: int = Field(default=1, ge=0)
    """An impression may arrive this many days after it was shown; later ones are quarantined."""
    empty_days: tuple[date, ...] = ()
    """Arrival days of the run that the log may hold nothing of any more. A table of which the log
    has no row for one of them loses that day; of any other day it keeps what it holds."""


class Sampling(Settings):
    """What stays of a history of more than N events before a day; a day's own are never sampled."""

    recent: int = Field(ge=1)
    """R: the latest events, which always stay. The other N - R are those of most worth among the
    older ones, the later first among equals; all lie in the order in which they became known."""
    value: Literal["event_value"] | dict[str, float] = "event_value"
    """What an event is worth: its own value, or a number by event type. Nothing where none is."""


class Timeline(Settings):
    """User histories."""

    num_events: int = Field(default=128, ge=1, le=4096)
    """N: events a model reads before an impression. A day stores at most 4N new ones."""
    lookback_days: int = Field(default=60, ge=1)
    """Events that became known longer ago than this are forgotten."""
    sampling: Sampling | None = None
    """How longer histories are thinned out; the N latest events stay if left out."""

    @model_validator(mode="after")
    def _sample_fits(self) -> Timeline:
        if self.sampling is not None and self.sampling.recent > self.num_events:
            raise ValueError(
                f"sampling.recent is at most num_events ({self.num_events}); found "
                f"{self.sampling.recent}"
            )
        return self


class Gates(Settings):
    """Limits that the gates hold figures against. Ratios are shares of one (0.003 is 0.3 %)."""

    min_rows_ratio: float = 0.3
    """Events: a day needs this share of the median rows of the days before it."""
    max_quarantine_ratio: float = 0.02
    """Events: share of raw rows that may be rejected."""
    max_null_ratio: float = 0.0
    """Examples: share of rows that may lack a label that should be mature."""
    max_rate_shift_ratio: float = 0.5
    """Examples: change of a task's base rate against the days before, relative."""
    max_ne_regression_ratio: float = 0.003
    """Models: the upper 95 % bound of challenger NE over champion NE, minus one."""
    max_absorbed_ne_regression_ratio: float = 0.01
    """Models: the lower 95 % bound of NE while learning the gate window over NE standing still,
    minus one. Wider than the limit above: a small student may well lose a little on one day, and
    every model and task has to pass."""
    min_calibration: float = 0.8
    """Models: lower bound of predicted over observed events that is still tolerated."""
    max_calibration: float = 1.25
    """Models: upper bound of predicted over observed events that is still tolerated."""
    min_slice_rows: int = 1000
    """A slice with fewer rows is too small to judge."""
    min_slice_positives: int = 50
    """A slice with fewer positives is too small to judge."""
    max_unjudged_ratio: float = Field(default=0.5, ge=0, lt=1)
    """Share of the slices that may be too small to judge."""
    num_resamples: int = Field(default=400, ge=50)
    """Bootstrap resamples of users behind every interval."""
    disabled_checks: tuple[str, ...] = ()
    """Checks that are switched off, by name or pattern (`events.rows_ratio*`); the checks that
    there is something to judge stay on. A gate left without any check fails."""


class Resources(Settings):
    """Where engines run. The only part that changes between a laptop and a cluster."""

    spark_master: str = "local[2]"
    """Spark master URL, or a Spark Connect URL (`sc://`)."""
    spark_driver_memory: str = "2g"
    spark_java_options: str = "-XX:+UseSerialGC"
    """Options of the driver's JVM."""
    spark_conf: tuple[Annotated[str, Field(pattern=r"^spark\.[^=]+=")], ...] = ()
    """Further Spark settings, such as `spark.executor.memory=4g`."""
    spark_shuffle_partitions: int = Field(default=4, ge=1)
    ray_address: str | None = None
    """Ray cluster address; a local Ray is started and stopped if left out."""
    num_workers: int = Field(default=2, ge=1)
    """Training workers of the teacher."""
    worker_threads: int = Field(default=1, ge=1)
    """Torch threads per worker, and of a job that learns in one process."""
    job_processes: int = Field(default=2, ge=1)
    """Processes of one thread in which a job learns on a CPU: a student, its twin and all their
    trials side by side, and baselines by task; with 1 they learn in turn."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where models train and score; with `cuda` every worker of the teacher has its own GPU."""
    mlflow_uri: str | None = None
    """MLflow tracking and registry store; SQLite below the home if left out."""
    max_failures: int = Field(default=2, ge=0)
    """Worker failures that the teacher's training survives."""


class Maintenance(Settings):
    """How long what no longer serves is kept. Versions that a registered model was trained on stay
    whatever their age."""

    retention_days: int = Field(default=7, ge=1)
    """Files of replaced rows, and files that no commit names, are deleted after so many days; more
    than any run takes, for it reads the versions that it began with."""
    log_retention_days: int = Field(default=30, ge=1)
    """Versions older than this can no longer be opened."""
    packed_retention_days: int | None = Field(default=None, ge=1)
    """Age at which a run's packed arrays are deleted; kept if left out."""
    target_file_bytes: int = Field(default=128 << 20, ge=1)
    """Size of file that compaction aims at."""
    checkpoint_commits: int = Field(default=10, ge=1)
    """Commits after which a table's log gets a new checkpoint."""


class ScalingLaw(Settings):
    """The sweep of `fit_scaling_law`, on a simulated world: no retrain reads it."""

    preset: str = "world-2"
    """Frozen world whose rows are learnt from, see `jobs/simulation/presets.py`."""
    num_days: int = Field(default=20, ge=2)
    """The world's first days; all but the last are learnt from, the last is held out."""
    models: tuple[Literal["wukong", "dlrm", "interformer"], ...] = ("wukong", "dlrm", "interformer")
    """What is compared; of one size they run in this order, so the last ones fall to the budget."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Of the initial weights; points of the law are means over them."""
    batch_size: int = Field(default=512, ge=1)
    lr_dense: float = Field(default=2e-3, gt=0)
    """Of AdamW, for every model and size."""
    lr_sparse: float = Field(default=1e-1, gt=0)
    """Of row-wise AdaGrad, likewise."""
    budget_cpu_seconds: float = Field(default=36_000.0, gt=0)
    """CPU seconds of one run of the job; cells that do not fit are left to the next."""


class Recipe(Settings):
    """What to retrain and how. Built by a function in `jobs/recipes.py`."""

    name: str
    contract: LogContract
    windows: Windows = Windows()
    timeline: Timeline = Timeline()
    teacher: Training
    domain_student: Student
    vertical_student: Student
    teachers: dict[str, Literal["domain", "teacher"]] = {}
    """Whom a vertical student, named `<domain>-<vertical>`, learns from: its domain student, as all
    do that are left out, or straight from the teacher."""
    representation: Representation | None = None
    """What the teacher keeps of every impression that it scores; probabilities alone if left out.
    """
    user_vectors: UserVectors | None = None
    """Vectors of users from the teacher's upstream; none are made if left out."""
    gates: Gates = Gates()
    resources: Resources = Resources()
    maintenance: Maintenance = Maintenance()
    scaling_law: ScalingLaw = ScalingLaw()
    log_uri: str
    """Folder of the raw log."""

    @model_validator(mode="after")
    def _students_are_taught(self) -> Recipe:
        known = [f"{d}-{v}" for d, own in self.contract.domains.items() for v in own.verticals]
        if unknown := sorted(set(self.teachers) - set(known)):
            raise ValueError(
                f"teachers: keys are verticals, one of {known}; found {unknown}; correct the names"
            )
        for name in ("domain_student", "vertical_student"):
            terms = getattr(self, name).distillation.terms
            tasks = {task for term in terms for task in term.tasks}
            if unknown := sorted(tasks - set(self.contract.tasks)):
                raise ValueError(
                    f"{name}.distillation.terms: tasks are those of the contract, "
                    f"{list(self.contract.tasks)}; found {unknown}; correct the names"
                )
        return self

    @model_validator(mode="after")
    def _zipper_fits(self) -> Recipe:
        students = (self.domain_student, self.vertical_student)
        networks = [self.teacher.network, *(student.training.network for student in students)]
        if len({network.zipper for network in networks}) > 1:
            raise ValueError(
                "network.zipper: a family is judged on rows that none of its models has learnt, so "
                "all or none have it; found both; set it for teacher and students alike"
            )
        if not self.teacher.network.zipper:
            return self
        tasks = {name: self.contract.tasks[name] for name in self.contract.zipper_tasks}
        short = [name for name, task in tasks.items() if max(task.zipper_windows) != task.window]
        if short or not tasks:
            raise ValueError(
                "network.zipper: the longest of a task's zipper_windows is its window, which is "
                f"served; found {short or 'no task with zipper_windows'}; change the contract"
            )
        return self

    @model_validator(mode="after")
    def _keeps_what_is_read(self) -> Recipe:
        for name in ("domain_student", "vertical_student"):
            student: Student = getattr(self, name)
            kept = self.representation is not None
            read = [
                part for part in ("representation_history", "alignment") if getattr(student, part)
            ]
            if read and not kept:
                raise ValueError(
                    f"{name}.{read[0]}: it reads what the teacher keeps of impressions; found no "
                    "representation; set it, or leave this out"
                )
            if student.user_vector and self.user_vectors is None:
                raise ValueError(
                    f"{name}.user_vector: it reads vectors of users; found no user_vectors; set "
                    "them, or leave this out"
                )
        by, features = self.representation and self.representation.search_by, self.contract.features
        if by is not None and by not in features.categorical:
            raise ValueError(
                f"representation.search_by: one of {features.categorical}; found {by!r}; correct "
                "the name, or leave it out"
            )
        if self.user_vectors is None:
            return self
        if self.teacher.network.upstream is None:
            raise ValueError(
                "user_vectors: they come from teacher.network.upstream; found none; configure an "
                "upstream, or leave user_vectors out"
            )
        known = self.contract.timeline_event_types
        if unknown := sorted(set(self.user_vectors.high_value_events) - set(known)):
            raise ValueError(
                "user_vectors.high_value_events: event types that enter timelines, of "
                f"{sorted(known)}; found {unknown}; correct the names"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        for name in ("teacher", "domain_student", "vertical_student"):
            part = getattr(self, name)
            training: Training = part if isinstance(part, Training) else part.training
            if training.network.content and self.contract.content is None:
                raise ValueError(
                    f"{name}: network.content reads the vectors of contract.content; found none "
                    "declared; declare it or leave network.content out"
                )
            if training.network.chain:
                self._check_chain(name, training.network.chain)
            events = training.network.num_events
            if events is not None and events > self.timeline.num_events:
                raise ValueError(
                    f"{name}: network.num_events is at most timeline.num_events "
                    f"({self.timeline.num_events}); found {events}"
                )
        return self

    def _check_chain(self, name: str, chain: ChainConfig) -> None:
        contract, models = self.contract, [tuple(self.contract.tasks)]
        if name == "vertical_student":
            models = [
                tuple(contract.vertical_tasks(domain, vertical))
                for domain, own in contract.domains.items()
                for vertical in own.verticals
            ]
        for tasks in models:
            chain.check(tasks)
        windows = {task: contract.tasks[task].window for task in (chain.click, *chain.conversions)}
        if late := [task for task in chain.conversions if windows[task] < windows[chain.click]]:
            raise ValueError(
                f"{name}: network.chain needs the click known by when a conversion is; found "
                f"{late} with shorter windows than {chain.click!r}; lengthen them"
            )

    @property
    def family(self) -> str:
        """Name of the model family."""
        return self.contract.name

    @property
    def content_hash(self) -> str:
        """Hash of everything that may change a row or a weight, which how long things are kept and
        where they run may not."""
        values = self.model_dump(mode="json", include=set(Recipe.model_fields) - _NO_CONTENT)
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


_NO_CONTENT = {"resources", "maintenance", "scaling_law", "log_uri", "name"}


class Plan(Settings):
    """What the first task found out, so that no later task asks again."""

    day: date
    """The run's day D, in the contract's time zone."""
    first_day: date
    """First arrival day that this run (re)builds; the last is `day`."""
    bootstrap: bool
    """True on a root without a family."""
    champion: int | None
    """Row of `promotions` that holds the champion, the one the gates judge against."""
    parent: int | None
    """Row of `promotions` whose family is trained on. The champion, except on a repeat."""
    promotable: bool
    """Whether the gate window lies wholly after what the champion has learnt."""
    reason: str
    """Why the run may or may not promote, in one sentence."""
    trained_from: datetime | None
    """UTC: what the parent has learnt; training starts after it."""
    gate_start: datetime
    """UTC: training ends and the gate window starts here."""
    gate_end: datetime
    """UTC: end of day D."""


class RunContext(Settings):
    """Who runs."""

    run_id: str
    """Unique per DAG run, equal for its retries; names the run's folder."""
    dag_run_id: str
    code_hash: str
    """Hash of our source files."""
    config_hash: str
    """`Recipe.content_hash`."""
    mlflow_run: str
    """The MLflow run under which the run's models lie."""


class RunConfig(Recipe):
    """The frozen configuration of one run."""

    home: str
    """Root of all state (`LAPIDARY_HOME`)."""
    plan: Plan
    run: RunContext

    @property
    def run_folder(self) -> Path:
        """Folder of this run: configuration, summaries, checkpoints, report."""
        return Path(self.home) / "runs" / self.run.run_id

    def table(self, name: str) -> str:
        """Location of a Delta table."""
        return str(Path(self.home) / "tables" / self.contract.name / name)

    @property
    def days(self) -> list[date]:
        """Arrival days that this run (re)builds, in order."""
        return days_between(self.plan.first_day, self.plan.day)


def days_between(first: date, last: date) -> list[date]:
    """Every day from `first` to `last`, both included."""
    return [first + timedelta(days=i) for i in range((last - first).days + 1)]


def day_start(day: date, time_zone: str) -> datetime:
    """The UTC instant at which a day starts in a time zone."""
    local = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(time_zone))
    return local.astimezone(ZoneInfo("UTC"))


def day_of(moment: datetime, time_zone: str) -> date:
    """The day in which an instant lies in a time zone."""
    return moment.astimezone(ZoneInfo(time_zone)).date()


def lapidary_home() -> Path:
    """Root of all state: `LAPIDARY_HOME`, or `var/` in the repository."""
    return Path(os.environ.get("LAPIDARY_HOME") or REPOSITORY / "var").resolve()


def load_config(uri: str) -> RunConfig:
    """Read a run's frozen configuration.

    Raises:
        ConfigError: No such file, or it does not fit this version of the code.
    """
    path = Path(uri)
    if not path.is_file():
        raise ConfigError(f"--config: no file {uri}; run jobs.resolve_config first")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"--config: {uri} is not JSON: {error}; run jobs.resolve_config"
        ) from error
    return checked(RunConfig, raw, "config.json")


def with_overrides(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    """Change values of a recipe.

    A log of one's own needs no recipe of its own: `{"contract": "my_log.yaml", "log_uri": "/data"}`
    retrains on it with the recipe's settings.

    Args:
        recipe: The recipe.
        overrides: New values, nested or with dotted keys (`{"teacher.batch_size": 256}`). A text
            as `contract` is the path of a contract, which takes the place of the recipe's before
            any other override.

    Returns:
        The changed recipe.

    Raises:
        ConfigError: A key is unknown (the nearest name is suggested) or a value is wrong.
    """
    if not isinstance(overrides, dict):
        raise ConfigError(f"overrides: a JSON object of settings; found {overrides!r}")
    values = recipe.model_dump(mode="json")
    contract = overrides.get("contract")
    if isinstance(contract, str):
        values["contract"] = load_contract(Path(contract)).model_dump(mode="json")
        overrides = {key: value for key, value in overrides.items() if key != "contract"}
    _merge(values, overrides)
    return checked(Recipe, values, "overrides")


def _merge(values: dict[str, Any], overrides: dict[str, Any]) -> None:
    for key, value in overrides.items():
        head, _, rest = key.partition(".")
        if rest:
            _merge(values, {head: {rest: value}})
        elif isinstance(value, dict) and isinstance(values.get(head), dict):
            old = values[head]
            # Another kind has settings of its own: none of the old kind's may stay.
            if value.get("kind", old.get("kind")) != old.get("kind"):
                values[head] = old = {}
            _merge(old, value)
        else:
            values[head] = value


def parse_day(text: str, what: str) -> date:
    """Read a day.

    Raises:
        ConfigError: Not of the form YYYY-MM-DD.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{what}: a day is YYYY-MM-DD; found {text!r}") from None
