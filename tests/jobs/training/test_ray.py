"""Real Ray: how many workers there are, and whether they live, changes nothing but the time."""

import os
import re
import tempfile
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from jobs.config import Resources, RunConfig
from jobs.errors import ConfigError
from jobs.training import ray_loop, trainee
from jobs.training.checkpoints import load_checkpoint, read_card
from jobs.training.reader import Reader
from jobs.training.segments import Segment
from jobs.training.teacher import TeacherJob
from jobs.training.trainee import SegmentResult
from jobs.training_settings import Trial
from tests.jobs.training import dying, samples

MARK = "LAPIDARY_TEST_MARK"
SLOW = Trial(lr_dense=1e-3, lr_sparse=1e-2)


@dataclass(frozen=True)
class Trained:
    """What a training left."""

    config: RunConfig
    ends: list[tuple[Path, SegmentResult]]
    stderr: str = ""
    deaths: str = ""
    processes: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def world():
    return samples.world(2000)


def cut(reader: Reader) -> tuple[Segment, ...]:
    """A first segment of two rows, then two whose last batch is a single row."""

    def end_after(start, wanted):
        moments = np.unique(reader.packed.mature_us)
        for moment in moments:
            end = samples.moment(int(moment))
            if (start is None or end > start) and wanted(len(reader.rows(Segment(start, end))[0])):
                return end
        raise AssertionError

    first = end_after(None, lambda n: n == 2)
    second = end_after(first, lambda n: n > 600 and n % reader.batch_size == 1)
    third = end_after(second, lambda n: n > 900 and n % reader.batch_size == 1)
    return tuple(samples.segments(first, second, third))


def job(reader: Reader) -> TeacherJob:
    return TeacherJob("teacher", cut(reader), SLOW, None, checkpoint_steps=7)


def config_of(home: Path) -> RunConfig:
    return samples.config(
        home,
        teacher=samples.training(trials=(SLOW,)),
        resources=Resources(num_workers=2, max_failures=1),
    )


@contextmanager
def stderr_into(path: Path):
    """What any process writes to stderr, Ray's own included."""
    held = os.dup(2)
    with path.open("w") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(held, 2)
            os.close(held)


