"""An erasure that was cut off is finished by the next; a day without other rows is dropped."""

import json
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from jobs import delta, erase_users
from jobs.erased import IMPRESSION, TABLE, USER, add_erased, read_erased
from jobs.erasure import Erasure
from jobs.errors import ConfigError
from jobs.spark.tables import write_days
from jobs.user_embeddings import ORDER
from jobs.user_embeddings import TABLE as EMBEDDINGS
from tests.jobs.samples import COMMIT, recipe
from tests.jobs.spark.frames import frame, utc

ONE, TWO = date(2024, 3, 1), date(2024, 3, 2)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Tables of a family without registered models."""
    monkeypatch.setattr(erase_users, "read_pins", lambda *_: {})
    return tmp_path / "a home" / "tables" / "shop"


@pytest.fixture
def erase(root):
    """Erase ann; what is told."""
    home = str(root.parent.parent)
    return lambda *users: erase_users.run(recipe(), home, list(users or ["ann"]))


@pytest.fixture
def shown(spark, root):
    """Impressions of two users, one of them alone on the second day, and their scores."""
    rows = [("i1", "ann", utc(1), ONE), ("i2", "bob", utc(1), ONE), ("i3", "ann", utc(2), TWO)]
    schema = "impression_id string, user_id string, event_ts timestamp, day date"
    uri = str(root / "impressions")
    write_days(frame(spark, schema, *rows), uri, days=[ONE, TWO], order=["event_ts"], commit=COMMIT)
    for day, ids in ((ONE, ["i1", "i2"]), (TWO, ["i3"])):
        at = pa.array([datetime(2024, 3, day.day, tzinfo=UTC)] * len(ids))
        scores = pa.table({"impression_id": ids, "event_ts": at})
        order = ["event_ts", "impression_id"]
        delta.write_arrow_day(str(root / "teacher_scores" / "t"), scores, day, order, COMMIT)


def ids(root, name):
    return delta.read_days(str(root / name))["impression_id"].to_pylist()


def stages(root):
    return delta.read_days(str(root / "erasures")).sort_by("at")["stage"].to_pylist()


def test_a_day_of_which_nothing_is_left_is_dropped(shown, root, erase):
    summary = erase()
    assert summary.rows == {"impressions": 2, "teacher_scores/t": 2}
    for name in ("impressions", "teacher_scores/t"):
        assert ids(root, name) == ["i2"]
        assert delta.partition_days(delta.open_table(str(root / name))) == [ONE]
        assert list(delta.live_commits(delta.open_table(str(root / name)))) == [ONE]


def test_vectors_of_users_go_too(root, erase):
    for day, users in ((ONE, ["ann", "bob"]), (TWO, ["ann"])):
        at = pa.array([datetime(2024, 3, day.day, tzinfo=UTC)] * len(users))
        vectors = pa.table({"user_id": users, "as_of": at, "vector": [b"\x01"] * len(users)})
        delta.write_arrow_day(str(root / EMBEDDINGS), vectors, day, ORDER, COMMIT)
    assert erase().rows == {EMBEDDINGS: 2}
    assert delta.read_days(str(root / EMBEDDINGS))["user_id"].to_pylist() == ["bob"]
    assert list(delta.live_commits(delta.open_table(str(root / EMBEDDINGS)))) == [ONE]


def test_old_versions_go_with_the_erasure(shown, root, erase):
    erase()
    with pytest.raises(FileNotFoundError):
        delta.read_days(str(root / "impressions"), version=1)


@pytest.mark.parametrize("step", ["rewrite", "delete_history", "prove"])
def test_an_erasure_that_was_cut_off_is_finished_by_the_next(shown, root, erase, monkeypatch, step):
    with monkeypatch.context() as crash:
        crash.setattr(Erasure, step, lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            erase()
    assert stages(root) == ["begun"]
    found = erase().details["proof"]
    assert stages(root) == ["begun", "begun", "proven"]
    assert ids(root, "teacher_scores/t") == ids(root, "impressions") == ["i2"]
    assert {table["files"] for table in found.values()} == {1}
    assert len(list((root / "teacher_scores" / "t").rglob("data/*/*/*.parquet"))) == 1


def test_rows_that_arrive_meanwhile_are_no_proof(shown, root, erase, monkeypatch):
    delete_history = Erasure.delete_history

    def late(self, people, *, include_pinned):
        done = delete_history(self, people, include_pinned=include_pinned)
        rows = pa.table({"impression_id": ["i1"], "event_ts": [datetime(2024, 3, 1, tzinfo=UTC)]})
        delta.write_arrow_day(str(root / "teacher_scores" / "t"), rows, ONE, ["event_ts"], COMMIT)
        return done

    with monkeypatch.context() as writer:
        writer.setattr(Erasure, "delete_history", late)
        with pytest.raises(delta.StaleSnapshot, match="teacher_scores/t: 1 rows of erased users"):
            erase()
    assert stages(root) == ["begun"]
    erase()
    assert stages(root)[-1] == "proven"


def test_a_crashed_writers_files_go_whether_they_can_be_read_or_not(shown, root, erase):
    (live,) = (root / "teacher_scores" / "t").glob("data/run=run/day=2024-03-02/*.parquet")
    for name, content in (("whole", live.read_bytes()), ("half", live.read_bytes()[:50])):
        folder = root / "teacher_scores" / "t" / "data" / f"run={name}"
        folder.mkdir()
        (folder / "x.parquet").write_bytes(content)
    assert erase().details["files_deleted"] == 4 + 2
    assert not list((root / "teacher_scores" / "t" / "data").glob("run=[wh]*"))


def test_without_a_user_nothing_is_done(root, erase):
    with pytest.raises(ConfigError, match="at least one user id"):
        erase(" ")
    assert not root.exists()


def test_a_user_who_has_no_rows_is_kept_out_all_the_same(shown, root, erase):
    summary = erase("zoe")
    assert summary.rows == {}
    assert ids(root, "impressions") == ["i1", "i2", "i3"]
    held = read_erased(str(root / TABLE))
    assert held is not None
    assert held.hash_of("zoe") in held.hashes[USER]


def test_ids_are_kept_as_salted_hashes_and_once(tmp_path):
    uri = str(tmp_path / TABLE)
    assert read_erased(uri) is None
    first = add_erased(uri, {USER: ["a", "b", "a"], IMPRESSION: []}, "run")
    again = add_erased(uri, {USER: ["b"], IMPRESSION: ["i"]}, "run")
    assert read_erased(uri) == again
    assert (len(again.hashes[USER]), len(again.hashes[IMPRESSION])) == (2, 1)
    assert first.hashes[USER] == again.hashes[USER]
    rows = delta.read_days(uri).to_pylist()
    assert len(rows) == 3
    assert not {"a", "b", "i"} & {value for row in rows for value in row.values()}
    other = add_erased(str(tmp_path / "other"), {USER: ["a"]}, "run")
    assert not other.hashes[USER] & again.hashes[USER]


def test_ids_are_read_a_line_each(tmp_path):
    (tmp_path / "ids.txt").write_text("ann\nbob\n")
    assert erase_users.read_ids(tmp_path / "ids.txt") == ["ann", "bob"]
    with pytest.raises(ConfigError, match=r"--users: no file .*none\.txt; give one"):
        erase_users.read_ids(tmp_path / "none.txt")


def test_the_ledger_of_erasures_keeps_no_id(shown, root, erase):
    erase()
    rows = delta.read_days(str(root / "erasures")).to_pylist()
    assert all("ann" not in str(row) for row in rows)
    told = {row["stage"]: json.loads(row["tables"])["impressions"] for row in rows}
    assert told["begun"] == {"rows": 2}
    assert told["proven"]["found"] == 0
