"""The report as a page: what a reader sees of every kind of run."""

import re
from dataclasses import replace
from typing import Any

import pytest

from jobs.promotions import commit, read_ledger
from jobs.report.charts import interval_glyph, reach, standing
from jobs.report.data import Arrivals, Data, DayRates, Lengths, Maturity, Share
from jobs.report.facts import gather
from jobs.report.figures import Interval
from jobs.report.page import beside, render, time_bars
from jobs.report.runs import Job
from tests.jobs.report import samples
from tests.jobs.report.samples import absorbed, figures, record, rows, section, text
from tests.jobs.samples import promotion

EVIL = "<script>alert(1)</script>"
SECTIONS = ["family", "metrics", "reliability", "slices", "training", "absorbed", "gates", "data"]
SECTIONS += ["pipeline", "lineage"]

DATA = Data(
    arrivals=[Arrivals("2024-03-05", 1000, 20, 3, 2, {"late": 4})],
    shares=[Share("surface", EVIL, 10, 0.25, {"click": 0.2, "buy": 0.1})],
    maturity=[Maturity("buy", "1 d", 40, 0, 0, 0, 0.05)],
    rates=[DayRates("2024-03-05", 40, {"click": 0.2, "buy": float("nan")})],
    lengths=[Lengths("seen by an impression", 40, [0, 1, 2, 3, 4, 5, 6], 4)],
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The page of a run that promoted, with a table of everything."""
    config = samples.promoted(samples.daily_run(tmp_path_factory.mktemp("home")))
    curve = [{"ends": f"2024-03-0{day}T11:00:00+00:00", "ne": [0.9, 0.8]} for day in (2, 3, 4)]
    samples.job(config, "train_teacher", rows={"learnt": 1234}, details={"curve": curve})
    bins = {"predicted": [0.1, 0.4], "observed": [0.2, 0.3], "rows": [20, 20]}
    samples.leave(
        config,
        "reliability_teacher",
        {"model": "shop-teacher", "task": "click", "key": "model"} | bins,
    )
    of_domain = figures(**samples.of("app"))
    samples.leave(config, "metrics_teacher", figures(), figures(task="buy"), of_domain)
    ledger = read_ledger(config.table("promotions"))
    commit(ledger, promotion(1, config.plan.gate_end), None)
    return render(replace(gather(config), data=DATA))


def page(config):
    return render(gather(config))


def test_a_whole_run_has_every_section(whole):
    assert re.findall(r'<section id="(\w+)">', whole) == SECTIONS


def test_the_navigation_names_every_section(whole):
    links = re.search(r"<nav>(.*?)</nav>", whole, re.DOTALL)
    assert links is not None
    assert re.findall(r'href="#(\w+)"', links.group(1)) == SECTIONS


def test_the_page_loads_nothing_from_elsewhere(whole):
    """Style, drawings and icon are in the file: no source, no import, no address but links."""
    loads = (
        r"""\bsrc\s*=|<link(?! rel="icon" href="data:,">)|<script|<iframe|@import|url\(|srcset"""
    )
    assert re.findall(loads, whole) == []


def test_the_page_names_no_other_host(whole):
    assert re.findall(r"""https?://[^\s"'<]+""", whole) == []


def test_a_store_that_is_served_is_only_a_link(tmp_path):
    config = samples.first_run(tmp_path)
    served = config.resources.model_copy(update={"mlflow_uri": "http://mlflow:5000"})
    drawn = page(config.model_copy(update={"resources": served}))
    assert re.findall(r'[\w-]+="http[^"]*"', drawn) == ['href="http://mlflow:5000"']


def test_names_of_the_log_are_escaped_in_tables(whole):
    assert "surface &lt;script&gt;alert(1)&lt;/script&gt;" in re.sub(r"</?span[^>]*>", "", whole)


def test_no_name_of_the_log_becomes_markup(whole):
    assert EVIL not in whole


def test_names_of_the_log_are_escaped_in_what_a_gate_found(tmp_path):
    config = samples.first_run(tmp_path)
    failed = samples.check("rows", passed=False, observed=EVIL, failing=[{EVIL: EVIL}])
    samples.gate(config, "events", failed, reason=EVIL)
    drawn = page(config)
    assert (EVIL in drawn, text(drawn).count(EVIL) > 3) == (False, True)


def test_an_error_is_escaped(tmp_path):
    config = samples.first_run(tmp_path)
    samples.job(config, "build_tables", failed=f"KeyError: {EVIL}")
    assert f"Where it crashed: build_tables KeyError: {EVIL}" in text(page(config))


def test_the_verdict_comes_first(whole):
    verdict = text(whole.split("<nav>")[0])
    assert "Promoted as family #2: 5 gates passed with 5 checks. All gates passed." in verdict


def test_the_comparison_tells_the_difference_with_its_interval(whole):
    found = next(row for row in rows(section(whole, "family")) if row[0] == "shop-teacher")
    expected = ["click", "2,000", "500", "0.8500", "−1.00 %", "−2.00 to −0.50 %", ""]
    assert found[1:] == expected


def test_a_figure_of_too_few_rows_has_no_interval(tmp_path):
    config = samples.promoted(samples.daily_run(tmp_path))
    samples.leave(config, "metrics_teacher", figures(judged=False))
    (found,) = [r for r in rows(section(page(config), "family")) if r[0] == "shop-teacher"]
    assert found[5:7] == ["−1.00 %", "too small to judge"]


def test_an_undefined_figure_is_told_with_its_reason(tmp_path):
    config = samples.promoted(samples.daily_run(tmp_path))
    undefined: dict[str, Any] = {"ne": None, "ne_low": None, "ne_high": None, "versus_value": None}
    samples.leave(config, "metrics_teacher", figures(positives=0, judged=False, **undefined))
    (found,) = [r for r in rows(section(page(config), "family")) if r[0] == "shop-teacher"]
    assert found[4] == "– no positives"


def test_an_undefined_eta_is_told_with_its_reason(tmp_path):
    config = samples.promoted(samples.daily_run(tmp_path))
    twin = figures("shop-app", twin_value=-0.001, eta=None, eta_reason="too small a gain")
    samples.leave(config, "metrics_twins", twin)
    found = text(section(page(config), "family"))
    assert "Why ratios are undefined (1) shop-app click eta too small a gain" in found


def test_the_age_of_scores_stands_under_the_tree(tmp_path):
    config = samples.promoted(samples.daily_run(tmp_path))
    scores = {"coverage": 0.5, "age_days": None, "calibration": {}}
    samples.job(config, "score_teacher", details={"scores": scores})
    found = text(section(page(config), "family"))
    assert "averages over the run's rows: shop-teacher, scores of 50 % of its rows." in found


def test_the_best_metric_of_a_row_is_shaded(whole):
    first = re.search(r'<td class="n best">([^<]*)</td>', section(whole, "metrics"))
    assert first is not None
    assert first.group(1) == "0.8500"


def test_a_run_that_trained_on_nothing_says_so_without_a_table(tmp_path):
    config = samples.promoted(samples.daily_run(tmp_path))
    curve = [{"ends": "2024-03-05T23:00:00+00:00", "ne": [None, None]}]
    samples.job(config, "train_teacher", rows={"learnt": 0}, details={"curve": curve})
    found = section(page(config), "training")
    assert "nothing was trained before it; what the window itself taught" in text(found)
    assert rows(found) == []


def test_absorbed_tells_both_models_and_their_difference(whole):
    heads, click, buy = rows(section(whole, "absorbed"))
    assert heads[2:] == [
        "Rows",
        "Positives",
        "NE standing still",
        "NE while learning",
        "Difference",
        "95 %",
        "",
        "Calibration",
    ]
    figures_of_click = ["2,000", "500", "0.8507", "0.8500", "−0.08 %", "−0.18 to +0.02 %"]
    assert click == ["shop-teacher", "click", *figures_of_click, "", "1.020"]
    assert (buy[0], buy[1], buy[6]) == ("", "buy", "+0.31 %")


def test_absorbed_draws_a_glyph_a_row(whole):
    assert section(whole, "absorbed").count("<svg") == 2


def test_absorbed_tells_why_a_figure_is_undefined(tmp_path):
    config = samples.promoted(samples.daily_run(tmp_path))
    nothing: dict[str, Any] = {
        "ne": None,
        "ne_judged": None,
        "calibration": None,
        "versus_value": None,
    }
    few = absorbed(positives=0, judged=False, **nothing)
    samples.leave(config, "metrics_absorbed", few)
    _, found = rows(section(page(config), "absorbed"))
    undefined = ["–", "– no positives", "–", "too small to judge", "", "– no positives"]
    assert found[4:] == undefined


def test_a_run_that_absorbed_nothing_says_nothing_of_it(tmp_path):
    config = samples.promoted(samples.daily_run(tmp_path))
    (config.run_folder / "metrics_absorbed.json").unlink()
    assert 'absorbed">' not in page(config)


def test_a_run_that_ended_after_the_first_gate_is_drawn(tmp_path):
    config = samples.first_run(tmp_path)
    samples.jobs_until(config, "gate_events")
    samples.gate(config, "events")
    drawn = page(config)
    assert "Ended after gate_events without a verdict" in text(drawn.split("<nav>")[0])
    assert text(section(drawn, "family")) == "Family No model was judged in this run."
    assert re.findall(r'<section id="(\w+)">', drawn) == [
        "family",
        "gates",
        "data",
        "pipeline",
        "lineage",
    ]


def test_gates_that_were_not_reached_say_so(tmp_path):
    config = samples.first_run(tmp_path)
    samples.gate(config, "events")
    found = text(section(page(config), "gates"))
    assert found.count("not judged The run ended before this gate.") == 4


def test_a_refusing_gate_comes_first_with_the_rows_that_failed(tmp_path):
    config = samples.first_run(tmp_path)
    samples.gate(config, "events")
    bad = samples.check("ne", passed=False, observed=0.0123, failing=[{"model": "shop-app"}])
    samples.gate(config, "examples", bad, reason="Gate 2 refused.")
    gates = section(page(config), "gates")
    assert re.findall(r'id="gate-(\d)"', gates) == ["2", "1", "3", "4", "5"]
    assert ["ne", "Rule of ne.", "≤ 1", "0.0123"] in rows(gates)
    assert ["shop-app"] in rows(gates)


def test_a_run_before_any_job_is_drawn(tmp_path):
    found = text(section(page(samples.first_run(tmp_path)), "pipeline"))
    assert found.count("not run") == 15


def test_data_without_labels_is_told_as_undefined(whole):
    assert ["buy", "1 d", "40", "0.0 %", "0", "0", "–", "5.00 %"] in rows(section(whole, "data"))


def test_rows_by_verdict_are_counted(whole):
    found = rows(section(whole, "data"))
    assert ["2024-03-05", "1,000", "20", "3", "2", "4", "late 4"] in found


def test_the_family_that_serves_is_marked_in_the_ledger(whole):
    found = next(row for row in rows(section(whole, "lineage")) if row[0] == "1")
    assert found[1] == "promote, serves"


def test_idle_time_between_jobs_is_cut_short():
    jobs = [
        Job("a", state="done", started=0, seconds=50),
        Job("b", state="done", started=100_000, seconds=50),
    ]
    first, second = time_bars(jobs)
    assert (first.start, first.width) == (0, pytest.approx(0.49))
    assert (second.start, second.width) == (pytest.approx(0.51), pytest.approx(0.49))


def test_a_job_that_never_began_has_no_bar():
    bar = time_bars([Job("a", state="done", started=5, seconds=1), Job("b")])[1]
    assert (bar.start, bar.width) == (0, 0)


def test_who_is_beside_any_model_has_a_column_once():
    found = beside([record(), record(ne_twin=0.9, ne_stranger=0.8)])
    assert found == ["champion", "twin", "trees", "stranger"]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-0.2, -0.1, "better"), (0.1, 0.2, "worse"), (-0.1, 0.1, "open"), (-0.1, 0.0, "open")],
)
def test_a_difference_is_certain_only_on_one_side_of_zero(low, high, said):
    assert standing(Interval(0, low, high)) == said


def test_an_undefined_difference_is_open():
    assert standing(Interval(*[float("nan")] * 3)) == "open"


def test_glyphs_of_a_column_reach_zero_and_the_limit():
    low, high = reach([Interval(-0.01, -0.02, -0.005)], 0.003)
    assert (low, high) == (pytest.approx(-0.02184), pytest.approx(0.00484))


def test_a_glyph_without_interval_draws_only_its_axis():
    drawn = interval_glyph(Interval(*[float("nan")] * 3), (-1, 1), 0.0, "open").__html__()
    assert (drawn.count("<line"), drawn.count("<circle")) == (1, 0)