def marked(mark: str) -> tuple[str, ...]:
    """Command lines of processes that inherited a mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((folder / "cmdline").read_text().replace("\0", " ")[:80])
            except OSError:
                continue  # It has ended meanwhile.
    return tuple(found)


def left(mark: str) -> tuple[str, ...]:
    """Marked processes that have not ended a while after Ray was shut down."""
    for _ in range(100):
        if not marked(mark):
            break
        time.sleep(0.2)
    return marked(mark)


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    """One worker in this process."""
    home = tmp_path_factory.mktemp("alone")
    config = config_of(home)
    reader = samples.reader(config, world)
    segments, folders = job(reader).segments, []

    def keep(card, learner, _):
        folders.append(home / f"segment-{len(folders)}")
        trainee.save(folders[-1], card, learner)

    card, learner = job(reader).start(config, reader)
    _, results = trainee.train(card, learner, reader, segments, keep)
    return Trained(config, list(zip(folders, results, strict=True)))


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    """Two Ray workers."""
    home, made = tmp_path_factory.mktemp("undisturbed"), []
    config = config_of(home)
    reader = samples.reader(config, world)
    with pytest.MonkeyPatch.context() as patch:
        mark = uuid.uuid4().hex
        patch.setenv(MARK, mark)
        # A cluster that happens to be named there is not ours to use.
        patch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        create = tempfile.mkdtemp
        patch.setattr(tempfile, "mkdtemp", lambda *a: made.append(create(*a)) or made[-1])
        with stderr_into(home / "stderr"):
            ends = ray_loop.train_on_ray(config, job(reader))
    text = (home / "stderr").read_text()
    return Trained(config, ends, text, processes=left(mark), scratch=tuple(made))


@pytest.fixture(scope="module")
def disturbed(world, tmp_path_factory):
    """Two Ray workers of which one is killed, then one finds a fault; then the job runs again."""
    home = tmp_path_factory.mktemp("disturbed")
    config = config_of(home)
    reader = samples.reader(config, world)
    dying.plan(config.run_folder, die=[17], refuse=[44])
    with pytest.MonkeyPatch.context() as patch:
        mark = uuid.uuid4().hex
        patch.setenv(MARK, mark)
        patch.setattr(ray_loop, "worker", dying.worker)
        with pytest.raises(ConfigError, match="a planted fault"):
            ray_loop.train_on_ray(config, job(reader))
        after_failure = left(mark)
        deaths = (config.run_folder / "ray" / "teacher-deaths.txt").read_text(encoding="utf-8")
        ends = ray_loop.train_on_ray(config, job(reader))
    return Trained(config, ends, deaths=deaths, processes=after_failure + left(mark))


def assert_same(one: Trained, two: Trained) -> None:
    assert len(one.ends) == len(two.ends) == 3
    for (own, result), (other, expected) in zip(one.ends, two.ends, strict=True):
        assert result.ends == expected.ends
        np.testing.assert_allclose(result.sums, expected.sums, rtol=1e-5)
        a, b = load_checkpoint(own), load_checkpoint(other)
        for tensors, others in ((a.weights, b.weights), (a.averages, b.averages)):
            for name, tensor in tensors.items():
                np.testing.assert_allclose(tensor, others[name], atol=1e-5, rtol=0, err_msg=name)
        assert a.card.num_steps == b.card.num_steps
        assert a.card.trained_until == b.card.trained_until


def test_two_workers_equal_one(alone, undisturbed):
    steps = [read_card(folder).num_steps for folder, _ in alone.ends]
    assert steps[-1] >= 50
    assert_same(undisturbed, alone)


def test_a_killed_worker_resumes_and_nothing_shows(undisturbed, disturbed):
    assert_same(disturbed, undisturbed)


def test_every_group_of_workers_starts_after_a_checkpoint(disturbed):
    ends = [0, *(read_card(folder).num_steps for folder, _ in disturbed.ends)]
    saved = {step for one, two in pairwise(ends) for step in range(one, two, 7)}
    begin, second, third = dying.starts(disturbed.config.run_folder)
    assert begin == 0
    # The last checkpoint before a death may not have reached Ray's controller yet.
    assert second in saved & set(range(1, 18))
    assert third in saved & set(range(18, 45))


def test_as_many_failures_are_survived_as_were_allowed(disturbed):
    # One of the two was; the third group is that of the job run again.
    assert disturbed.config.resources.max_failures == 1
    assert len(dying.starts(disturbed.config.run_folder)) == 3


def test_workers_give_way_to_nothing(disturbed):
    assert dying.niceness(disturbed.config.run_folder) == {os.nice(0)}


def test_every_label_is_counted_once(disturbed, world):
    reader = samples.reader(config_of(Path(disturbed.config.home) / "again"), world)
    for (_, result), segment in zip(disturbed.ends, job(reader).segments, strict=True):
        _, mask = reader.rows(segment)
        assert result.num_labels == mask.sum(axis=0).tolist()


def test_checkpoints_follow_each_other(undisturbed):
    cards = [read_card(folder) for folder, _ in undisturbed.ends]
    assert [card.learnt_until for card in cards] == [result.ends for _, result in undisturbed.ends]
    assert all(one.learnt_until < two.learnt_until for one, two in pairwise(cards))
    assert all(card.progress == [] for card in cards)


@pytest.mark.parametrize("training", ["undisturbed", "disturbed"])
def test_only_the_ends_of_segments_are_kept(training, request):
    trained = request.getfixturevalue(training)
    storage = trained.config.run_folder / "ray" / "teacher"
    kept = sorted(path for path in storage.iterdir() if path.name.startswith("checkpoint_2"))
    assert kept == sorted(folder for folder, _ in trained.ends)


def test_no_process_is_left(undisturbed, disturbed):
    assert (undisturbed.processes, disturbed.processes) == ((), ())


def test_no_temporary_file_is_left(undisturbed):
    (scratch,) = [path for path in undisturbed.scratch if path.startswith("/tmp/lapidary-")]
    assert not Path(scratch).exists()


def test_what_killed_a_worker_is_kept(disturbed):
    killed, *_, refused = disturbed.deaths.splitlines()
    assert re.search(r" worker [01]: \w+Error: \S", killed), killed
    assert refused.endswith(" worker 1: ConfigError: rows: a planted fault; nothing to do")


def test_the_logs_of_a_failure_are_kept(disturbed):
    logs = disturbed.config.run_folder / "ray" / "teacher-logs"
    assert any(path.name.startswith("gcs_server") for path in logs.iterdir())


def test_ray_says_nothing(undisturbed):
    assert undisturbed.stderr == ""
