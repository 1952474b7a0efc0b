"""An example joins what is known of an impression."""

from datetime import date

from jobs.spark.examples import example_columns, example_rows
from tests.jobs.samples import contract
from tests.jobs.spark.frames import frame, listed, utc

DAY = date(2024, 3, 5)
LOG = contract(
    features__entities={"all": [], "user": ["user_id"], "ad": ["ad_id"], "surface": ["surface"]},
    features__windows_days=[1],
    features__recency={"click": ["user", "ad"]},
)


def test_an_example_has_everything_that_is_known_of_its_impression(spark):
    shown = frame(
        spark,
        "impression_id string, user_id string, ad_id string, surface string, event_ts timestamp, "
        "known_ts timestamp, position double, day date",
        # 23:30 UTC is half past midnight in Berlin.
        ("i", "u", "a", "search", utc(4, 23, 30), utc(5), None, DAY),
        ("unlabelled", "u", "a", "search", utc(4, 23, 30), utc(5), 1.0, DAY),
    )
    labels = frame(
        spark,
        "impression_id string, event_ts timestamp, label_click tinyint, mature_ts_click timestamp,"
        "label_buy tinyint, mature_ts_buy timestamp, day date",
        ("i", utc(4, 23, 30), 1, utc(5), None, utc(6), DAY),
    )
    names = [name for name in example_columns(LOG) if name.endswith("_1d")]
    assert len(names) == 16
    values = range(len(names))
    counts = frame(
        spark,
        "impression_id string, user_click_last_ts timestamp, ad_click_last_ts timestamp, "
        + ", ".join(f"{n} bigint" for n in names),
        ("i", utc(4, 23), None, *values),
    )
    ends = frame(spark, "impression_id string, history_end int", ("i", 7))
    rows = example_rows(shown, labels, counts, ends, LOG)
    assert rows.dtypes == list(example_columns(LOG).items())
    assert listed(rows) == [
        {
            "impression_id": "i",
            "user_id": "u",
            "ad_id": "a",
            "surface": "search",
            "hour": "0",
            "event_ts": utc(4, 23, 30),
            "known_ts": utc(5),
            "domain": "app",
            "vertical": "search",
            "history_end": 7,
            "position": None,
            **dict(zip(names, values, strict=True)),
            "user_click_last_ts": utc(4, 23),
            "ad_click_last_ts": None,
            "label_click": 1,
            "mature_ts_click": utc(5),
            "label_buy": None,
            "mature_ts_buy": utc(6),
            "day": DAY,
        }
    ]
