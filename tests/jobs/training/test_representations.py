"""What is kept of a teacher's representations: out of sample, comparable, and learnt from."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from jobs import delta
from jobs.errors import ConfigError
from jobs.family import TWIN, stage_folder
from jobs.pack_examples import open_packed
from jobs.representation_settings import Representation
from jobs.training import representations as encoding
from jobs.training import trainee
from jobs.training.checkpoints import load_model, read_card
from jobs.training.inputs import to_us
from jobs.training.representations import (
    ENCODER,
    Encoder,
    fit_encoder,
    fit_encoders,
    load_encoder,
    representations,
    save_encoder,
)
from jobs.training.scoring import read_representations, score_out_of_sample, scores_table
from jobs.training.students import domain_plan, student_reader, twin_reader
from model.representations.quantise import dequantise, quantise, unpack
from tests.jobs.training import samples

NAME = "tiny-teacher"
ENDS = samples.days(1, 2, 3)
SETTINGS = Representation(prefixes=(2, 4), hidden=(8,), steps=60, warm_steps=10, batch_size=32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(config, reader, checkpoints at the ends of three segments)."""
    home = tmp_path_factory.mktemp("home")
    config = samples.config(home, representation=SETTINGS)
    reader = samples.reader(config, samples.world(300))
    segments, folders = samples.segments(*ENDS), []

    def keep(card, learner, _):
        folders.append(home / f"segment-{len(folders)}")
        trainee.save(folders[-1], card, learner)

    card, learner = samples.teacher(config, reader, segments)
    trainee.train(card, learner, reader, segments, keep)
    return config, reader, folders


@pytest.fixture
def config(trained, tmp_path):
    """A home of its own, so that every test writes a table of its own."""
    return trained[0].model_copy(update={"home": str(tmp_path)})


def test_an_encoder_sees_rows_before_those_it_compresses_and_none_twice(trained, monkeypatch):
    _, reader, folders = trained
    seen = []

    def note(model, reader, rows):
        seen.append(rows)
        return representations(model, reader, rows)

    monkeypatch.setattr(encoding, "representations", note)
    fit_encoders(folders, reader, SETTINGS, None)
    us = reader.packed.event_us
    for rows, begin, end in zip(seen, [0, *map(to_us, ENDS)], map(to_us, ENDS), strict=False):
        assert np.array_equal(rows, np.flatnonzero((us >= begin) & (us < end)))
    assert len(seen) == 3
    seen.clear()
    few = SETTINGS.model_copy(update={"max_rows": 5})
    fit_encoders(folders[:1], reader, few, None)
    assert np.array_equal(seen[0], np.flatnonzero(us < to_us(ENDS[0]))[-5:])


def test_an_encoder_that_a_parent_has_is_taken_as_it_is(trained):
    _, reader, folders = trained
    (first,) = fit_encoders(folders[:1], reader, SETTINGS, None)
    found = fit_encoders(folders[:2], reader, SETTINGS, first)
    assert found[0] is first
    assert found[1].version != first.version


def test_every_row_has_what_its_own_checkpoint_made_of_it(config, trained):
    _, reader, folders = trained
    encoders = fit_encoders(folders, reader, SETTINGS, None)
    score_out_of_sample(config, NAME, reader, folders, encoders)
    rows = delta.read_days(scores_table(config, NAME)).to_pylist()
    by_run = {end: (load_model(f), e) for end, f, e in zip(ENDS, folders, encoders, strict=True)}
    at = {name: row for row, name in enumerate(reader.packed.impression_ids().to_pylist())}
    ids = reader.packed.ids().to_pylist()
    assert len(rows) > 150
    for row in rows[::11]:
        model, encoder = by_run[row["trained_until"]]
        place = at[row["impression_id"]]
        latent = encoder.model.encode(representations(model, reader, np.array([place])))
        codes = unpack(
            torch.frombuffer(bytearray(row["representation"]), dtype=torch.uint8)[None], 4, 4
        )
        # A product of matrices may round otherwise in a batch of another size.
        assert (dequantise(codes, 4) - dequantise(quantise(latent, 4), 4)).abs().max() <= 1 / 8
        assert row["encoder_version"] == encoder.version
        assert (row["representation_dim"], row["representation_bits"]) == (4, 4)
        assert row["user_id"] == ids[place]["user_id"]
        assert row["known_ts"] == ids[place]["known_ts"]


