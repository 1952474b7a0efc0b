"""A value keeps its row for ever, and rows are handed out once."""

import threading

import pyarrow as pa
import pytest

from jobs import vocabulary
from jobs.delta import StaleSnapshot, open_table, read_days
from jobs.vocabulary import Vocabulary, admit, fields, forget, read_vocabulary
from tests.jobs.samples import contract

LOG = contract(features__vocabulary_by_field={"surface": {"min_count": 1}})
EVICTING = contract(features__vocabulary={"min_count": 2, "evict_after_days": 3})


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "vocabulary")


def admitted(uri, *candidates, run="run"):
    done = admit(uri, candidates, LOG, run)
    assert done.evicted == 0
    return done.version, done.admitted


def lately(uri, values, *candidates, log=EVICTING):
    """Admit where some ads alone were seen lately."""
    return admit(uri, [("ad_id", *c) for c in candidates], log, "run", {"ad_id": set(values)})


def held(uri, version=None):
    read = read_vocabulary(uri, version)
    return {field: values.to_pylist() for field, values in read.values.items()}


def test_every_table_a_model_reads_is_a_field():
    assert fields(LOG) == ["user_id", "ad_id", "surface", "hour", "event_type"]


def test_before_the_first_admission_every_value_is_out_of_vocabulary(uri):
    empty = read_vocabulary(uri)
    assert empty.version is None
    assert empty.num_rows("ad_id") == 1
    assert empty.rows("ad_id", pa.array(["a", None])).tolist() == [0, 0]


def test_values_are_admitted_from_their_threshold_on_frequent_ones_first(uri):
    candidates = [("ad_id", "c", 2), ("ad_id", "b", 2), ("ad_id", "a", 1), ("ad_id", "z", 9)]
    assert admitted(uri, *candidates, ("surface", "feed", 1)) == (0, 4)
    assert held(uri) == {"ad_id": ["z", "b", "c"], "surface": ["feed"]}


def test_rows_stay_for_ever_whatever_later_days_bring(uri):
    admitted(uri, ("ad_id", "b", 5), ("ad_id", "c", 4))
    version, number = admitted(uri, ("ad_id", "a", 99), ("ad_id", "c", 50), ("user_id", "u", 2))
    assert (version, number) == (1, 2)
    assert held(uri) == {"ad_id": ["b", "c", "a"], "user_id": ["u"]}
    assert held(uri, version=0) == {"ad_id": ["b", "c"]}


@pytest.mark.parametrize("again", [[("ad_id", "b", 7)], [("ad_id", "x", 1)], []])
def test_a_repeat_admits_nothing_and_commits_nothing(uri, again):
    admitted(uri, ("ad_id", "b", 5))
    assert admitted(uri, *again) == (0, 0)
    table = open_table(uri)
    assert table is not None
    assert table.version() == 0


def test_of_two_runs_that_admit_at_once_the_second_fails(uri, monkeypatch):
    admitted(uri, ("ad_id", "a", 5))

    def overtaken(location, version=None):
        read = read_vocabulary(location, version)
        monkeypatch.setattr(vocabulary, "read_vocabulary", read_vocabulary)
        admitted(location, ("ad_id", "b", 5), run="first")
        return read

    monkeypatch.setattr(vocabulary, "read_vocabulary", overtaken)
    with pytest.raises(StaleSnapshot, match="another writer committed 2 first"):
        admitted(uri, ("ad_id", "c", 5), run="second")
    assert held(uri) == {"ad_id": ["a", "b"]}
    assert admitted(uri, ("ad_id", "c", 5), run="second") == (2, 1)
    assert held(uri) == {"ad_id": ["a", "b", "c"]}


def test_of_two_first_admissions_one_fails(uri, monkeypatch):
    def overtaken(location, version=None):
        monkeypatch.setattr(vocabulary, "read_vocabulary", read_vocabulary)
        admitted(location, ("ad_id", "b", 5), run="first")
        return Vocabulary(None, {})

    monkeypatch.setattr(vocabulary, "read_vocabulary", overtaken)
    with pytest.raises(StaleSnapshot, match="another writer committed 1 first"):
        admitted(uri, ("ad_id", "c", 5), run="second")
    assert held(uri) == {"ad_id": ["b"]}


