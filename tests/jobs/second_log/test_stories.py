"""The story of a row names what it was made from, and what has repaired it since."""

from __future__ import annotations

import shutil

import pytest

from jobs.delta import live_commits, open_table
from jobs.errors import ConfigError
from jobs.explain_row import run as explain
from jobs.repair_labels import repair
from jobs.report.row import page
from tests.jobs.second_log.log import DAYS


def test_the_story_of_a_row_names_the_sources_of_everything(whole):
    config, _ = whole
    story = explain(config, config.home, "5").details
    assert (story["impression"]["day"], story["impression"]["user_id"]) == (DAYS[1], "ann")
    assert [(row["outcome_id"], row["day"]) for row in story["outcomes"]] == [
        ("results:4", DAYS[1])
    ]
    click = story["labels"]["click"]
    assert (click["label"], click["follows"], click["mature_day"]) == (1, 1, DAYS[1])
    assert [row["verdict"] for row in click["outcomes"]] == ["counted"]
    features = story["features"]
    made_from = story["commits"]["examples"]["inputs"]
    assert (features["day"], features["version"]) == (DAYS[0], made_from["entity_features"])
    # The click of view 3 became known after midnight.
    assert features["entities"]["user"]["counts"]["click_1d"] == {"before": 1, "today": 1}
    assert features["values"]["user_plan"] == "free"
    assert story["history"]["history_end"] == 7
    assert [event["event_type"] for event in story["history"]["last"]][-2:] == ["click", "read"]
    held = live_commits(open_table(config.table("examples")))[DAYS[1]]
    assert story["commits"]["examples"]["digest"] == held.digest
    text = page(config, story)
    for part in (
        "Impression 5 of the log 'gazette'",
        "click: 1; window 1:00:00 (view_through)",
        "user [ann]: impression_1d 2+0",
        "Learnt by no registered version",
        f"examples of 2024-03-02: version {story['commits']['examples']['version']}",
    ):
        assert part in text, text


def test_a_row_that_is_not_there_is_told(whole):
    config, _ = whole
    with pytest.raises(ConfigError, match=r"no impression '8' in the log 'gazette' \(3 days, 2024"):
        explain(config, config.home, "8")


def test_a_late_subscription_is_repaired_and_its_story_says_by_what(spark, whole, tmp_path):
    home = str(shutil.copytree(whole[0].home, tmp_path / "home"))
    config = whole[0].model_copy(update={"home": home})
    before = explain(config, home, "2").details["labels"]["subscribe"]
    assert (before["label"], before["outcomes"][0]["verdict"]) == (
        0,
        "arrived on 2024-03-03; the label counts what was known by 2024-03-02",
    )
    made_from = explain(config, home, "2").details["features"]["version"]
    repair(config, home, spark)
    after = explain(config, home, "2").details
    assert (after["labels"]["subscribe"]["label"], after["repairs"][0]["until"]) == (1, DAYS[2])
    # The repaired example's counts still are those of the day on which they were counted.
    assert after["features"]["version"] == made_from
    assert after["commits"]["examples"]["run_id"] == "repair-000001"
    story = page(config, after)
    assert "repair 1 counted what was known by 2024-03-03; it changed 1 impressions" in story
