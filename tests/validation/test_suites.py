"""Every check of every gate: a good frame passes, and one minimal change fails by its name."""

from math import inf, nan

import great_expectations as gx
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.validation.samples import LIMITS, all_suites, good_frames
from validation import suites

SUITES = all_suites()


def put(column, value, row=0):
    """Change one figure of one row."""

    def change(frame):
        values = list(frame[column])
        values[row] = value
        return frame.assign(**{column: values})

    return change


def names(gate, part):
    return [check.meta["check"] for check in SUITES[gate][part]]


def again(frame):
    """The first row twice."""
    return pd.concat([frame, frame.iloc[:1]], ignore_index=True)


def both(*changes):
    def change(frame):
        for each in changes:
            frame = each(frame)
        return frame

    return change


def worse(change):
    """The change in a row that is certainly further off than its opponent."""
    return both(change, put("calibration_versus_low", 0.01))


BREAKS = {
    ("events", "days"): {
        "events.day": again,
        "events.rows": put("rows", 0),
        "events.rows_known": put("rows", nan),
        "events.rows_ratio": put("rows_ratio", 0.2999),
        "events.rows_ratio_known": put("rows_ratio", nan),
        "events.quarantine_ratio": put("quarantine_ratio", 0.0201),
        "events.quarantine_ratio_known": put("quarantine_ratio", nan),
    },
    ("examples", "days"): {
        "examples.day": again,
        "examples.examples": put("examples", 0),
        "examples.examples_known": put("examples", nan),
        "examples.missing": put("missing", 1),
        "examples.missing_known": put("missing", nan),
        "examples.duplicates": put("duplicates", 1),
        "examples.duplicates_known": put("duplicates", nan),
        "examples.leaks": put("leaks", 1),
        "examples.leaks_known": put("leaks", nan),
        "examples.null_labels_ratio": put("null_labels_ratio", 0.0101),
        "examples.null_labels_ratio_known": put("null_labels_ratio", nan),
    },
    ("examples", "tasks"): {
        "examples.task": again,
        "examples.rate": put("rate", 0.0),
        "examples.rate_known": put("rate", nan),
        "examples.rate_shift_ratio": put("rate_shift_ratio", 0.501),
        "examples.rate_shift_ratio_known": put("rate_shift_ratio", nan),
    },
    ("teacher", "overall"): {
        "teacher.overall.row": again,
        "teacher.overall.slice_kind": put("slice_kind", "domain"),
        "teacher.overall.slice_kind_known": put("slice_kind", None),
        "teacher.overall.judged": put("judged", False),
        "teacher.overall.judged_known": put("judged", None),
        "teacher.overall.opponent": put("opponent", "parent"),
        "teacher.overall.opponent_known": put("opponent", None),
        "teacher.overall.versus_champion": put("versus_high", 0.0031),
        "teacher.overall.versus_log_odds": put("opponent", "log_odds"),
        "teacher.overall.versus_high_known": put("versus_high", nan),
        "teacher.overall.calibration_high": worse(put("calibration_high", 0.79)),
        "teacher.overall.calibration_high_known": put("calibration_high", nan),
        "teacher.overall.calibration_low": worse(put("calibration_low", 1.26)),
        "teacher.overall.calibration_low_known": put("calibration_low", nan),
        "teacher.overall.calibration_known": put("calibration", nan),
        "teacher.overall.calibration_versus_low_known": put("calibration_versus_low", nan),
        "teacher.overall.ne_known": put("ne", nan),
        "teacher.overall.auc_known": put("auc", nan),
    },
    ("teacher", "slices"): {
        "teacher.slices.row": again,
        "teacher.slices.slice_kind": put("slice_kind", "overall"),
        "teacher.slices.slice_kind_known": put("slice_kind", None),
        "teacher.slices.judged": put("judged", False),
        "teacher.slices.judged_known": put("judged", None),
        "teacher.slices.versus_low": put("versus_low", 0.0001),
        "teacher.slices.versus_low_known": put("versus_low", nan),
        "teacher.slices.calibration_high": worse(put("calibration_high", 0.79)),
        "teacher.slices.calibration_high_known": put("calibration_high", nan),
        "teacher.slices.calibration_low": worse(put("calibration_low", 1.26)),
        "teacher.slices.calibration_low_known": put("calibration_low", nan),
        "teacher.slices.calibration_known": put("calibration", nan),
        "teacher.slices.calibration_versus_low_known": put("calibration_versus_low", nan),
        "teacher.slices.ne_known": put("ne", nan),
        "teacher.slices.auc_known": put("auc", nan),
    },
    ("family", "twins"): {
        "family.twins.row": again,
        "family.twins.judged": put("judged", False),
        "family.twins.judged_known": put("judged", None),
        "family.twins.twin_joint_low": put("twin_joint_low", 0.0001),
        "family.twins.twin_joint_low_known": put("twin_joint_low", nan),
    },
    ("absorbed", "models"): {
        "absorbed.row": again,
        "absorbed.finite_ratio": put("finite_ratio", 0.999999),
        "absorbed.finite_ratio_known": put("finite_ratio", nan, row=2),
        "absorbed.judged": put("judged", False),
        "absorbed.judged_known": put("judged", None),
        "absorbed.versus_low": put("versus_low", 0.0031),
        "absorbed.versus_low_known": put("versus_low", nan),
        "absorbed.calibration_high": worse(put("calibration_high", 0.79)),
        "absorbed.calibration_high_known": put("calibration_high", nan),
        "absorbed.calibration_low": worse(put("calibration_low", 1.26)),
        "absorbed.calibration_low_known": put("calibration_low", nan),
        "absorbed.calibration_known": put("calibration", nan),
        "absorbed.calibration_versus_low_known": put("calibration_versus_low", nan),
    },
}
"""Gate and part to check name to the least change of a good frame that this check refuses."""

