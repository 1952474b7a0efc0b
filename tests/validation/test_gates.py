"""Gates in a real file context: the verdict, how it fails closed, and the pages it leaves."""

import json
from math import inf, nan
from pathlib import Path

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
import pytest
from great_expectations.expectations.row_conditions import Column

from tests.validation.samples import LIMITS, absorbed, all_suites, good_frames
from validation import suites
from validation.gates import paired, run_gate
from validation.results import part_results

SUITES = all_suites()
NUMBERS = {gate: number for number, gate in enumerate(SUITES, start=1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("home") / "gx"


@pytest.fixture
def judge(folder):
    """Runs a gate of ours, with some of its good frames replaced or, by None, left out."""

    def run(gate, run_id="day-1", disabled=(), **changed):
        frames = {**good_frames()[gate], **changed}
        frames = {part: frame for part, frame in frames.items() if frame is not None}
        parts = paired(gate, SUITES[gate], frames)
        return run_gate(gate, NUMBERS[gate], parts, folder=folder, run_id=run_id, disabled=disabled)

    return run


def failed(result):
    return [check.check for check in result.checks if not check.passed]


@pytest.mark.parametrize("gate", SUITES)
def test_good_frames_pass(judge, gate):
    result = judge(gate)
    assert result.passed, result.reason
    declared = [c.meta["check"] for checks in SUITES[gate].values() for c in checks]
    reported = [check.check for check in result.checks]
    assert [name for name in reported if not name.endswith(".present")] == declared
    assert result.reason == f"Gate {NUMBERS[gate]} ({gate}) passed {len(reported)} checks."
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_refusal_says_what_was_wrong_what_was_found_and_the_limit(judge):
    frame = good_frames()["family"]["slices"]
    frame.loc[1, ["versus_low", "versus_high"]] = [0.002, 0.01]
    result = judge("family", slices=frame)
    assert failed(result) == ["family.slices.versus_low"]
    assert not result.passed
    assert result.reason == (
        "Gate 4 (family) refused: family.slices.versus_low demands “In no judged slice NE is "
        "certain to be above the opponent's”, found 0.002, first at model shop-teacher, task "
        "click, slice_kind domain, slice slice 1, opponent champion, limit ≤ 0."
    )
    (check,) = (check for check in result.checks if not check.passed)
    assert (check.part, check.observed, check.limit) == ("slices", 0.002, "≤ 0")
    assert len(check.failing) == 1
    assert check.failing[0]["slice"] == "slice 1"
    assert check.failing[0]["versus_low"] == 0.002
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_result_repeats_five_failing_rows_at_most(judge):
    row = good_frames()["events"]["days"].iloc[[0]]
    days = pd.concat([row.assign(day=f"2026-03-{i:02}", rows_ratio=0.1) for i in range(1, 9)])
    (check,) = (check for check in judge("events", days=days).checks if not check.passed)
    assert [row["day"] for row in check.failing] == [f"2026-03-0{i}" for i in range(1, 6)]


@pytest.mark.parametrize(
    ("check", "observed", "limit"),
    [
        ("teacher.overall.present", 1, "≥ 1"),
        ("teacher.overall.versus_champion", 0.001, "≤ 0.003"),
        ("teacher.overall.versus_log_odds", "no such row", "≤ 0"),
        ("teacher.overall.opponent", "0 of 1 break it", "champion or log_odds"),
        ("teacher.slices.versus_low", -0.009, "≤ 0"),
        ("teacher.slices.judged", "1 of 3 break it", "True in ≥ 50 %"),
        ("teacher.slices.ne_known", "0 of 2 break it", "no gaps"),
        ("teacher.slices.row", "0 of 3 break it", "no repeats"),
    ],
)
def test_a_check_reports_the_figure_beside_its_limit(teacher_result, check, observed, limit):
    (found,) = (result for result in teacher_result.checks if result.check == check)
    assert (found.observed, found.limit) == (observed, limit)


@pytest.fixture(scope="module")
def teacher_result(folder):
    parts = paired("teacher", SUITES["teacher"], good_frames()["teacher"])
    return run_gate("teacher", 3, parts, folder=folder, run_id="observed")


# Fail closed.


def test_an_empty_frame_fails(judge):
    result = judge("events", days=good_frames()["events"]["days"].iloc[:0])
    assert failed(result) == ["events.days.present"]


def test_an_empty_frame_fails_when_everything_else_is_switched_off(judge):
    days = good_frames()["events"]["days"].iloc[:0]
    off = ("events.day", "events.rows*", "events.quarantine_ratio", "events.days.present")
    assert failed(judge("events", days=days, disabled=off)) == ["events.days.present"]


def test_a_missing_part_fails_and_has_a_page(judge):
    result = judge("family", twins=None)
    assert failed(result) == ["family.twins.present"]
    assert "refused" in Path(result.page).read_text(encoding="utf-8")


def test_a_gate_without_parts_fails(folder):
    result = run_gate("events", 1, {}, folder=folder, run_id="day-1")
    assert failed(result) == ["events.declared"]
    assert result.page is None


def test_a_part_without_checks_fails(folder):
    parts = {
        "days": (good_frames()["events"]["days"], SUITES["events"]["days"]),
        "weeks": (good_frames()["events"]["days"], []),
    }
    result = run_gate("events", 1, parts, folder=folder, run_id="day-1")
    assert failed(result) == ["events.weeks.declared"]


@pytest.mark.parametrize("pattern", ["*", "events.*"])
def test_a_gate_with_every_check_switched_off_fails(judge, pattern):
    result = judge("events", disabled=(pattern,))
    assert failed(result) == ["events.declared"]
    assert len(result.disabled) == len(SUITES["events"]["days"])


@pytest.mark.parametrize("figure", [nan, -inf])
def test_a_figure_that_is_not_a_number_fails(judge, figure):
    frame = good_frames()["teacher"]["overall"].assign(versus_high=figure)
    assert failed(judge("teacher", overall=frame)) == ["teacher.overall.versus_high_known"]


def test_a_gate_whose_slices_are_all_too_small_fails(judge):
    frame = good_frames()["teacher"]["slices"].assign(judged=False)
    names = ["teacher.slices.judged", "teacher.slices.judged_rows"]
    assert failed(judge("teacher", slices=frame)) == names
    assert failed(judge("teacher", slices=frame, disabled=("*.judged",))) == names[1:]


def test_a_check_that_cannot_run_fails(folder):
    check = gxe.ExpectColumnMaxToBeBetween(column="gone", max_value=1, meta={"check": "own.gone"})
    condition = gxe.ExpectColumnValuesToBeBetween(
        column="finite_ratio",
        min_value=0,
        row_condition=Column("gone") == 1,
        meta={"check": "own.condition"},
    )
    parts = {"models": (absorbed(), [check, condition])}
    result = run_gate("own", 9, parts, folder=folder, run_id="day-1")
    assert failed(result) == ["own.gone", "own.condition"]
    assert result.checks[1].observed.startswith("the check could not run: ")
    assert "gone" in result.reason
    assert "could not run" in Path(result.page).read_text(encoding="utf-8")


def test_a_check_that_was_not_evaluated_fails():
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("frames").add_dataframe_asset("frame")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(
        batch_parameters={"dataframe": absorbed()}
    )
    suite = gx.ExpectationSuite(name="own", expectations=[suites.present("own.present")])
    results = part_results("own", "models", ["own.present", "own.lost"], batch.validate(suite))
    assert [r.check for r in results if not r.passed] == ["own.models.evaluated"]
    assert (results[-1].observed, results[-1].limit) == (1, "= 2")


@pytest.mark.parametrize("meta", [None, {}, {"check": "own.one"}])
def test_checks_without_a_name_of_their_own_are_refused(folder, meta):
    checks = [
        gxe.ExpectTableRowCountToBeBetween(min_value=1, meta={"check": "own.one"}),
        gxe.ExpectColumnToExist(column="model", meta=meta),
    ]
    with pytest.raises(ValueError, match="every check has a name of its own"):
        run_gate("own", 9, {"models": (absorbed(), checks)}, folder=folder, run_id="day-1")


@pytest.mark.parametrize("run_id", ["", " ", "a/b"])
def test_a_run_id_that_names_no_folder_is_refused(folder, run_id):
    with pytest.raises(ValueError, match="run_id"):
        run_gate("own", 9, {}, folder=folder, run_id=run_id)


# What users switch off, and repeats.


def test_a_switched_off_check_is_left_out_and_named(judge):
    frame = good_frames()["teacher"]["overall"].assign(versus_high=0.5, auc=nan)
    off = ("teacher.overall.versus_champion", "*.auc_known")
    result = judge("teacher", overall=frame, disabled=off)
    assert result.passed
    assert result.disabled == [
        "teacher.overall.versus_champion",
        "teacher.overall.auc_known",
        "teacher.slices.auc_known",
    ]
    assert not set(result.disabled) & {check.check for check in result.checks}
    page = Path(result.page).read_text(encoding="utf-8")
    assert "Left out by configuration" in page
    assert "teacher.overall.versus_champion" in page


def test_a_repeat_replaces_suites_and_keeps_both_pages(tmp_path):
    good, bad = absorbed(), absorbed().assign(finite_ratio=0.5)
    run_id = "scheduled__2026-03-07T00:00:00+00:00"
    results = []
    for frame, least in ((bad, 0.8), (good, 0.9)):
        suite = suites.absorbed(**LIMITS | {"min_calibration": least})
        parts = paired("absorbed", suite, {"models": frame})
        results.append(run_gate("absorbed", 5, parts, folder=tmp_path, run_id=run_id))
    assert [result.passed for result in results] == [False, True]
    assert results[0].page != results[1].page
    for result in results:
        text = Path(result.page).read_text(encoding="utf-8")
        assert ("✗ refused" in text) == (not result.passed)

    context = gx.get_context(mode="file", context_root_dir=tmp_path)
    assert [suite.name for suite in context.suites.all()] == ["5-absorbed-models"]
    (checkpoint,) = context.checkpoints.all()
    (definition,) = checkpoint.validation_definitions
    limits = {e.meta["check"]: getattr(e, "min_value", None) for e in definition.suite.expectations}
    assert limits["absorbed.calibration_high"] == 0.9
    index = (tmp_path / "docs" / "index.html").read_text(encoding="utf-8")
    assert index.count(run_id.replace("+", "&#43;")) + index.count(run_id) == 1
    assert index.count("✓ passed") == 1
    assert index.count("an earlier verdict") == 1


def test_gates_in_one_folder_keep_one_another_usable(folder, judge):
    for gate in ("events", "absorbed"):
        judge(gate)
    context = gx.get_context(mode="file", context_root_dir=folder)
    names = {checkpoint.name for checkpoint in context.checkpoints.all()}
    assert {"1-events-days", "5-absorbed-models"} <= names


# What a reviewer sees.


def test_the_page_shows_every_check_and_every_figure(judge):
    frame = good_frames()["teacher"]["slices"]
    frame.loc[0, ["versus_value", "versus_low", "versus_high"]] = [0.0071, 0.0042, 0.0093]
    frame.loc[1, "slice"] = "<b>reels</b>"
    result = judge("teacher", "2026-03-07-daily", slices=frame)
    page = Path(result.page).read_text(encoding="utf-8")
    assert "Gate 3 · teacher · slices" in page
    assert "2026-03-07-daily" in page
    for check in result.checks:
        if check.part == "slices":
            assert f"<code>{check.check}</code>" in page
            assert check.limit in page
    assert "0.0071 (0.0042 to 0.0093)" in page
    assert "12,000" in page
    assert "300" in page, "rows too small to judge are shown as well"
    assert "&lt;b&gt;reels&lt;/b&gt;" in page
    assert "AUC per user" in page


def test_the_page_is_that_of_the_first_part_that_failed(judge, teacher_result):
    frame = good_frames()["family"]["twins"].assign(twin_joint_low=0.5)
    result = judge("family", twins=frame)
    assert "4-family-twins" in result.page
    assert "3-teacher-overall" in teacher_result.page


def test_pages_fetch_nothing_and_lead_to_one_another(folder, judge):
    page = Path(judge("events").page)
    docs = folder / "docs"
    pages = [page, docs / "index.html", docs / "expectations" / "1-events-days.html"]
    for each in pages:
        text = each.read_text(encoding="utf-8")
        assert "//" not in text.replace("<!DOCTYPE", ""), each
    assert (page.parent / "../../../../index.html").resolve() == docs / "index.html"
    assert "../../../../index.html" in pages[0].read_text(encoding="utf-8")
    index = pages[1].read_text(encoding="utf-8")
    assert f'href="{page.relative_to(docs).as_posix()}"' in index
    assert "at least 30 %" in pages[2].read_text(encoding="utf-8")


def test_pages_can_be_drawn_again(folder, judge):
    page = Path(judge("absorbed").page)
    text = page.read_text(encoding="utf-8")
    page.unlink()
    gx.get_context(mode="file", context_root_dir=folder).build_data_docs(site_names=["local"])
    assert page.read_text(encoding="utf-8") == text


def test_a_gate_is_quiet(judge, capfd, recwarn):
    judge("absorbed")
    assert capfd.readouterr() == ("", "")
    assert [str(w.message) for w in recwarn if w.category is not DeprecationWarning] == []


def test_limits_of_the_samples_are_those_of_the_configuration():
    from jobs.config import Gates

    gates = Gates()
    assert {name: getattr(gates, name) for name in LIMITS} == LIMITS
