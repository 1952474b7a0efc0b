"""One thread, as every training worker has, and one family that several files look at."""

import shutil

import pytest
import torch

from jobs import tracking
from jobs.config import day_of
from jobs.representation_settings import (
    Alignment,
    Representation,
    RepresentationReading,
    UserVectorReading,
    UserVectors,
)
from jobs.training_settings import LongSequence, Student
from tests.jobs.training import family as jobs
from tests.jobs.training import samples

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _one_thread():
    """Jobs that run here set the number of threads of their own process."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory):
    """An empty store: to make one takes longer than to train a family in it."""
    home = tmp_path_factory.mktemp("store")
    tracking._client(samples.config(home), str(home))
    return home / "mlflow"


@pytest.fixture(scope="session")
def first_run(tmp_path_factory, mlflow_store):
    """(config, summaries, records) of a first run, trained, absorbed and promoted."""
    home = tmp_path_factory.mktemp("family")
    shutil.copytree(mlflow_store, home / "mlflow")
    (gate_start, gate_end) = samples.days(2.5, 3)
    plan = samples.plan(
        day=day_of(gate_start, samples.ZONE), gate_start=gate_start, gate_end=gate_end
    )
    config, rows = jobs.resolve(home, "run-1", plan), samples.world(1200)
    jobs.pack(config, rows, rows.vocabulary(version=0))
    summaries = jobs.train(config)
    records = jobs.absorb(config)
    summaries.append(jobs.promote(config))
    return config, {s.part or s.job: s for s in summaries}, records


@pytest.fixture(scope="session")
def next_run(first_run):
    """(config, summaries, records) of the next day's run.

    It goes on from the first run's family and admits new values.
    """
    config, *_ = first_run
    plan = samples.plan(
        bootstrap=False, champion=1, parent=1, trained_from=config.plan.gate_end, reason="It may."
    )
    config, rows = jobs.resolve(config.home, "run-2", plan), samples.world(1200)
    jobs.pack(config, rows, rows.vocabulary(version=1, share=1.0))
    summaries = jobs.train(config)
    records = jobs.absorb(config)
    summaries.append(jobs.promote(config))
    return config, {s.part or s.job: s for s in summaries}, records


@pytest.fixture(scope="session")
def told(tmp_path_factory, mlflow_store):
    """(config, summaries, records) of a family whose students read all that a teacher can keep."""
    home = tmp_path_factory.mktemp("told")
    shutil.copytree(mlflow_store, home / "mlflow")
    gate_start, gate_end = samples.days(2.5, 3)
    plan = samples.plan(
        day=day_of(gate_start, samples.ZONE), gate_start=gate_start, gate_end=gate_end
    )
    student = Student(
        training=samples.training(),
        representation_history=RepresentationReading(length=4, pooling="din", hidden=(4,)),
        alignment=Alignment(weight=0.3),
        user_vector=UserVectorReading(),
    )
    upstream = LongSequence(num_stages=1, ffn_hidden=8, num_summary_tokens=1)
    config = jobs.resolve(
        home,
        "run-1",
        plan,
        teacher=samples.training(network=samples.network(upstream=upstream)),
        domain_student=student,
        vertical_student=student,
        representation=Representation(
            prefixes=(2, 4), hidden=(8,), steps=60, warm_steps=10, batch_size=32
        ),
        user_vectors=UserVectors(high_value_events=("click",)),
    )
    rows = samples.world(400)
    jobs.pack(config, rows, rows.vocabulary(version=0))
    summaries = {s.part or s.job: s for s in jobs.train(config)}
    torch.set_num_threads(1)
    records = jobs.absorb(config)
    jobs.promote(config)
    return config, summaries, records