def test_scored_again_no_row_and_no_version_changes(config, trained):
    _, reader, folders = trained

    def score():
        encoders = fit_encoders(folders, reader, SETTINGS, None)
        return score_out_of_sample(config, NAME, reader, folders, encoders)

    days, version = score()
    ids = delta.read_days(scores_table(config, NAME))["impression_id"]
    assert len(ids) == len(pc.unique(ids))
    assert score() == (days, version)


def test_days_scored_without_representations_stay_readable(config, trained):
    _, reader, folders = trained
    score_out_of_sample(config, NAME, reader, folders)
    kept = read_representations(config, NAME, reader.packed, SETTINGS, None)
    assert kept.num_rows == 0
    early = replace(reader, keep=reader.packed.event_us < to_us(ENDS[1]))
    encoders = fit_encoders(folders, reader, SETTINGS, None)
    days, version = score_out_of_sample(config, NAME, early, folders, encoders)
    kept = read_representations(config, NAME, reader.packed, SETTINGS, version)
    assert 0 < kept.num_rows == sum(days.values())
    other = SETTINGS.model_copy(update={"bits": 8})
    assert read_representations(config, NAME, reader.packed, other, version).num_rows == 0


def test_a_late_representation_is_fatal(config, trained):
    _, reader, folders = trained
    encoders = fit_encoders(folders, reader, SETTINGS, None)
    days, _ = score_out_of_sample(config, NAME, reader, folders, encoders)
    uri, day = scores_table(config, NAME), max(days)
    rows = delta.read_days(uri, [day]).drop_columns("day")
    late = pa.array([samples.END] * rows.num_rows, pa.timestamp("us", "UTC"))
    rows = rows.set_column(rows.column_names.index("trained_until"), "trained_until", late)
    commit = {"run_id": "x", "config_hash": "c", "code_hash": "c", "inputs": {}}
    delta.write_arrow_day(uri, rows, day, ["event_ts", "impression_id"], commit)
    with pytest.raises(ConfigError, match="must come from a checkpoint trained until before"):
        read_representations(config, NAME, reader.packed, SETTINGS, None)


