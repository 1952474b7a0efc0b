"""A family is promoted as one set, against the champion that the gates judged, or not at all."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from jobs import promote_family, tracking
from jobs.command import write_json
from jobs.errors import ConfigError, PromotionConflict
from jobs.family import student_names
from jobs.promotions import Member, Promotion, commit, read_ledger
from jobs.training.checkpoints import Card
from tests.jobs.training import samples

NAMES = [
    "tiny-teacher",
    "tiny-blue",
    "tiny-red",
    "tiny-blue-feed",
    "tiny-blue-video",
    "tiny-red-home",
]


@dataclass
class Registry:
    """What the job asks of MLflow."""

    tags: dict
    projected: list


@pytest.fixture
def registry(monkeypatch):
    """A registry that answers by name and stage; the real one has its own tests."""
    held = Registry({}, [])

    def register(run, name, folder, stage, tags):
        return f"{name}:{stage}", f"{folder}"

    def project(recipe, home, ledger):
        held.projected.append(ledger.champion and ledger.champion.number)

    monkeypatch.setattr(tracking, "find_child", lambda config, name: name)
    monkeypatch.setattr(tracking, "register", register)
    monkeypatch.setattr(tracking, "project_aliases", project)
    monkeypatch.setattr(
        tracking, "tag_version", lambda config, name, version, tags: held.tags.update({name: tags})
    )
    monkeypatch.setattr(promote_family, "read_card", lambda folder: card())
    return held


def card():
    return Card("m", {}, [], [], 0, samples.END.isoformat(), {}, 0, "run-1")


def run_of(home, number=1, verdict="teacher NE -1.0 %", **plan):
    config = samples.config(
        home, plan=samples.plan(**plan), run=samples.run_context(run_id=f"run-{number}")
    )
    summary = {"job": "judge_family", "details": {"verdict": verdict}}
    write_json(config.run_folder / "summaries" / "judge_family.json", summary)
    return config


def ledger(config):
    return read_ledger(config.table("promotions"))


def another(config):
    """Someone else's promotion."""
    held = ledger(config)
    number = 1 + len(held.rows)
    row = Promotion(
        number=number,
        action="promote",
        day="2026-03-04",
        trained_until=datetime.now(UTC),
        members={"tiny-teacher": Member("9", "8", "/nowhere")},
        previous=None,
        run_id="another",
        reason="",
        who="someone",
        at=datetime.now(UTC),
        config_hash="c",
        code_hash="s",
    )
    commit(held, row, held.champion and held.champion.number)


def test_the_first_family_becomes_champion_as_one_set(tmp_path, registry):
    config = run_of(tmp_path)
    summary = promote_family.run(config)
    (row,) = ledger(config).rows
    assert list(row.members) == sorted(NAMES)
    for name, member in row.members.items():
        assert (member.version, member.judged_version) == (f"{name}:final", f"{name}:judged")
    assert (row.number, row.previous, row.run_id, row.day) == (1, None, "run-1", "2026-03-04")
    assert row.trained_until == samples.END
    assert row.reason == "All gates passed: teacher NE -1.0 %"
    assert (summary.details["promoted"], summary.details["champion"]) == (True, 1)
    assert registry.projected == [1]
    assert {tags["promoted"] for tags in registry.tags.values()} == {"true"}


def test_the_next_family_follows_the_champion(tmp_path, registry):
    promote_family.run(run_of(tmp_path))
    config = run_of(tmp_path, number=2, champion=1, parent=1, bootstrap=False)
    promote_family.run(config)
    rows = ledger(config).rows
    assert [(row.number, row.previous) for row in rows] == [(1, None), (2, 1)]
    assert registry.projected == [1, 2]


def test_a_repeat_of_the_job_promotes_once(tmp_path, registry):
    config = run_of(tmp_path)
    promote_family.run(config)
    summary = promote_family.run(config)
    assert len(ledger(config).rows) == 1
    assert summary.details["promoted"]
    assert summary.details["reason"] == "Promotion 1 was this run's already."


def test_a_champion_that_the_gates_did_not_judge_is_a_conflict(tmp_path, registry):
    config = run_of(tmp_path)
    another(config)
    with pytest.raises(
        PromotionConflict, match=r"judged against champion None, .* now 1; run the day"
    ):
        promote_family.run(config)
    assert [row.run_id for row in ledger(config).rows] == ["another"]
    assert registry.projected == []


def test_of_two_racing_promotions_one_wins(tmp_path, registry, monkeypatch):
    config = run_of(tmp_path)
    read = promote_family.read_ledger

    def slow(uri):
        snapshot = read(uri)
        if not snapshot.rows:
            another(config)
        return snapshot

    monkeypatch.setattr(promote_family, "read_ledger", slow)
    with pytest.raises(PromotionConflict, match="another writer committed 1 first"):
        promote_family.run(config)
    assert [row.run_id for row in ledger(config).rows] == ["another"]


def test_a_run_that_may_not_promote_registers_and_says_why(tmp_path, registry):
    promote_family.run(run_of(tmp_path))
    reason = "Not promotable: champion 1 has already learnt it."
    config = run_of(tmp_path, number=2, champion=1, promotable=False, reason=reason)
    summary = promote_family.run(config)
    assert len(ledger(config).rows) == 1
    assert (summary.details["promoted"], summary.details["reason"]) == (False, reason)
    assert summary.details["champion"] == 1
    assert summary.details["versions"] == {name: f"{name}:final" for name in NAMES}
    assert registry.tags["tiny-teacher"] == {"promoted": "false", "reason": reason}


def test_a_family_that_was_not_judged_is_not_promoted(tmp_path, registry):
    config = samples.config(tmp_path)
    with pytest.raises(ConfigError, match="judge_family has not run"):
        promote_family.run(config)
    assert ledger(config).rows == ()


def test_all_models_of_the_contract_are_members(tmp_path):
    assert ["tiny-teacher", *student_names(samples.config(tmp_path))] == NAMES


def test_a_real_family_serves_what_was_absorbed(next_run):
    config, summaries, _ = next_run
    held = ledger(config)
    assert [row.run_id for row in held.rows] == ["run-1", "run-2"]
    client = tracking.parent_run(config).client
    for name, member in held.champion.members.items():
        aliases = {a: str(v) for a, v in client.get_registered_model(name).aliases.items()}
        assert aliases["champion"] == member.version
        assert aliases["previous"] == held.rows[0].members[name].version
        version = client.get_model_version(name, member.version)
        assert version.tags["judged_version"] == member.judged_version
        assert version.tags["trained_until"] == samples.END.isoformat()
        assert version.tags["promoted"] == "true"
        assert summaries["promote_family"].details["versions"][name] == member.version
