"""What MLflow is told: one run per retrain, one per model, and aliases that follow the ledger."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from jobs import tracking
from jobs.errors import ConfigError
from jobs.learners import learners, mark_stale, reaches, stale_notes
from jobs.promotions import Ledger, Member, Promotion
from jobs.trained import Trained, tag_trained, trained_versions
from jobs.training import trainee
from jobs.training.checkpoints import load_model
from tests.jobs.training import samples

HASHES = {"config_hash": "c", "code_hash": "s"}
(FIRST,) = samples.segments(*samples.days(1.5))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One store for all tests, because it takes seconds to make; every test has runs of its own."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def config(home, request):
    """A retrain of its own, with its parent run."""
    plain = samples.config(home)
    run_id = f"{request.node.name}-12345678"
    mlflow_run = tracking.start_parent(plain, str(home), run_id, plain.plan, HASHES)
    return samples.config(home, run=samples.run_context(run_id=run_id, mlflow_run=mlflow_run))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(card, learner, packed, results, folder) of a teacher after its first segment."""
    config = samples.config(tmp_path_factory.mktemp("trained"))
    reader = samples.reader(config, samples.world(200))
    card, learner = samples.teacher(config, reader, [FIRST])
    card, results = trainee.train(card, learner, reader, [FIRST])
    folder = Path(config.home) / "model"
    trainee.save(folder, card, learner)
    return card, learner, reader.packed, results, folder


@pytest.fixture
def client(config):
    return tracking.parent_run(config).client


@pytest.fixture
def name(request):
    return request.node.name


def other_weights(trained, folder):
    """The same model with one weight changed."""
    card, learner, *_ = trained
    with torch.no_grad():
        next(learner.model.parameters()).add_(1.0)
    trainee.save(folder, card, learner)
    return folder


def test_a_retrain_has_one_run_however_often_it_is_resolved(config):
    again = tracking.start_parent(config, config.home, config.run.run_id, config.plan, HASHES)
    assert again == config.run.mlflow_run


def test_the_run_of_a_retrain_says_what_it_is(config, client):
    run = client.get_run(config.run.mlflow_run)
    assert run.data.params["day"] == "2026-03-04"
    assert run.data.params["code_hash"] == "s"
    assert run.data.tags["plan"] == config.plan.reason


def test_a_model_has_a_run_below_its_retrain(config, client, name):
    with tracking.child_run(config, name, "teacher") as run:
        run.params({"x": 1})
    child = client.get_run(run.id)
    assert child.data.tags["mlflow.parentRunId"] == config.run.mlflow_run
    assert child.info.status == "FINISHED"
    assert tracking.find_child(config, name).id == run.id


def test_a_job_that_fails_leaves_a_failed_run(config, client, name):
    with pytest.raises(KeyError), tracking.child_run(config, name, "teacher") as run:
        raise KeyError
    assert client.get_run(run.id).info.status == "FAILED"


def test_a_job_run_again_replaces_its_run(config, client, name):
    with tracking.child_run(config, name, "teacher") as first:
        first.params({"x": 1})
    with tracking.child_run(config, name, "teacher") as second:
        second.params({"x": 2})
    assert tracking.find_child(config, name).id == second.id
    assert client.get_run(first.id).info.lifecycle_stage == "deleted"


def test_a_replaced_run_that_holds_a_version_keeps_its_files(config, client, name, trained):
    with tracking.child_run(config, name, "teacher") as first:
        version, uri = tracking.register(first, name, trained[-1], "judged", {})
    with tracking.child_run(config, name, "teacher") as second:
        again, same = tracking.register(second, name, trained[-1], "judged", {})
    assert (again, same) == (version, uri)
    # `mlflow gc` takes away the files of deleted runs.
    assert client.get_run(first.id).info.lifecycle_stage == "active"
    assert tracking.find_child(config, name).id == second.id
    load_model(Path(uri))


def test_a_model_that_was_not_trained_is_missed(config):
    with pytest.raises(ConfigError, match=r"nobody: no MLflow run of it .* run its training job"):
        tracking.find_child(config, "nobody")


def test_equal_weights_are_registered_once_and_others_anew(config, name, trained, tmp_path):
    with tracking.child_run(config, name, "teacher") as run:
        first, _ = tracking.register(run, name, trained[-1], "judged", {"a": "b"})
        again, _ = tracking.register(run, name, trained[-1], "judged", {})
        final, _ = tracking.register(run, name, trained[-1], "final", {})
        other, uri = tracking.register(
            run, name, other_weights(trained, tmp_path / "other"), "other", {}
        )
    assert again == first
    assert len({first, final, other}) == 3
    held = load_model(Path(uri)).state_dict()
    expected = load_model(tmp_path / "other").state_dict()
    assert all(torch.equal(held[key], expected[key]) for key in expected)