@pytest.mark.parametrize("chunks", [[["b", None, "a", "new", ""]], [["b", None], ["a", "new", ""]]])
def test_values_become_their_rows_missing_and_unknown_ones_row_0(uri, chunks):
    admitted(uri, ("ad_id", "a", 3), ("ad_id", "b", 2))
    rows = read_vocabulary(uri).rows("ad_id", pa.chunked_array(chunks))
    assert rows.tolist() == [2, 0, 1, 0, 0]
    assert rows.dtype == "int32"


def test_numbers_are_looked_up_as_text(uri):
    admitted(uri, ("ad_id", "7", 3))
    assert read_vocabulary(uri).rows("ad_id", pa.array([7, 8, None])).tolist() == [1, 0, 0]


def test_no_values_become_no_rows(uri):
    admitted(uri, ("ad_id", "7", 3))
    assert read_vocabulary(uri).rows("ad_id", pa.chunked_array([], pa.string())).tolist() == []


def test_values_that_fall_out_of_use_are_evicted_and_those_of_other_fields_stay(uri):
    admitted(uri, ("ad_id", "a", 9), ("ad_id", "b", 8), ("ad_id", "c", 7), ("surface", "feed", 6))
    assert lately(uri, "b") == (1, 0, 2)
    found = read_vocabulary(uri)
    assert found.evicted == {"ad_id": [1, 3]}
    assert held(uri) == {"ad_id": ["a", "b", "c"], "surface": ["feed"]}
    assert read_vocabulary(uri, version=0).evicted == {}


def test_an_evicted_value_keeps_its_row_to_itself_and_regains_it(uri):
    admitted(uri, ("ad_id", "a", 9), ("ad_id", "b", 8))
    lately(uri, "b")
    assert lately(uri, "bd", ("d", 5), ("a", 5)) == (2, 1, 0)
    assert held(uri) == {"ad_id": ["a", "b", "d"]}
    assert read_vocabulary(uri).evicted == {"ad_id": [1]}
    assert lately(uri, "abd", ("a", 5), ("e", 5)) == (3, 1, 0)
    assert lately(uri, "abde", ("a", 5), ("e", 5)) == (4, 1, 0)
    again = read_vocabulary(uri)
    assert held(uri) == {"ad_id": ["a", "b", "d", "e"]}
    assert again.evicted == {}
    assert again.rows("ad_id", pa.array(["a", "e"])).tolist() == [1, 4]
    assert read_vocabulary(uri, version=2).evicted == {"ad_id": [1]}
    assert lately(uri, "") == (5, 0, 4)
    assert read_vocabulary(uri).evicted == {"ad_id": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("values", "candidates"),
    [
        ("b", [("a", 9)]),  # often enough, but not lately
        ("ab", [("a", 1)]),  # lately, but not often enough
        ("b", []),
    ],
)
def test_an_evicted_value_stays_out_and_a_repeat_commits_nothing(uri, values, candidates):
    admitted(uri, ("ad_id", "a", 9), ("ad_id", "b", 8))
    lately(uri, "b")
    assert lately(uri, values, *candidates) == (1, 0, 0)
    assert read_vocabulary(uri).evicted == {"ad_id": [1]}


def test_a_run_that_cannot_tell_neither_evicts_nor_readmits(uri):
    admitted(uri, ("ad_id", "a", 9), ("ad_id", "b", 8))
    lately(uri, "b")
    assert admit(uri, [("ad_id", "a", 9)], EVICTING, "backfill") == (1, 0, 0)


def test_without_the_rule_evicted_values_come_back(uri):
    admitted(uri, ("ad_id", "a", 9), ("ad_id", "b", 8))
    lately(uri, "b")
    assert admitted(uri, ("ad_id", "a", 2)) == (2, 1)
    assert read_vocabulary(uri).evicted == {}


