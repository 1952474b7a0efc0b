"""MLflow: one parent run per retrain, one child per model, registered versions that say why.

Jobs write to the store by its URI; no server is needed. Weights are logged as safetensors with
their card, never as pickled modules.
"""

from __future__ import annotations

import getpass
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.command import log
from jobs.config import Plan, Recipe
from jobs.errors import ConfigError
from jobs.training_settings import Training

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

    from jobs.config import RunConfig
    from jobs.promotions import Ledger
    from jobs.training.checkpoints import Card
    from jobs.training.inputs import Packed
    from jobs.training.trainee import SegmentResult

RUN_TAG = "lapidary.run_id"
MODEL_TAG = "lapidary.model"
WEIGHTS_TAG = "weights_hash"
READ_PARAM = "version_"
"""How a parameter begins that says which version of a table a run read."""
NOTE_TAG = "mlflow.note.content"
"""Where MLflow keeps the description that a page shows, in Markdown."""

_ABOUT = """Daily retrains of the family `{name}`.

A run of kind `retrain` is one day; its name says how it ended, its description why, and its
artifact `report/report.html` is the full report. Its children are the models that it trained. The
registered models carry the alias `champion` for the family that serves.
"""


class Run:
    """One MLflow run being written."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client = client
        self.id = run_id

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters."""
        from mlflow.entities import Param

        params = [Param(key, str(value)[:6000]) for key, value in values.items()]
        self.client.log_batch(self.id, params=params)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        self.client.log_batch(self.id, tags=[RunTag(key, value) for key, value in values.items()])

    def note(self, text: str) -> None:
        """Say in Markdown what the run's page is about."""
        self.tags({NOTE_TAG: text})

    def file(self, path: Path, folder: str) -> None:
        """Log a file."""
        self.client.log_artifact(self.id, str(path), folder)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log figures; undefined ones are left out."""
        self.curves({name: [(step, value)] for name, value in values.items()})

    def curves(self, values: Mapping[str, Sequence[tuple[int, float]]]) -> None:
        """Log figures over steps; undefined ones are left out."""
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [
            Metric(name, float(value), now, step)
            for name, line in values.items()
            for step, value in line
            if value is not None and math.isfinite(value)
        ]
        for low in range(0, len(points), 1000):
            self.client.log_batch(self.id, metrics=points[low : low + 1000])

    def figure(self, figure: Figure, name: str) -> None:
        """Log a plot."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            figure.savefig(path, dpi=120, bbox_inches="tight")
            self.client.log_artifact(self.id, str(path), "plots")

    def inputs(self, config: RunConfig, versions: Mapping[str, int | None]) -> None:
        """Log Delta tables as datasets, with their versions."""
        from mlflow.data.delta_dataset_source import DeltaDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag

        found = []
        for name, version in versions.items():
            if version is None:
                continue
            source = DeltaDatasetSource(path=config.table(name), delta_table_version=version)
            dataset = MetaDataset(source, name=name, digest=f"v{version}")
            tag = InputTag("mlflow.data.context", "training")
            found.append(DatasetInput(dataset._to_mlflow_entity(), tags=[tag]))
        self.client.log_inputs(self.id, found)
        # MLflow drops a version 0 from a source.
        self.params({f"{READ_PARAM}{name}": version for name, version in versions.items()})


def start_parent(
    recipe: Recipe, home: str, run_id: str, plan: Plan, hashes: Mapping[str, str]
) -> str:
    """Find or make the parent run of a retrain.

    Returns:
        Its MLflow run id.
    """
    client = _client(recipe, home)
    experiment = _experiment(client, recipe, home)
    found = client.search_runs(
        [experiment], f"tags.`{RUN_TAG}` = '{run_id}' AND tags.kind = 'retrain'"
    )
    if found:
        return found[0].info.run_id
    tags = {
        RUN_TAG: run_id,
        "kind": "retrain",
        "day": plan.day.isoformat(),
        "recipe": recipe.name,
        "plan": plan.reason,
        **_origin("resolve_config"),
        **hashes,
    }
    run = client.create_run(experiment, run_name=f"{plan.day} running", tags=tags)
    Run(client, run.info.run_id).params(
        {
            "day": plan.day,
            "recipe": recipe.name,
            "bootstrap": plan.bootstrap,
            "parent_promotion": plan.parent,
            "champion_promotion": plan.champion,
            "gate_start": plan.gate_start,
            "gate_end": plan.gate_end,
            **hashes,
        }
    )
    return run.info.run_id


def parent_run(config: RunConfig) -> Run:
    """The run of this retrain."""
    return Run(_client(config, config.home), config.run.mlflow_run)