def test_what_is_logged_is_safetensors_and_json(config, client, name, trained):
    card, learner, packed, results, folder = trained
    with tracking.child_run(config, name, "teacher") as run:
        tracking.log_training(run, config, card, config.teacher, packed, results)
        trainee.save(folder / "twin", card, learner)
        tracking.register(run, name, folder, "judged", {})

    def files(path):
        for item in client.list_artifacts(run.id, path):
            yield from files(item.path) if item.is_dir else [item.path]

    logged = set(files(None))
    names = ["averages.safetensors", "card.json", "manifest.json"]
    names += ["model.safetensors", "optimizer.safetensors"]
    assert logged == {f"judged/{part}{n}" for n in names for part in ("", "twin/")}


def test_a_model_says_what_it_is_and_what_it_read(config, client, name, trained):
    card, _, packed, results, _ = trained
    with tracking.child_run(config, name, "teacher") as run:
        tracking.log_training(run, config, card, config.teacher, packed, results)
    data = client.get_run(run.id).data
    assert data.params["network.width"] == "8"
    assert data.params["network.interaction.kind"] == "wukong"
    assert data.params["network.interaction.rank"] == "2"
    assert data.params["trial.lr_dense"] == "0.01"
    assert data.params["trained_until"] == card.trained_until
    (point,) = client.get_metric_history(run.id, "before_update/ne_click")
    assert (point.step, point.value) == (0, pytest.approx(results[0].ne[0]))
    assert data.params["precision"] == "float32"
    (speed,) = client.get_metric_history(run.id, "examples_per_second")
    assert speed.value == pytest.approx(results[0].num_rows / results[0].seconds)
    assert results[0].num_rows > 0


def test_tables_are_logged_with_their_versions_the_first_included(config, client, name):
    with tracking.child_run(config, name, "teacher") as run:
        run.inputs(config, {"examples": 7, "vocabulary": 0, "none": None})
    logged = client.get_run(run.id)
    found = {i.dataset.name: i.dataset for i in logged.inputs.dataset_inputs}
    assert {n: d.digest for n, d in found.items()} == {"examples": "v7", "vocabulary": "v0"}
    assert '"delta_table_version": 7' in found["examples"].source
    assert config.table("examples") in found["examples"].source
    params = logged.data.params
    assert (params["version_examples"], params["version_vocabulary"]) == ("7", "0")


def test_undefined_figures_are_left_out(config, client, name):
    with tracking.child_run(config, name, "teacher") as run:
        run.metrics({"good": 0.5, "nan": math.nan, "infinite": math.inf})
    assert client.get_run(run.id).data.metrics == {"good": 0.5}


def promotion(number, versions, previous):
    return Promotion(
        number=number,
        action="promote",
        day="2026-03-04",
        trained_until=datetime.now(UTC),
        members={n: Member(v, v, "file:///nowhere") for n, v in versions.items()},
        previous=previous,
        run_id="run",
        reason="",
        who="me",
        at=datetime.now(UTC),
        config_hash="c",
        code_hash="s",
    )


@pytest.fixture
def family(config, client, name):
    """Names of two models with four versions each."""
    names = [f"{name}-a", f"{name}-b"]
    with tracking.child_run(config, name, "teacher") as run:
        for model in names:
            client.create_registered_model(model)
            for _ in range(4):
                client.create_model_version(model, "file:///nowhere", run.id)
    return names


def aliases(client, names):
    return [{a: int(v) for a, v in client.get_registered_model(n).aliases.items()} for n in names]


def project(config, *rows):
    tracking.project_aliases(config, config.home, Ledger("", None, rows))


def test_aliases_say_what_the_ledger_says(config, client, family):
    a, b = family
    project(config)
    assert aliases(client, family) == [{}, {}]
    first = promotion(1, {a: "1", b: "2"}, None)
    project(config, first)
    assert aliases(client, family) == [{"champion": 1}, {"champion": 2}]
    project(config, first, promotion(2, {a: "3", b: "4"}, 1))
    assert aliases(client, family) == [
        {"champion": 3, "previous": 1},
        {"champion": 4, "previous": 2},
    ]


def test_an_alias_that_someone_moved_is_repaired(config, client, family):
    a, b = family
    row = promotion(1, {a: "1", b: "1"}, None)
    project(config, row)
    client.set_registered_model_alias(a, "champion", "3")
    client.delete_registered_model_alias(b, "champion")
    client.set_registered_model_alias(b, "previous", "4")
    project(config, row)
    assert aliases(client, family) == [{"champion": 1}, {"champion": 1}]


