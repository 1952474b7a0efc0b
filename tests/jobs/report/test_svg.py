"""Drawings: escaped text, round ticks, gaps where a figure does not exist."""

import re
from datetime import UTC, datetime

import pytest

from jobs.report.charts import arrivals_chart, learning_chart, rates_chart, slices_chart
from jobs.report.data import Arrivals, DayRates
from jobs.report.facts import gather
from jobs.report.models import Learning
from jobs.report.svg import Drawing, Scale, nice_step, span
from jobs.report.tree import family_tree
from tests.jobs.report import samples
from tests.jobs.report.samples import record

NAN = float("nan")


def svg(drawing):
    return drawing.__html__()


def test_text_of_a_drawing_is_escaped():
    drawing = Drawing(10, 10, 'a "label" <b>')
    drawing.text((1, 2), "<script>", title="a & b")
    drawing.circle((1, 2), 1, "x", "<i>")
    found = svg(drawing)
    assert 'aria-label="a &quot;label&quot; &lt;b&gt;"' in found
    assert ">&lt;script&gt;<title>a &amp; b</title></text>" in found
    assert "<title>&lt;i&gt;</title></circle>" in found


def test_a_line_has_a_gap_where_a_figure_does_not_exist():
    drawing = Drawing(10, 10, "")
    drawing.path([(0, 1), (1, 2), (2, NAN), (3, 4), (4, 5)], "x")
    assert 'd="M0 1 L1 2 M3 4 L4 5"' in svg(drawing)


def test_a_bar_without_height_is_not_drawn():
    drawing = Drawing(10, 10, "")
    drawing.rect((0, 0), 5, 0, "x")
    assert "<rect" not in svg(drawing)


@pytest.mark.parametrize(("rough", "step"), [(0.7, 1), (1.0, 1), (1.1, 2), (3, 5), (0.06, 0.1)])
def test_steps_are_round(rough, step):
    assert nice_step(rough) == pytest.approx(step)


def test_ticks_are_round_and_within():
    assert Scale(0.83, 1.02, 0, 100).ticks(4) == pytest.approx([0.85, 0.9, 0.95, 1.0])


def test_a_scale_of_one_value_is_not_divided_by_zero():
    assert Scale(2, 2, 0, 100)(2) == 0


def test_a_span_leaves_out_what_does_not_exist():
    assert span([1.0, NAN, 2.0], 0.1) == (pytest.approx(0.9), pytest.approx(2.1))


def test_a_span_of_nothing_is_from_zero_to_one():
    assert span([NAN]) == (0.0, 1.0)


def test_arrivals_are_stacked_up_to_their_sum():
    drawn = svg(arrivals_chart([Arrivals("2024-03-05", 60, 20, 10, 5, {"late": 5})]))
    for told in ("60 accepted impressions", "20 accepted rows of other feeds", "5 quarantined"):
        assert f"<title>2024-03-05: {told}</title>" in drawn


def test_a_day_without_labels_has_no_point():
    days = [DayRates(f"2024-03-0{n}", 40, {"buy": rate}) for n, rate in ((4, 0.1), (5, NAN))]
    assert svg(rates_chart(days, "buy")).count("<circle") == 1


def test_days_without_any_label_are_drawn_empty():
    assert "<circle" not in svg(rates_chart([DayRates("2024-03-05", 0, {"buy": NAN})], "buy"))


def test_a_segment_is_named_by_the_day_that_it_closes():
    ends = [datetime(2024, 3, day, 23, tzinfo=UTC) for day in (2, 3, 4)]
    line = Learning("click", "model", ends, [0.9, NAN, 0.8])
    drawn = svg(learning_chart([line], "click", "Europe/Berlin"))
    assert (">03-02</text>" in drawn, ">03-04</text>" in drawn) == (True, True)
    assert drawn.count("<circle") == 2


def test_a_slice_that_is_too_small_is_told_in_words():
    small = record(kind="x", judged=False, rows=1234, positives=7)
    drawn = svg(slices_chart([record(), small], "click", labels=True))
    assert "too small: 1,234 rows, 7 positives" in drawn


def test_a_model_that_was_not_trained_is_said_so(tmp_path):
    config = samples.first_run(tmp_path)
    samples.leave(config, "metrics_teacher", samples.figures())
    drawn = svg(family_tree(gather(config).models))
    assert drawn.count("not trained in this run") == 3
    assert drawn.count("not judged") == 1


def test_a_vertical_that_the_teacher_teaches_is_said_so(tmp_path):
    plain = svg(family_tree(gather(samples.first_run(tmp_path / "plain")).models))
    direct = samples.first_run(tmp_path / "direct", teachers={"app-search": "teacher"})
    drawn = svg(family_tree(gather(direct).models))
    assert "search, straight from the teacher" in drawn
    assert "straight" not in plain
    # One line leads to every student: the two verticals' from different models.
    starts = [re.findall(r'd="M([\d.]+) [^"]*" class="link"', each) for each in (plain, drawn)]
    assert [len(each) for each in starts] == [3, 3]
    assert [len(set(each)) for each in starts] == [2, 2]
    assert [starts[i].count(min(starts[i], key=float)) for i in (0, 1)] == [1, 2]
