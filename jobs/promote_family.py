"""Promote the family that passed the gates, as one set, or say why it is not promoted.

Reads the final checkpoints and the ledger. Writes one row of `promotions`, registers the versions
and then lets the registry's aliases follow. Guarantees: the promotion counts only if the champion
is still the one that the gates judged against; a run whose gate window its champion has already
learnt registers but never promotes.

    python -m jobs.promote_family --config var/runs/<run>/config.json
"""

from __future__ import annotations

import getpass
from datetime import UTC, datetime

from jobs import tracking
from jobs.command import JobSummary, log, main, read_summary
from jobs.config import RunConfig
from jobs.family import stage_folder, student_names, teacher_name, trained_from
from jobs.promotions import Ledger, Member, Promotion, commit, read_ledger
from jobs.training.checkpoints import read_card


def run(config: RunConfig) -> JobSummary:
    """Register the final versions; promote them if the plan allows."""
    names = [teacher_name(config), *student_names(config)]
    members = {name: _register(config, name) for name in names}
    uri = config.table("promotions")
    ledger = read_ledger(uri)
    champion = ledger.champion
    promoted = champion is not None and champion.run_id == config.run.run_id
    reason = config.plan.reason
    if promoted:
        reason = f"Promotion {champion.number} was this run's already."  # pyright: ignore[reportOptionalMemberAccess]
    elif config.plan.promotable:
        reason = _reason(config)
        commit(ledger, _promotion(config, ledger, members, reason), config.plan.champion)
        promoted = True
    ledger = read_ledger(uri)
    tracking.project_aliases(config, config.home, ledger)
    for name, member in members.items():
        outcome = {"promoted": str(promoted).lower(), "reason": reason}
        tracking.tag_version(config, name, member.version, outcome)
    log.info("%s: %s", "promoted" if promoted else "not promoted", reason)
    number = None if ledger.champion is None else ledger.champion.number
    return JobSummary(
        job="promote_family",
        outputs={"promotions": ledger.snapshot.version() if ledger.snapshot else None},
        details={
            "promoted": promoted,
            "reason": reason,
            "champion": number,
            "versions": {name: member.version for name, member in members.items()},
        },
    )


def _register(config: RunConfig, name: str) -> Member:
    run = tracking.find_child(config, name)
    judged, _ = tracking.register(run, name, stage_folder(config, name, "judged"), "judged", {})
    final = stage_folder(config, name, "final")
    tags = {
        "judged_version": judged,
        "trained_from": str(trained_from(config, name)),
        "trained_until": str(read_card(final).trained_until),
        "day": config.plan.day.isoformat(),
        "run_id": config.run.run_id,
    }
    version, uri = tracking.register(run, name, final, "final", tags)
    return Member(version=version, judged_version=judged, uri=uri)


def _promotion(
    config: RunConfig, ledger: Ledger, members: dict[str, Member], reason: str
) -> Promotion:
    champion = ledger.champion
    return Promotion(
        number=1 if champion is None else champion.number + 1,
        action="promote",
        day=config.plan.day.isoformat(),
        trained_until=config.plan.gate_end,
        members=members,
        previous=None if champion is None else champion.number,
        run_id=config.run.run_id,
        reason=reason,
        who=getpass.getuser(),
        at=datetime.now(UTC),
        config_hash=config.run.config_hash,
        code_hash=config.run.code_hash,
    )


def _reason(config: RunConfig) -> str:
    """Why the gates let the family pass, with the teacher's figures."""
    judged = read_summary(config, "judge_family").details
    return f"All gates passed: {judged['verdict']}"


if __name__ == "__main__":
    main(run, __doc__)