def drifting(num_rows, drift, seed):
    """Representations of three causes, whose mixing has moved a little."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    moved = mixing + drift * torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
    return torch.randn(num_rows, 3, generator=generator) @ moved


def test_what_a_later_encoder_keeps_is_comparable_with_what_the_one_before_kept():
    settings = SETTINGS.model_copy(update={"steps": 200})
    first = fit_encoder(drifting(300, 0.0, 2), settings)
    later = fit_encoder(drifting(300, 0.05, 3), settings, first)
    # Told the same rows after the drift, a fresh encoder speaks another language.
    other = fit_encoder(drifting(300, 0.05, 3), settings.model_copy(update={"seed": 9}))
    same = drifting(100, 0.0, 4)
    latents = [each.model.encode(same) for each in (first, later, other)]
    near, far = ((latents[0] - each).abs().mean().item() for each in latents[1:])
    assert near < 0.5 * far
    assert len({each.version for each in (first, later, other)}) == 3


def test_an_encoder_of_another_shape_starts_afresh():
    first = fit_encoder(drifting(100, 0.0, 2), SETTINGS)
    wider = SETTINGS.model_copy(update={"prefixes": (2, 6)})
    later = fit_encoder(drifting(100, 0.0, 2), wider, first)
    assert later.version == fit_encoder(drifting(100, 0.0, 2), wider).version


def test_an_encoder_comes_back_as_it_was_saved(tmp_path):
    encoder = fit_encoder(drifting(100, 0.0, 2), SETTINGS)
    save_encoder(tmp_path / "e", encoder)
    found = load_encoder(tmp_path / "e")
    assert (found.version, found.errors, found.num_rows) == (
        encoder.version,
        encoder.errors,
        100,
    )
    assert np.array_equal(found.compress(drifting(5, 0, 1)), encoder.compress(drifting(5, 0, 1)))
    assert load_encoder(tmp_path / "none") is None
    other = fit_encoder(drifting(100, 0.0, 3), SETTINGS)
    card = (tmp_path / "e" / "encoder.json").read_text()
    save_encoder(tmp_path / "e", other)
    (tmp_path / "e" / "encoder.json").write_text(card)
    with pytest.raises(ConfigError, match="the weights are of version"):
        load_encoder(tmp_path / "e")


def test_representations_that_are_not_finite_are_refused():
    spoilt = drifting(50, 0.0, 2)
    spoilt[3] = torch.inf
    with pytest.raises(ConfigError, match="found 1 of 50 rows that are not"):
        fit_encoder(spoilt, SETTINGS)


def test_the_summary_tells_coverage_age_calibration_and_encoders(told):
    config, summaries, _ = told
    details, packed = summaries["score_teacher"].details, open_packed(config)
    scores = delta.read_days(scores_table(config, NAME))
    assert details["scores"]["coverage"] == scores.num_rows / packed.num_rows
    ages = [
        (row["event_ts"] - row["trained_until"]).total_seconds() / 86_400
        for row in scores.to_pylist()
    ]
    assert details["scores"]["age_days"] == pytest.approx(np.mean(ages))
    labels = dict(zip(packed.impression_ids().to_pylist(), packed.labels[:, 0], strict=True))
    pairs = [(row["p_click"], labels[row["impression_id"]]) for row in scores.to_pylist()]
    pairs = [(p, y) for p, y in pairs if p is not None and not np.isnan(y)]
    expected = sum(p for p, _ in pairs) / sum(y for _, y in pairs)
    assert details["scores"]["calibration"]["click"] == pytest.approx(expected, rel=0.05)
    assert details["representation"]["encoder_versions"] > 1
    assert details["representation"]["rows_with_history"] > 50
    assert sorted(details["representation"]["errors"]) == [2, 4]


def test_students_read_what_was_kept_and_their_twins_do_not(told):
    config, _, _ = told
    packed = open_packed(config)
    plan = domain_plan(config, "blue")
    reader = student_reader(config, plan, packed, None)
    rows = np.flatnonzero(reader.keep)[-50:]
    batch, untold = reader.batch(rows), twin_reader(reader).batch(rows)
    assert len(batch.representations.values) > 20
    assert len(untold.representations.values) == 0
    assert not batch.user_vector.isnan().all()
    assert untold.user_vector.isnan().all()
    for folder in (stage_folder(config, plan.name, stage) for stage in ("judged", "final")):
        student, twin = load_model(folder).ranker, load_model(folder / TWIN)
        assert not torch.equal(student(batch).logits, student(untold).logits)
        assert student.config == twin.config
        assert read_card(folder).distillation["alignment"]["dim"] == 4
        # The twin never learnt to read one.
        fresh = type(twin)(twin.config, config.domain_student.training.seed)
        for part in ("representation_history", "user_vector"):
            weights, start = (getattr(each, part).state_dict() for each in (twin, fresh))
            assert torch.equal(weights["projection.weight"], start["projection.weight"])
            assert not torch.equal(weights["default"], start["default"])


def test_the_encoder_goes_with_the_teacher_that_absorbed_the_gate_window(told):
    config, summaries, records = told
    held = load_encoder(stage_folder(config, NAME, "final") / ENCODER)
    assert isinstance(held, Encoder)
    assert held.version == summaries["score_teacher"].details["representation"]["encoder"]
    assert {record["model"] for record in records} >= {NAME, "tiny-blue", "tiny-blue-feed"}
    assert all(record["finite_ratio"] == 1.0 for record in records)
