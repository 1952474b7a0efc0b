"""Packed arrays say what the tables say, and nothing that was not known at the impression."""

import math
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from jobs.errors import ConfigError
from jobs.training import inputs
from jobs.training.dense import dense_features, dense_names, smoothed_log_odds
from jobs.training.inputs import Packed, pack
from jobs.vocabulary import EVENT_TYPE
from tests.jobs.training import samples

LIST_COLUMNS = ("item_id", "surface", "event_type", "value", "event_ts", "time_is_synthetic")


@pytest.fixture(scope="module")
def rows():
    return samples.world(200)


@pytest.fixture(scope="module")
def packed(rows, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return samples.packed(samples.config(home), rows)


def written(home, examples, timelines, vocabulary):
    folder = home / "packed"
    pack(folder, examples, timelines, samples.contract(), vocabulary, {})
    return Packed(folder)


def edited(timelines, change):
    """Timelines with every list of every column passed through `change(row, column, values)`."""
    for name in LIST_COLUMNS:
        lists = timelines[name].to_pylist()
        changed = [change(row, name, list(values)) for row, values in enumerate(lists)]
        column = pa.array(changed, timelines[name].type)
        timelines = timelines.set_column(timelines.column_names.index(name), name, column)
    return timelines


def sort_key(row):
    return row["event_ts"], row["impression_id"]


def test_dense_features_equal_a_plain_loop(rows):
    actual = dense_features(rows.examples, samples.contract().features)
    for row, values in zip(rows.examples.to_pylist(), actual, strict=True):
        expected = [math.nan if row["seconds"] is None else math.log(1 + row["seconds"])]
        for entity in ("all", "user", "ad", "surface"):
            for window in (1, 7):

                def count(name, row=row, entity=entity, window=window):
                    return row[f"{entity}_{name}_{window}d"]

                expected += [math.log(1 + count(name)) for name in ("shown", "click", "buy")]
                for name in ("click", "buy"):
                    p = (row[f"all_{name}_7d"] + 0.5) / (row["all_shown_7d"] + 1)
                    rate = (count(name) + 10 * p) / (count("shown") + 10)
                    expected.append(math.log(rate / (1 - rate)))
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


def test_a_last_moment_is_read_as_log_minutes_and_whether_there_was_one(rows):
    features = samples.contract(recency={"click": ["user", "ad"]}).features
    waits = [[1, 90_000_000, None], [None, 0, 2_592_000_000_000]]
    examples = rows.examples.slice(0, 3)
    for entity, row in zip(("user", "ad"), waits, strict=True):
        moments = [
            None if wait is None else at - timedelta(microseconds=wait)
            for at, wait in zip(examples["event_ts"].to_pylist(), row, strict=True)
        ]
        column = pa.array(moments, pa.timestamp("us", "UTC"))
        examples = examples.append_column(f"{entity}_click_last_ts", column)
    names = dense_names(features)
    dense = dense_features(examples, features)
    assert names[-4:] == [
        "log_age_user_click",
        "never_user_click",
        "log_age_ad_click",
        "never_ad_click",
    ]
    assert dense.shape == (3, len(names))
    expected = [
        [math.log1p(1 / 60e6), 0, math.nan, 1],
        [math.log(2.5), 0, 0, 0],
        [math.nan, 1, math.log(43_201), 0],
    ]
    np.testing.assert_allclose(dense[:, -4:], expected, rtol=1e-6)


def test_the_strength_of_the_prior_is_the_contracts(rows):
    near, far = (
        dense_features(rows.examples, samples.contract(**changed).features)
        for changed in ({"rate_prior_strength": 1e-6}, {"rate_prior_strength": 1e9})
    )
    names = dense_names(samples.contract().features)
    own, prior = names.index("rate_ad_click_7d"), names.index("rate_all_click_7d")
    c, n = (rows.examples[f"ad_{name}_7d"].to_numpy() for name in ("click", "shown"))
    np.testing.assert_allclose(near[:, own], np.log(c / (n - c)), rtol=1e-4)
    np.testing.assert_allclose(far[:, own], far[:, prior], rtol=1e-4)


def test_names_of_dense_features_are_in_their_order(rows):
    features = samples.contract().features
    names = dense_names(features)
    assert names[:6] == [
        "seconds",
        "log_all_shown_1d",
        "log_all_click_1d",
        "log_all_buy_1d",
        "rate_all_click_1d",
        "rate_all_buy_1d",
    ]
    shown = rows.examples["ad_shown_7d"].to_numpy()
    column = dense_features(rows.examples, features)[:, names.index("log_ad_shown_7d")]
    np.testing.assert_allclose(column, np.log1p(shown), rtol=1e-6)


def test_a_negative_number_keeps_its_sign(rows):
    low = rows.examples.set_column(
        rows.examples.column_names.index("seconds"),
        "seconds",
        pa.array([-7.0] * rows.examples.num_rows),
    )
    assert dense_features(low, samples.contract().features)[0, 0] == pytest.approx(-math.log(8))


def test_a_rate_stays_finite_where_outcomes_outnumber_impressions(rows):
    more = rows.examples
    for name in ("user_click_1d", "all_click_7d"):
        column = pa.array([10_000] * more.num_rows)
        more = more.set_column(more.column_names.index(name), name, column)
    assert np.isfinite(dense_features(more, samples.contract().features)[:, 1:]).all()


def test_smoothed_log_odds_by_hand(packed):
    def odds(p):
        return math.log(p / (1 - p))

    rates = {"all": 0.1, "surface": 0.2, "ad": 0.3, "user": 0.05}
    dense = np.zeros((1, len(packed.spec.dense)), np.float32)
    for entity, rate in rates.items():
        dense[0, packed.spec.dense.index(f"rate_{entity}_buy_7d")] = odds(rate)
    expected = odds(0.2) + odds(0.3) + odds(0.05) - 2 * odds(0.1)
    actual = smoothed_log_odds(dense, packed.spec.dense, samples.contract(), "buy")
    assert actual == pytest.approx([expected], abs=1e-6)


def test_rows_lie_in_order_of_time(rows, packed):
    expected = sorted(rows.examples.to_pylist(), key=sort_key)
    assert packed.impression_ids().to_pylist() == [row["impression_id"] for row in expected]
    assert packed.event_us.tolist() == [inputs.to_us(row["event_ts"]) for row in expected]


def test_labels_places_and_maturity_are_the_tables(rows, packed):
    for at, row in enumerate(sorted(rows.examples.to_pylist(), key=sort_key)):
        for t, task in enumerate(("click", "buy")):
            label = row[f"label_{task}"]
            assert packed.labels[at, t] == label or (
                label is None and np.isnan(packed.labels[at, t])
            )
            assert packed.mature_us[at, t] == inputs.to_us(row[f"mature_ts_{task}"])
        assert packed.spec.domains[packed.domain[at]] == row["domain"]
        assert packed.spec.verticals[packed.vertical[at]] == f"{row['domain']}-{row['vertical']}"


def test_a_history_is_the_slice_before_its_end(rows, packed):
    vocabulary, cut = rows.vocabulary(), 4
    codes = {
        f: {v: i + 1 for i, v in enumerate(c.to_pylist())} for f, c in vocabulary.values.items()
    }
    lists = {(t["user_id"], t["day"]): t for t in rows.timelines.to_pylist()}
    history = packed.batch(np.arange(packed.num_rows), cut).history
    for at, row in enumerate(sorted(rows.examples.to_pylist(), key=sort_key)):
        line = lists[row["user_id"], row["day"]]
        near = slice(max(0, row["history_end"] - cut), row["history_end"])
        expected = [
            [codes["ad_id"].get(i, 0), codes[EVENT_TYPE].get(e, 0), codes["surface"].get(s, 0)]
            for i, e, s in zip(
                line["item_id"][near], line["event_type"][near], line["surface"][near], strict=True
            )
        ]
        own = slice(int(history.start[at]), int(history.end[at]))
        assert history.categorical[own].tolist() == expected
        times = [inputs.to_us(time) for time in line["event_ts"][near]]
        assert history.event_us[own].tolist() == times
        assert history.row_us[at] == inputs.to_us(row["event_ts"])
        values = [math.log1p(value or 0.0) for value in line["value"][near]]
        np.testing.assert_allclose(history.dense[own, 0], values, rtol=1e-6)


def test_a_timeline_stands_once_from_the_first_event_read_to_the_last(packed):
    at = np.flatnonzero(packed.timeline == np.bincount(packed.timeline).argmax())
    assert len(at) > 3
    first, last = packed.history_end[at].min(), packed.history_end[at].max()
    history = packed.batch(at, 2).history
    assert history.segment.tolist() == [0] * len(at)
    assert history.offsets.tolist() == [0, last - max(0, first - 2)]
    whole = packed.batch(at, 2, whole=True).history
    assert whole.offsets.tolist() == [0, last]
    assert whole.end.tolist() == packed.history_end[at].tolist()
    shift = max(0, first - 2)
    assert torch.equal(whole.event_us[shift:], history.event_us)
    assert torch.equal(whole.end - shift, history.end)
    assert torch.equal(whole.start - shift, history.start)


@pytest.mark.parametrize("whole", [False, True])
def test_rows_of_a_batch_may_come_in_any_order(packed, whole):
    order = np.array([17, 3, 101, 3])
    batch = packed.batch(order, 5, whole=whole)
    every = packed.batch(np.arange(packed.num_rows), 5, whole=whole)
    for at, row in enumerate(order):
        one, two = (
            [x[h.start[i] : h.end[i]] for x in (h.categorical, h.dense, h.event_us)]
            for h, i in ((batch.history, at), (every.history, row))
        )
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert torch.equal(batch.categorical, every.categorical[order.tolist()])


def test_what_comes_after_a_history_changes_no_batch(rows, packed, tmp_path):
    last = {}
    for row in rows.examples.to_pylist():
        key = (row["user_id"], row["day"])
        last[key] = max(last.get(key, 0), row["history_end"])
    keys = [(t["user_id"], t["day"]) for t in rows.timelines.to_pylist()]
    poison = {
        "item_id": "poison",
        "surface": "poison",
        "event_type": "poison",
        "value": math.nan,
        "event_ts": datetime(2099, 1, 1),
        "time_is_synthetic": True,
    }

    def poisoned(row, name, values):
        end = last[keys[row]]
        return values[:end] + [poison[name]] * (len(values) - end)

    changed = edited(rows.timelines, poisoned)
    assert not changed.equals(rows.timelines)
    other = written(tmp_path, rows.examples, changed, rows.vocabulary())
    at = np.arange(packed.num_rows)
    for whole in (False, True):
        one, two = (p.batch(at, 6, whole=whole).history for p in (packed, other))
        for name in ("categorical", "dense", "event_us", "offsets", "start", "end"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name


def test_a_model_without_history_gets_none(packed):
    assert packed.batch(np.arange(3), 0).history is None


def test_unknown_and_missing_values_read_row_zero(rows, tmp_path):
    known, unknown = rows.vocabulary(), "never seen"
    column = pa.array([None, unknown, *rows.examples["ad_id"].to_pylist()[2:]])
    examples = rows.examples.sort_by("event_ts")
    examples = examples.set_column(examples.column_names.index("ad_id"), "ad_id", column)
    packed = written(tmp_path, examples, rows.timelines, known)
    ads = packed.categorical[:, packed.spec.categorical.index("ad_id")]
    assert ads[:2].tolist() == [0, 0]
    codes = {value: row for row, value in enumerate(known.values["ad_id"].to_pylist(), start=1)}
    assert ads[2:].tolist() == [codes.get(ad, 0) for ad in column.to_pylist()[2:]]
    assert len(set(ads.tolist())) == packed.spec.table_rows["ad_id"]


def test_the_same_tables_give_the_same_files(rows, tmp_path):
    shuffled = rows.examples.take(np.random.default_rng(1).permutation(rows.examples.num_rows))
    folders = [tmp_path / "one" / "packed", tmp_path / "two" / "packed"]
    for folder, examples in zip(folders, (rows.examples, shuffled), strict=True):
        written(folder.parent, examples, rows.timelines, rows.vocabulary())
    names = sorted(path.name for path in folders[0].iterdir())
    assert names == sorted(path.name for path in folders[1].iterdir())
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_the_order_of_timelines_changes_no_batch(rows, packed, tmp_path):
    turned = rows.timelines.take(np.arange(rows.timelines.num_rows)[::-1])
    other = written(tmp_path, rows.examples, turned, rows.vocabulary())
    one, two = (p.batch(np.arange(p.num_rows), 6).history for p in (packed, other))
    for row in range(packed.num_rows):
        own = [h.event_us[h.start[row] : h.end[row]] for h in (one, two)]
        assert torch.equal(*own)


def test_a_pack_that_fails_half_way_leaves_the_old_one(rows, tmp_path, monkeypatch):
    packed = written(tmp_path, rows.examples, rows.timelines, rows.vocabulary())
    before = {path.name: path.read_bytes() for path in packed.folder.iterdir()}
    save, saved = np.save, []

    def fail(path, values):
        if len(saved) == 5:
            raise OSError("disk full")
        saved.append(path)
        save(path, values)

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        written(tmp_path, rows.examples.slice(9), rows.timelines, rows.vocabulary())
    assert {path.name: path.read_bytes() for path in packed.folder.iterdir()} == before


def test_an_impression_without_a_timeline_is_never_packed(rows, tmp_path):
    with pytest.raises(AssertionError, match="every impression has a timeline"):
        written(tmp_path, rows.examples, rows.timelines.slice(1), rows.vocabulary())


def test_a_surface_of_no_domain_is_never_packed(rows, tmp_path):
    place = pa.array(["nowhere"] * rows.examples.num_rows)
    examples = rows.examples.set_column(rows.examples.column_names.index("domain"), "domain", place)
    with pytest.raises(AssertionError, match="every surface belongs"):
        written(tmp_path, examples, rows.timelines, rows.vocabulary())


def test_no_rows_are_refused_with_the_remedy(rows, tmp_path):
    with pytest.raises(ConfigError, match="at least one impression; found none on its days"):
        written(tmp_path, rows.examples.slice(0, 0), rows.timelines, rows.vocabulary())


def test_matured_is_after_the_start_and_by_the_end(packed):
    at = packed.mature_us[20, 0]
    moment = datetime.fromtimestamp(at / 1e6, tz=samples.START.tzinfo)
    before = moment - timedelta(microseconds=1)
    assert packed.matured(before, moment)[20, 0]
    assert not packed.matured(moment, samples.END)[20, 0]
    assert not packed.matured(None, before)[20, 0]


def test_a_label_that_is_missing_never_matures(rows, packed):
    missing = np.isnan(packed.labels)
    assert missing.sum() == sum(
        pc.sum(pc.is_null(rows.examples[f"label_{t}"])).as_py() for t in ("click", "buy")
    )
    assert not packed.matured(None, samples.END + timedelta(days=9))[missing].any()
