"""From the raw log to packed bags: a column with any number of values per row, as known then."""

from __future__ import annotations

import shutil

import pytest

from jobs import ingest_log, pack_examples
from jobs.command import run_job
from jobs.config import with_overrides
from jobs.delta import read_days
from jobs.errors import ConfigError
from jobs.explain_row import run as explain
from jobs.vocabulary import read_vocabulary
from tests.jobs.samples import run_config
from tests.jobs.second_log.log import DAYS, digests, epoch, run

TOPICS = [
    ("c1", "sport|food", epoch(1, 0)),
    ("c2", "", epoch(1, 0)),
    ("c1", "food|travel|sport", epoch(2, 0, 15)),
]
ADS = {
    "kind": "attributes",
    "entity": "ad",
    "path": "ads.csv",
    "format": "csv",
    "columns": {"since": "double"},
    "key": "creative",
    "known_ts": {"column": "since", "unit": "s"},
    "attributes": {"topics": {"expr": "split(topics, '[|]')"}},
}


def declared(settings, log, ads=ADS):
    lines = ["creative,topics,since", *(",".join(map(str, row)) for row in TOPICS)]
    (log / "ads.csv").write_text("\n".join(lines) + "\n")
    changes = {
        "log_uri": str(log),
        "contract.feeds": {"ads": ads},
        "contract.features.bags": ["ad_topics"],
        "contract.features.vocabulary": {"min_count": 1},
    }
    return with_overrides(settings, changes)


def test_topics_that_change_after_an_impression_do_not_show_in_it(spark, settings, tmp_path):
    log = shutil.copytree(settings.log_uri, tmp_path / "log")
    config = run_config(tmp_path / "home", declared(settings, log), DAYS[2])
    run(spark, config)
    examples = {
        row["impression_id"]: row["ad_topics"]
        for row in read_days(config.table("examples")).to_pylist()
    }
    expected = {
        "1": ["sport", "food"],
        "3": None,
        "5": ["sport", "food"],  # at 0:10 of the second day
        "11": ["food", "travel", "sport"],
    }
    assert {impression: examples[impression] for impression in expected} == expected
    known = [None, *read_vocabulary(config.table("vocabulary")).values["ad_topics"].to_pylist()]
    # Seen before the gate window, whose rows teach no value.
    assert set(known[1:]) <= {"food", "sport", "travel"} and {"food", "sport"} <= set(known[1:])
    packed = pack_examples.open_packed(config)
    ids = packed.impression_ids().to_pylist()
    (bag,) = packed.batch([ids.index(i) for i in expected], max_events=4).bags
    values = [known[value] for value in bag.values.tolist()]
    told = [values[a:b] for a, b in zip(bag.offsets[:-1], bag.offsets[1:], strict=True)]
    assert told == [
        [topic if topic in known else None for topic in topics or []]
        for topics in expected.values()
    ]
    assert explain(config, config.home, "11").details["features"]["values"]["ad_topics"] == [
        "food",
        "travel",
        "sport",
    ]
    before = digests(config)
    run(spark, config)
    assert digests(config) == before


def test_a_text_that_was_not_split_is_refused(spark, settings, tmp_path):
    log = shutil.copytree(settings.log_uri, tmp_path / "log")
    ads = {**ADS, "attributes": {"topics": "topics"}}
    config = run_config(tmp_path / "home", declared(settings, log, ads), DAYS[2])
    with pytest.raises(ConfigError, match=r"attributes.topics: .* found string; split it"):
        run_job(config, ingest_log.build, spark=spark)