def test_after_a_rollback_nothing_is_called_previous_that_is_not(config, client, family):
    a, b = family
    rows = [promotion(1, {a: "1", b: "1"}, None), promotion(2, {a: "2", b: "2"}, 1)]
    project(config, *rows)
    project(config, *rows, replace(rows[0], number=3, action="rollback"))
    assert aliases(client, family) == [{"champion": 1}, {"champion": 1}]


def test_a_model_that_left_the_family_is_no_champion(config, client, family):
    a, b = family
    rows = [promotion(1, {a: "1", b: "1"}, None), promotion(2, {a: "2"}, 1)]
    project(config, rows[0])
    project(config, *rows)
    assert aliases(client, family) == [{"champion": 2, "previous": 1}, {"previous": 1}]


def test_the_challenger_is_the_newest_version(config, client, family, name):
    run = tracking.find_child(config, name)
    tracking.set_challenger(run, family[0], "2")
    tracking.set_challenger(run, family[0], "3")
    assert aliases(client, family)[0] == {"challenger": 3}


@pytest.fixture
def apart(home, name):
    """A retrain of a family of its own."""
    plain = samples.config(home)
    contract = plain.contract.model_copy(update={"name": name})
    family = plain.model_copy(update={"contract": contract})
    mlflow_run = tracking.start_parent(family, str(home), name, family.plan, HASHES)
    run = samples.run_context(run_id=name, mlflow_run=mlflow_run)
    return family.model_copy(update={"run": run})


def test_registered_versions_say_which_table_versions_they_were_trained_on(apart, name, trained):
    with tracking.child_run(apart, name, "teacher") as run:
        run.inputs(apart, {"examples": 7, "vocabulary": 0, "none": None})
        run.inputs(apart, {"teacher_scores/x": 3})
        version, _ = tracking.register(run, name, trained[-1], "judged", {})
    (found,) = trained_versions(apart, apart.home)
    inputs = {"examples": 7, "vocabulary": 0, "teacher_scores/x": 3}
    assert found == Trained(name, version, inputs)
    tag_trained(apart, apart.home, found, {"note": "x"})
    assert run.client.get_model_version(name, version).tags["note"] == "x"


def test_a_registered_version_that_does_not_say_what_it_read_is_refused(apart, name):
    with tracking.child_run(apart, name, "teacher") as run:
        run.client.create_registered_model(name)
        run.client.create_model_version(name, "file:///nowhere", run.id)
    with pytest.raises(ConfigError, match=f"{name} version 1: its run {run.id} does not say which"):
        trained_versions(apart, apart.home)


def test_versions_say_what_they_have_learnt_and_are_tagged_when_it_has_changed(config, client):
    until = "2026-03-03 16:00:00+00:00"
    for name, tags in (
        ("tiny-teacher", {"trained_from": "None", "trained_until": until, "stage": "judged"}),
        ("tiny-teacher", {"trained_from": until, "trained_until": "2026-03-04 16:00:00+00:00"}),
        ("tiny-blue-feed", {"trained_until": until}),
        ("tiny-red", {}),  # does not say
        ("other-teacher", {"trained_until": until}),
    ):
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        client.create_model_version(name, "/models", tags=tags)
    change = {"day": FIRST.end.date(), "stale": [{"name": "tiny-teacher", "version": "2"}]}
    change["stale"][0]["num_labels"] = 3
    mark_stale(config, config.home, stale_notes([change, {"stale": None}, change]))
    moments = [datetime(2026, 3, day, 16, tzinfo=UTC) for day in (1, 3, 4)]
    found = learners(config, config.home)
    assert [(one.name, one.version, [one.learnt(at) for at in moments]) for one in found] == [
        ("tiny-blue-feed", "1", [True, True, False]),
        ("tiny-teacher", "1", [True, True, False]),
        ("tiny-teacher", "2", [False, False, True]),
    ]
    day = FIRST.end.date().isoformat()
    assert [one.stale for one in found] == [
        None,
        None,
        f"6 labels since changed, of impressions of {day}",
    ]


def test_without_a_store_nobody_has_learnt_anything(tmp_path):
    assert learners(samples.config(tmp_path), str(tmp_path)) == []


def test_a_student_is_taught_its_own_surfaces_and_tasks(config):
    found = reaches(config)
    assert found["tiny-teacher"].surfaces == set(samples.SURFACES)
    assert found["tiny-blue"].surfaces == {"blue_feed", "blue_video"}
    assert found["tiny-blue-video"].surfaces == {"blue_video"}
    assert found["tiny-red"].tasks == {"click", "buy"}
