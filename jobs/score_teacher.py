"""Score impressions with the teacher, each by the checkpoint that precedes it.

Reads the packed examples, the parent and the checkpoints of the run's segments. Writes
`teacher_scores/<teacher>`, one commit per day of impression. Guarantees: every score is out of
sample; rows before the first checkpoint have none; scored again, no row changes.

Where the recipe has a `representation`, what is kept of the teacher's representation stands beside
every score, compressed by an encoder that is fitted on earlier rows alone and goes on from the
parent's; the encoders lie below `models/<teacher>/` in the run's folder, and what students read of
it all, of earlier days too, is packed there once for all of them. With `user_vectors` the teacher's
upstream writes `user_embeddings` alike, each vector by the checkpoint that precedes its moment.

    python -m jobs.score_teacher --config var/runs/<run>/config.json
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from jobs import tracking
from jobs.command import JobSummary, main, read_summary
from jobs.config import RunConfig
from jobs.family import parent_folder, segment_folder, teacher_name
from jobs.pack_examples import open_packed
from jobs.training.inputs import to_us
from jobs.training.networks import user_vector_dim
from jobs.training.reader import Reader
from jobs.training.representations import (
    ENCODER,
    Encoder,
    fit_encoders,
    load_encoder,
    save_encoder,
)
from jobs.training.score_facts import fact_metrics, score_facts
from jobs.training.scoring import packed_days, read_representations, score_out_of_sample
from jobs.training.stored import (
    REPRESENTATIONS,
    USER_VECTORS,
    pack_representations,
    pack_user_vectors,
)
from jobs.training.teacher import teacher_reader
from jobs.training.user_vectors import vectors_out_of_sample
from jobs.user_embeddings import TABLE as USER_EMBEDDINGS
from jobs.user_embeddings import read_vectors, write_vectors


def run(config: RunConfig) -> JobSummary:
    """Score all rows that follow the parent or the first segment."""
    torch.set_num_threads(config.resources.num_workers * config.resources.worker_threads)
    packed = open_packed(config)
    name = teacher_name(config)
    trained = read_summary(config, "train_teacher").details
    parent = parent_folder(config, name)
    checkpoints = [] if parent is None else [parent]
    checkpoints += [
        segment_folder(config, name, trained["chosen_trial"], index)
        for index in range(trained["segments"])
    ]
    reader = teacher_reader(config, packed)
    encoders = _encoders(config, name, reader, checkpoints, parent)
    days, version = score_out_of_sample(config, name, reader, checkpoints, encoders)
    details: dict[str, Any] = {
        "days": len(days),
        "scores": score_facts(config, name, reader, packed.spec.tasks, version),
    }
    if encoders is not None:
        details["representation"] = _pack(config, name, reader, encoders, version)
    outputs = {f"teacher_scores/{name}": version}
    if config.user_vectors is not None:
        outputs[USER_EMBEDDINGS], told = _embed(config, reader, checkpoints)
        details["user_vectors"] = told
    child = tracking.find_child(config, name)
    child.metrics(fact_metrics(details["scores"]))
    return JobSummary(
        job="score_teacher",
        inputs=packed.inputs,
        outputs=outputs,
        rows={"scored": sum(days.values()), "unscored": packed.num_rows - sum(days.values())},
        details=details,
    )


def _encoders(
    config: RunConfig, name: str, reader: Reader, checkpoints: Sequence[Path], parent: Path | None
) -> list[Encoder | None] | None:
    """The checkpoints' encoders, the last of them kept for the next day; None if none is asked."""
    if config.representation is None:
        return None
    first = None if parent is None else load_encoder(parent / ENCODER)
    encoders = fit_encoders(checkpoints, reader, config.representation, first)
    for index, encoder in enumerate(encoders):
        if encoder is not None:
            save_encoder(config.run_folder / "models" / name / f"{ENCODER}-{index:03d}", encoder)
            save_encoder(config.run_folder / "models" / name / ENCODER, encoder)
    return encoders


def _pack(
    config: RunConfig,
    name: str,
    reader: Reader,
    encoders: Sequence[Encoder | None],
    version: int | None,
) -> dict[str, Any]:
    settings, packed = config.representation, reader.packed
    assert settings is not None
    kept = read_representations(config, name, packed, settings, version)
    folder, zone = config.run_folder / REPRESENTATIONS, config.contract.time_zone
    counts = pack_representations(folder, packed, kept, settings, zone)
    last = encoders[-1]
    return {
        **counts,
        "encoder": last and last.version,
        "errors": None if last is None else dict(zip(settings.prefixes, last.errors, strict=True)),
    }


def _embed(
    config: RunConfig, reader: Reader, checkpoints: Sequence[Path]
) -> tuple[int | None, dict[str, Any]]:
    """Write and pack users' vectors; the table's version, and counts for the summary."""
    settings, packed = config.user_vectors, reader.packed
    assert settings is not None
    rows, num_early = vectors_out_of_sample(reader, checkpoints, to_us(config.plan.gate_end))
    written, version = write_vectors(config, rows, packed.inputs)
    dim = user_vector_dim(config.teacher.network)
    days = packed_days(config, packed)
    kept = read_vectors(config, days, settings.lookback_days, dim, version)
    folder = config.run_folder / USER_VECTORS
    counts = pack_user_vectors(folder, packed, kept, settings.lookback_days, dim)
    return version, {"written": sum(written.values()), "before_any_teacher": num_early, **counts}


if __name__ == "__main__":
    main(run, __doc__)