def test_runs_that_admit_at_once_never_hand_out_a_row_twice(uri, monkeypatch):
    runs, own = 4, 3
    ready, started = threading.Barrier(runs), threading.local()
    lost = []

    def read_together(location, version=None):
        read = read_vocabulary(location, version)
        if not hasattr(started, "once"):
            # The first time nobody commits before all have read the same version.
            started.once = True
            ready.wait(timeout=60)
        return read

    def admit_own(run):
        for n in range(own):
            while True:
                try:
                    admitted(uri, ("ad_id", f"{run}-{n}", 5), run=f"run-{run}")
                    break
                except StaleSnapshot:
                    lost.append(run)

    admitted(uri, ("ad_id", "first", 5))
    monkeypatch.setattr(vocabulary, "read_vocabulary", read_together)
    threads = [threading.Thread(target=admit_own, args=[run]) for run in range(runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(lost) >= runs - 1
    log = read_days(uri)
    assert sorted(log["row"].to_pylist()) == list(range(1, runs * own + 2))
    expected = ["first", *(f"{run}-{n}" for run in range(runs) for n in range(own))]
    assert sorted(log["value"].to_pylist()) == sorted(expected)


def test_a_forgotten_value_is_out_of_vocabulary_and_its_row_is_never_given_again(uri):
    admitted(uri, ("user_id", "u1", 9), ("user_id", "u2", 8), ("ad_id", "u1", 9))
    assert forget(uri, "user_id", ["u1", "u3"], "erasure") == 1
    read = read_vocabulary(uri)
    assert read.rows("user_id", pa.array(["u1", "u2"])).tolist() == [0, 2]
    assert read.rows("ad_id", pa.array(["u1"])).tolist() == [1]
    assert "u1" not in held(uri)["user_id"]
    admitted(uri, ("user_id", "u4", 9), ("user_id", "u1", 8))
    read = read_vocabulary(uri)
    assert read.rows("user_id", pa.array(["u2", "u4", "u1"])).tolist() == [2, 3, 4]
    assert read.num_rows("user_id") == 5


def test_forgetting_what_is_not_there_commits_nothing(uri):
    assert forget(uri, "user_id", ["u1"], "erasure") == 0
    admitted(uri, ("ad_id", "u1", 9))
    assert forget(uri, "user_id", ["u1"], "erasure") == 0
    assert read_vocabulary(uri).version == 0


def test_a_run_that_admits_while_a_value_is_forgotten_fails(uri, monkeypatch):
    admitted(uri, ("user_id", "u1", 9))

    def overtaken(location, version=None):
        read = read_vocabulary(location, version)
        monkeypatch.setattr(vocabulary, "read_vocabulary", read_vocabulary)
        forget(location, "user_id", ["u1"], "erasure")
        return read

    monkeypatch.setattr(vocabulary, "read_vocabulary", overtaken)
    with pytest.raises(StaleSnapshot):
        admitted(uri, ("user_id", "u2", 9))
    assert len(held(uri)["user_id"]) == 1


def test_an_evicted_value_that_is_forgotten_keeps_its_row_from_everybody(uri):
    lately(uri, ["a", "b"], ("a", 5), ("b", 4))
    lately(uri, ["b"])
    assert forget(uri, "ad_id", ["a"], "erasure") == 2
    read = read_vocabulary(uri)
    assert (read.num_rows("ad_id"), read.evicted) == (3, {"ad_id": [1]})
    assert read.rows("ad_id", pa.array(["a", "b"])).tolist() == [0, 2]


def test_a_checkpoint_of_before_finds_its_rows_to_be_its_own_after_one_is_forgotten(uri):
    admitted(uri, ("user_id", "u1", 9), ("user_id", "u2", 8), ("user_id", "u3", 7))
    before = read_vocabulary(uri).prefix_digests("user_id")
    forget(uri, "user_id", ["u2"], "erasure")
    assert read_vocabulary(uri).prefix_digests("user_id").tolist() == before.tolist()
    forget(uri, "user_id", ["u1", "u2", "u3"], "erasure")
    assert read_vocabulary(uri).prefix_digests("user_id").tolist() == before.tolist()
