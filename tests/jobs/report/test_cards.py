"""Model cards: every section is of the run's own figures."""

from __future__ import annotations

import pytest

from jobs.report.cards import MAX_SLICES, model_card
from jobs.report.facts import gather
from tests.jobs.report import samples
from tests.jobs.report.samples import figures


@pytest.fixture
def config(tmp_path):
    return samples.promoted(samples.daily_run(tmp_path))


def test_a_card_has_the_sections_of_its_model(config):
    facts = gather(config)
    card = model_card(facts, facts.teacher)
    assert [line for line in card.splitlines() if line.startswith("### ")][:3] == [
        "### Intended use",
        "### Training data",
        "### Training",
    ]
    assert "too large to serve" in card
    assert "1,234 impressions" in card


def test_a_student_says_where_it_may_be_used(config):
    facts = gather(config)
    domain, vertical = (model_card(facts, facts.models[i]) for i in (1, 2))
    assert "every surface of `app`" in domain
    assert "surfaces `" in vertical
    assert "Not for other surfaces" in vertical


def test_a_small_figure_is_marked_and_a_limit(config):
    samples.leave(config, "metrics_teacher", figures(judged=False))
    facts = gather(config)
    card = model_card(facts, facts.teacher)
    assert "| click (too small to judge) |" in card
    assert "- Too few rows to judge: all (click)." in card


def test_transfer_is_told_or_why_it_is_not(config):
    twin = figures(
        "shop-app", twin_value=-0.001, eta=0.5, eta_low=0.3, eta_high=0.8, tr_reason="no version"
    )
    samples.leave(config, "metrics_twins", twin)
    facts = gather(config)
    card = model_card(facts, facts.models[1])
    assert "eta 0.50 (95 %: 0.30 to 0.80); TR undefined (no version)" in card


def test_the_age_of_what_a_student_learnt_from_is_told(config):
    scores = {"coverage": 0.736, "age_days": 0.607, "calibration": {}}
    samples.job(config, "score_teacher", details={"scores": scores})
    facts = gather(config)
    assert facts.teacher.teaches == "scores of 74 % of its rows, 0.6 days old"
    assert facts.models[2].teaches == ""
    card = model_card(facts, facts.models[1])
    assert "from what `shop-teacher` told: scores of 74 % of its rows, 0.6 days old." in card


def test_the_worst_slices_come_first(config):
    slices = [
        figures(slice_kind="vertical", slice=f"s{n}", versus_value=n / 100, judged=True)
        for n in range(MAX_SLICES + 2)
    ]
    samples.leave(config, "metrics_teacher", figures(), *slices)
    facts = gather(config)
    told = [line for line in model_card(facts, facts.teacher).splitlines() if "- s" in line]
    assert len(told) == MAX_SLICES
    assert told[0].startswith(f"- s{MAX_SLICES + 1}, click: +")
