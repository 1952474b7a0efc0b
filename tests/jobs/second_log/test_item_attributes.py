"""From the raw log to packed histories: events tell brands as they were known at their time."""

from __future__ import annotations

import shutil

from jobs import pack_examples
from jobs.config import with_overrides
from jobs.delta import read_days
from jobs.training.inputs import EVENT_FIELDS
from jobs.vocabulary import read_vocabulary
from tests.jobs.samples import run_config
from tests.jobs.second_log.log import DAYS, epoch, run

BRANDS = [
    ("c1", "red", epoch(1, 0)),
    ("c2", "blue", epoch(1, 0)),
    ("c1", "green", epoch(2, 0, 15)),
]
ADS = {
    "kind": "attributes",
    "entity": "ad",
    "path": "ads.csv",
    "format": "csv",
    "columns": {"since": "double"},
    "key": "creative",
    "known_ts": {"column": "since", "unit": "s"},
    "attributes": {"brand": "brand"},
}


def test_a_brand_that_changes_after_an_event_does_not_show_in_it(spark, settings, tmp_path):
    log = shutil.copytree(settings.log_uri, tmp_path / "log")
    lines = ["creative,brand,since", *(",".join(map(str, row)) for row in BRANDS)]
    (log / "ads.csv").write_text("\n".join(lines) + "\n")
    features = settings.contract.features
    declared = {
        "log_uri": str(log),
        "contract.feeds": {"ads": ADS},
        "contract.features.categorical": [*features.categorical, "ad_brand"],
        "contract.features.vocabulary": {"min_count": 1},
        "contract.timeline_item_attributes": ["ad_brand"],
    }
    config = run_config(tmp_path / "home", with_overrides(settings, declared), DAYS[2])
    run(spark, config)
    packed = pack_examples.open_packed(config)
    assert packed.inputs["attributes_ads"] == 0
    assert list(packed.spec.event_fields) == [*EVENT_FIELDS, "ad_brand"]
    row = packed.impression_ids().to_pylist().index("11")
    history = packed.batch([row], max_events=11).history
    assert history is not None
    known = [None, *read_vocabulary(config.table("vocabulary")).values["ad_brand"].to_pylist()]
    (ann,) = (
        line
        for line in read_days(config.table("timelines"), [DAYS[2]]).to_pylist()
        if line["user_id"] == "ann"
    )
    told = [known[brand] for brand in history.categorical[:, -1].tolist()]
    assert list(zip(ann["item_id"][:11], told, strict=True)) == [
        ("a1", None),
        ("c1", "red"),
        ("c1", "red"),
        ("c1", "red"),
        ("c2", "blue"),
        ("c2", "blue"),
        ("a2", None),
        ("c1", "red"),  # view 5, at 0:10
        ("c1", "green"),  # its click, at 0:20
        ("c1", "green"),
        ("c1", "green"),
    ]