@contextmanager
def child_run(config: RunConfig, name: str, kind: str, below: Run | None = None) -> Iterator[Run]:
    """A fresh run for a model, in place of one that an earlier try left.

    Args:
        config: The run's configuration.
        name: Of the model.
        kind: `teacher`, `domain` or `vertical`, or one of the latter two with `_twin`.
        below: The run that it belongs to; the retrain's if None.
    """
    client = _client(config, config.home)
    experiment = _experiment(client, config, config.home)
    job = "train_teacher" if kind == "teacher" else f"train_{kind.removesuffix('_twin')}_student"
    for earlier in _children(client, experiment, config, name):
        _replace(client, earlier)
    tags = {
        "mlflow.parentRunId": config.run.mlflow_run if below is None else below.id,
        RUN_TAG: config.run.run_id,
        MODEL_TAG: name,
        "kind": kind,
        "day": config.plan.day.isoformat(),
        **_origin(job),
    }
    run = client.create_run(experiment, run_name=name, tags=tags)
    try:
        yield Run(client, run.info.run_id)
    except BaseException:
        client.set_terminated(run.info.run_id, "FAILED")
        raise
    client.set_terminated(run.info.run_id, "FINISHED")


@contextmanager
def research_run(recipe: Recipe, home: str, name: str, job: str, about: str) -> Iterator[Run]:
    """A fresh run of a job that belongs to no retrain, in place of an earlier one of this name.

    Args:
        recipe: Says where the store is.
        home: Root of all state.
        name: Name of the run.
        job: The job, which names the experiment.
        about: What the experiment is, in Markdown.
    """
    client = _client(recipe, home)
    experiment = _experiment(client, recipe, home, job, about)
    for earlier in client.search_runs([experiment], f"tags.`{MODEL_TAG}` = '{name}'"):
        client.delete_run(earlier.info.run_id)
    tags = {MODEL_TAG: name, "kind": "research", **_origin(job)}
    run = client.create_run(experiment, run_name=name, tags=tags)
    try:
        yield Run(client, run.info.run_id)
    except BaseException:
        client.set_terminated(run.info.run_id, "FAILED")
        raise
    client.set_terminated(run.info.run_id, "FINISHED")


def find_child(config: RunConfig, name: str) -> Run:
    """The run of a model in this retrain.

    Raises:
        ConfigError: The model has not been trained in it.
    """
    client = _client(config, config.home)
    found = _children(client, _experiment(client, config, config.home), config, name)
    if not found:
        raise ConfigError(
            f"{name}: no MLflow run of it below {config.run.mlflow_run}; run its training job first"
        )
    return Run(client, found[0])


def log_training(
    run: Run,
    config: RunConfig,
    card: Card,
    training: Training,
    packed: Packed,
    segments: Sequence[SegmentResult],
) -> None:
    """Log what a model is, what it read, and how its predictions fared before each update."""
    from model.ranker import flops, num_parameters

    ranker = card.ranker_config
    earlier = ranker.representation_history
    longest = earlier.max_length if earlier else 0
    sizes = asdict(card)
    run.params(
        {
            **_flat({"network": training.network.model_dump()}),
            **{f"trial.{k}": v for k, v in card.trial.items()},
            "batch_size": training.batch_size,
            "precision": training.precision,
            "seed": training.seed,
            "num_parameters": num_parameters(ranker),
            "flops_per_row": flops(
                ranker, _mean_events(packed, ranker), num_representations=longest
            ),
            "vocabulary_version": sizes["vocabulary_version"],
            "trained_until": card.trained_until,
            "parent": card.parent,
            "config_hash": config.run.config_hash,
            "code_hash": config.run.code_hash,
        }
    )
    run.inputs(config, packed.inputs)
    curves: dict[str, list[tuple[int, float]]] = {}
    for index, result in enumerate(segments):
        for kind, values in (("ne", result.ne), ("calibration", result.calibration)):
            for task, value in zip(ranker.tasks, values, strict=True):
                curves.setdefault(f"before_update/{kind}_{task}", []).append((index, value))
        for name, value in (
            ("before_update/next_event_loss", result.next_event_loss),
            ("examples_per_second", result.rows_per_second),
        ):
            curves.setdefault(name, []).append((index, value))
    run.curves(curves)


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": inner for name, inner in _flat(value).items()}
        else:
            flat[key] = value
    return flat


def register(
    run: Run, name: str, folder: Path, stage: str, tags: Mapping[str, str]
) -> tuple[str, str]:
    """Log a checkpoint under its model's run and register it as a version.

    A version with the same weights is not registered again.

    Args:
        run: The model's run.
        name: Registered model name.
        folder: The checkpoint.
        stage: `judged` or `final`.
        tags: Tags of the version.

    Returns:
        The version and the location of its files.
    """
    from mlflow.exceptions import MlflowException

    from jobs.training.checkpoints import weights_hash

    client = run.client
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    digest = weights_hash(folder)
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get(WEIGHTS_TAG) == digest and version.tags.get("stage") == stage:
            return str(version.version), _local(str(version.source))
    client.log_artifacts(run.id, str(folder), stage)
    source = f"{client.get_run(run.id).info.artifact_uri}/{stage}"
    version = client.create_model_version(
        name, source, run.id, tags={**tags, WEIGHTS_TAG: digest, "stage": stage}
    )
    log.info("%s: registered version %s (%s)", name, version.version, stage)
    return str(version.version), _local(source)