KEEPS = [
    ("absorbed", "models", put("versus_low", 0.003)),
    ("events", "days", put("rows_ratio", 0.3)),
    ("events", "days", put("median_rows", nan, row=1)),
    ("examples", "days", put("null_labels_ratio", 0.01)),
    ("examples", "tasks", put("rate_shift_ratio", 0.5)),
    ("teacher", "overall", put("versus_high", 0.003)),
    ("teacher", "overall", both(put("opponent", "log_odds"), put("versus_high", 0.0))),
    ("teacher", "overall", put("gauc", nan)),
    ("teacher", "overall", worse(put("calibration_low", 1.25))),
    ("teacher", "overall", worse(put("calibration_high", 0.8))),
    # As far off as its opponent: the day's base rate has moved.
    ("teacher", "overall", both(put("calibration_low", 1.5), put("calibration_versus_low", 0.0))),
    ("teacher", "slices", both(put("calibration_high", 0.5), put("calibration_versus_low", 0.0))),
    ("teacher", "slices", both(put("versus_low", 0.0), put("versus_high", 0.5))),
    ("teacher", "slices", put("versus_low", 0.9, row=2)),
    ("teacher", "slices", put("calibration_low", 9.0, row=2)),
    ("family", "twins", both(put("twin_low", 0.001), put("twin_high", 0.2))),
    ("family", "twins", put("eta", nan)),
    ("absorbed", "models", put("calibration_high", 0.1, row=2)),
]
"""Changes at or within a limit, or of a row that is too small to judge."""


@pytest.fixture(scope="module")
def refused():
    """Runs the checks of a part over a frame; returns the names of those that fail."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("frames").add_dataframe_asset("frame")
    batches = asset.add_batch_definition_whole_dataframe("all")

    def run(gate, part, frame):
        batch = batches.get_batch(batch_parameters={"dataframe": frame})
        suite = gx.ExpectationSuite(name="part", expectations=SUITES[gate][part])
        results = batch.validate(suite, result_format="BOOLEAN_ONLY").results
        assert len(results) == len(SUITES[gate][part])
        return sorted(r.expectation_config.meta["check"] for r in results if not r.success)

    return run


@pytest.mark.parametrize(("gate", "part"), [(g, p) for g in SUITES for p in SUITES[g]])
def test_a_good_frame_passes(refused, gate, part):
    assert refused(gate, part, good_frames()[gate][part]) == []


@pytest.mark.parametrize(
    ("gate", "part", "check"), [(*where, check) for where in BREAKS for check in BREAKS[where]]
)
def test_one_change_fails_by_the_name_of_its_check(refused, gate, part, check):
    frame = BREAKS[gate, part][check](good_frames()[gate][part])
    assert refused(gate, part, frame) == [check]


@pytest.mark.parametrize(
    ("gate", "part", "prefix"),
    [
        ("teacher", "slices", "teacher.slices"),
        ("family", "twins", "family.twins"),
        ("absorbed", "models", "absorbed"),
    ],
)
def test_no_row_to_judge_fails(refused, gate, part, prefix):
    frame = good_frames()[gate][part].assign(judged=False)
    assert refused(gate, part, frame) == [f"{prefix}.judged", f"{prefix}.judged_rows"]


@pytest.mark.parametrize(("gate", "part", "change"), KEEPS)
def test_a_frame_at_its_limits_passes(refused, gate, part, change):
    assert refused(gate, part, change(good_frames()[gate][part])) == []


def test_every_check_has_a_change_that_fails_it():
    shared = {("family", "overall"), ("family", "slices")}
    assert {(gate, part) for gate in SUITES for part in SUITES[gate]} == BREAKS.keys() | shared
    for (gate, part), breaks in BREAKS.items():
        free = [name for name in names(gate, part) if not name.endswith(".judged_rows")]
        assert sorted(free) == sorted(breaks)


def test_gates_3_and_4_judge_models_alike():
    for part in ("overall", "slices"):
        renamed = [name.replace("teacher", "family") for name in names("teacher", part)]
        assert renamed == names("family", part)
        pairs = zip(SUITES["teacher"][part], SUITES["family"][part], strict=True)
        for one, other in pairs:
            assert one.dict(exclude={"id", "meta"}) == other.dict(exclude={"id", "meta"})


def test_every_check_has_a_sentence():
    for parts in SUITES.values():
        for checks in parts.values():
            assert all(check.description.endswith(".") for check in checks)


@pytest.mark.parametrize("ratio", [1.0, 1.5, -0.1, inf, nan])
def test_a_quota_that_lets_every_row_go_unjudged_is_refused(ratio):
    with pytest.raises(ValueError, match="max_unjudged_ratio is at least 0 and below 1"):
        suites.teacher(**LIMITS | {"max_unjudged_ratio": ratio})


@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(3)), worse=st.sampled_from([-0.1, 0.1]))
def test_the_verdict_does_not_depend_on_the_order_of_rows(refused, order, worse):
    frame = put("versus_low", worse)(good_frames()["family"]["slices"])
    shuffled = frame.iloc[list(order)].reset_index(drop=True)
    expected = ["family.slices.versus_low"] if worse > 0 else []
    assert refused("family", "slices", shuffled) == expected