def tag_version(config: RunConfig, name: str, version: str, tags: Mapping[str, str]) -> None:
    """Say something of a registered version."""
    client = _client(config, config.home)
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)


def project_aliases(recipe: Recipe, home: str, ledger: Ledger) -> None:
    """Make the aliases `champion` and `previous` say what the ledger of promotions says."""
    champion = ledger.champion
    if champion is None:
        return
    client = _client(recipe, home)
    before = None if champion.previous is None else ledger.row(champion.previous)
    wanted = {"champion": champion.members, "previous": before.members if before else {}}
    for name in sorted({name for row in ledger.rows for name in row.members}):
        held = client.get_registered_model(name).aliases
        for alias, members in wanted.items():
            if name in members and str(held.get(alias)) != members[name].version:
                client.set_registered_model_alias(name, alias, members[name].version)
            elif name not in members and alias in held:
                client.delete_registered_model_alias(name, alias)


def describe_model(
    config: RunConfig, name: str, about: str, note: str, versions: Sequence[str]
) -> None:
    """Say on a model's pages what it is.

    Args:
        config: The run's configuration.
        name: Registered model name.
        about: What the model is, whatever its version.
        note: How this run's versions fared.
        versions: Those versions.
    """
    run = find_child(config, name)
    run.note(note)
    run.client.update_registered_model(name, about)
    for version in versions:
        run.client.update_model_version(name, version, note)


def set_challenger(run: Run, name: str, version: str) -> None:
    """Point the alias `challenger` at a version."""
    run.client.set_registered_model_alias(name, "challenger", version)


def close_parent(config: RunConfig, name: str, status: str) -> None:
    """End the retrain's run, under a name that says how it ended."""
    run = parent_run(config)
    run.client.update_run(run.id, name=name)
    run.client.set_terminated(run.id, status)


def _origin(job: str) -> dict[str, str]:
    """Tags from which MLflow's lists say who made a run, and by which command."""
    return {
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": f"jobs.{job}",
        "mlflow.source.type": "JOB",
    }


def _children(client: MlflowClient, experiment: str, config: RunConfig, name: str) -> list[str]:
    query = f"tags.`{RUN_TAG}` = '{config.run.run_id}' AND tags.`{MODEL_TAG}` = '{name}'"
    return [run.info.run_id for run in client.search_runs([experiment], query)]


def _replace(client: MlflowClient, run_id: str) -> None:
    """Delete a run, or set it aside if a registered version's files lie in it.

    The files of a deleted run are gone after `mlflow gc`, and with them a version that may serve.
    """
    if client.search_model_versions(f"run_id = '{run_id}'"):
        client.delete_tag(run_id, MODEL_TAG)
        client.set_tag(run_id, "replaced", "true")
    else:
        client.delete_run(run_id)


def registry(recipe: Recipe, home: str) -> MlflowClient | None:
    """The store, for whoever reads it outside of a retrain; None where no retrain has made one."""
    if recipe.resources.mlflow_uri is None and not (Path(home) / "mlflow" / "mlflow.db").is_file():
        return None
    return _client(recipe, home)


def _client(recipe: Recipe, home: str) -> MlflowClient:
    import logging

    # The store's schema migrations report every step at level INFO.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    uri = recipe.resources.mlflow_uri
    if uri is None:
        (Path(home) / "mlflow").mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{home}/mlflow/mlflow.db"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _experiment(
    client: MlflowClient,
    recipe: Recipe,
    home: str,
    name: str | None = None,
    about: str = _ABOUT,
) -> str:
    """Find or make an experiment; that of the recipe's family if no name is given."""
    from mlflow.exceptions import MlflowException

    name = name or recipe.contract.name
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    location = None
    if recipe.resources.mlflow_uri is None:
        location = f"{home}/mlflow/artifacts/{name}"
    note = {NOTE_TAG: about.format(name=name)}
    try:
        return client.create_experiment(name, artifact_location=location, tags=note)
    except MlflowException:
        # Another job made it first.
        again = client.get_experiment_by_name(name)
        if again is None:
            raise
        return again.experiment_id


def _local(uri: str) -> str:
    return uri.removeprefix("file://")


def _mean_events(packed: Packed, ranker: Any) -> float:
    if ranker.history is None:
        return 0.0
    return float(packed.history_end.clip(max=ranker.history.max_events).mean())
