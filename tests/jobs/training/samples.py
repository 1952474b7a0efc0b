"""A tiny world for the tests of training: contract, rows, histories, vocabulary, configuration.

Its days are days in Shanghai, so that a day in UTC is never one by accident.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from jobs.command import write_json
from jobs.config import Plan, RunConfig, RunContext, Timeline, day_of, day_start
from jobs.contract import LogContract
from jobs.training import trainee
from jobs.training.checkpoints import Card
from jobs.training.inputs import Packed, pack
from jobs.training.loop import Learner
from jobs.training.reader import Reader
from jobs.training.segments import Segment
from jobs.training.students import domain_plan, student_card
from jobs.training.teacher import TeacherJob, teacher_reader
from jobs.training.user_vectors import user_moments, write_moments
from jobs.training_settings import Distillation, Network, Student, Training, Trial
from jobs.vocabulary import EVENT_TYPE, Vocabulary
from model.batch import Batch
from model.interaction.config import WukongConfig

ZONE = "Asia/Shanghai"
FIRST_DAY, LAST_DAY = date(2026, 3, 1), date(2026, 3, 4)
START, END = day_start(FIRST_DAY, ZONE), day_start(LAST_DAY + timedelta(days=1), ZONE)
GATE_START = END - timedelta(hours=12)
WINDOWS = {"click": timedelta(minutes=30), "buy": timedelta(days=1)}
SURFACES = {"blue_feed": ("blue", "feed"), "blue_video": ("blue", "video"), "red": ("red", "home")}
NUM_EVENTS = 6


def contract(**features: Any) -> LogContract:
    """Two domains, three verticals, two tasks of which one takes a day to mature."""
    columns = {"user_id": "user", "ad_id": "ad", "surface": "place", "event_ts": "time"}
    return LogContract.model_validate(
        {
            "name": "tiny",
            "title": "A tiny world",
            "time_zone": ZONE,
            "first_day": FIRST_DAY,
            "feeds": {
                "impressions": {
                    "kind": "impressions",
                    "path": "rows.parquet",
                    "id": ["id"],
                    "context": {"seconds": "seconds"},
                    "outcomes": {name: {"when": f"{name} = 1"} for name in WINDOWS},
                    **columns,
                }
            },
            "domains": {
                "blue": {
                    "verticals": {
                        "feed": {"surfaces": ["blue_feed"]},
                        "video": {"surfaces": ["blue_video"]},
                    }
                },
                "red": {"verticals": {"home": {"surfaces": ["red"]}}},
            },
            "tasks": {
                "click": {"outcomes": ["click"], "window": WINDOWS["click"]},
                "buy": {"outcomes": ["buy"], "window": WINDOWS["buy"], "level": "domain"},
            },
            "features": {
                "categorical": ["user_id", "ad_id", "surface", "hour"],
                "numeric": ["seconds"],
                "entities": {
                    "all": [],
                    "user": ["user_id"],
                    "ad": ["ad_id"],
                    "surface": ["surface"],
                },
                "counts": {"shown": ["impression"], "click": ["click"], "buy": ["buy"]},
                "rates": {"click": "shown", "buy": "shown"},
                "prior_entity": "all",
                "windows_days": [1, 7],
                **features,
            },
            "timeline_event_types": ["impression", "click"],
        }
    )


@dataclass(frozen=True)
class World:
    """The rows that the data jobs would hand over."""

    examples: pa.Table
    timelines: pa.Table

    def vocabulary(self, version: int = 0, share: float = 0.6) -> Vocabulary:
        """The first `share` of every field's values, so that a larger share extends a smaller."""
        values = {}
        for field in (*contract().features.categorical, EVENT_TYPE):
            column = self.timelines[field] if field == EVENT_TYPE else self.examples[field]
            seen = sorted({v for row in column.to_pylist() for v in _values(row)})
            values[field] = pa.array(seen[: max(1, int(share * len(seen)))])
        return Vocabulary(version, values)


def world(num_rows: int = 600, seed: int = 0) -> World:
    """Impressions at random times, some ads better than others; histories that fit them."""
    draw = np.random.default_rng(seed)
    seconds = np.sort(draw.uniform(0, (END - START).total_seconds(), num_rows))
    times = [START + timedelta(seconds=float(s)) for s in seconds]
    ads, users = draw.integers(0, 20, num_rows), draw.integers(0, 12, num_rows)
    surfaces = draw.choice(list(SURFACES), num_rows)
    columns: dict[str, Any] = {
        "impression_id": [f"i{row:05d}" for row in range(num_rows)],
        "event_ts": pa.array(times, pa.timestamp("us", "UTC")),
        "known_ts": pa.array(times, pa.timestamp("us", "UTC")),
        "user_id": [f"u{user:02d}" for user in users],
        "ad_id": [f"a{ad:02d}" for ad in ads],
        "surface": surfaces.tolist(),
        "hour": [str((time + timedelta(hours=8)).hour) for time in times],
        "domain": [SURFACES[s][0] for s in surfaces],
        "vertical": [SURFACES[s][1] for s in surfaces],
        "seconds": pa.array(
            [None if x < 5 else float(x) for x in draw.integers(0, 60, num_rows)], pa.float64()
        ),
        "day": [day_of(time, ZONE) for time in times],
    }
    for entity in ("all", "user", "ad", "surface"):
        for window in (1, 7):
            shown = draw.poisson(40 * window, num_rows)
            columns[f"{entity}_shown_{window}d"] = shown
            columns[f"{entity}_click_{window}d"] = draw.binomial(shown, 0.3)
            columns[f"{entity}_buy_{window}d"] = draw.binomial(shown, 0.1)
    clicked = draw.random(num_rows) < np.where(ads % 2 == 0, 0.6, 0.15)
    bought = clicked & (draw.random(num_rows) < 0.4)
    for task, happened in (("click", clicked), ("buy", bought)):
        mature = [time + WINDOWS[task] for time in times]
        labels = [int(y) if m <= END else None for y, m in zip(happened, mature, strict=True)]
        columns[f"label_{task}"] = pa.array(labels, pa.int8())
        columns[f"mature_ts_{task}"] = pa.array(mature, pa.timestamp("us", "UTC"))
    histories = _histories(columns["user_id"], columns["ad_id"], surfaces, times, clicked)
    columns["history_end"] = [
        sum(event["event_ts"] < time for event in histories[user, day_of(time, ZONE)])
        for user, time in zip(columns["user_id"], times, strict=True)
    ]
    return World(pa.table(columns), _timelines(histories))


def _histories(
    users: list[str], ads: list[str], surfaces: Iterable[str], times: list[datetime], clicked: Any
) -> dict[tuple[str, date], list[dict[str, Any]]]:
    """By user and day everything up to the day's end, oldest first."""
    events: dict[str, list[dict[str, Any]]] = {}
    for user, ad, surface, time, click in zip(users, ads, surfaces, times, clicked, strict=True):
        event = {
            "item_id": ad,
            "surface": surface,
            "event_type": "impression",
            "value": None,
            "event_ts": time,
            "known_ts": time,
            "time_is_synthetic": False,
        }
        events.setdefault(user, []).append(event)
        if click:
            later = time + timedelta(seconds=1)
            changes = {"event_type": "click", "value": 3.0, "event_ts": later, "known_ts": later}
            events[user].append(event | changes)
    days = {(user, day_of(time, ZONE)) for user, time in zip(users, times, strict=True)}
    return {
        (user, day): sorted(
            (e for e in events[user] if day_of(e["event_ts"], ZONE) <= day),
            key=lambda e: e["event_ts"],
        )
        for user, day in sorted(days)
    }


def _timelines(histories: dict[tuple[str, date], list[dict[str, Any]]]) -> pa.Table:
    kinds = {
        "item_id": pa.string(),
        "surface": pa.string(),
        "event_type": pa.string(),
        "value": pa.float64(),
        "event_ts": pa.timestamp("us", "UTC"),
        "known_ts": pa.timestamp("us", "UTC"),
        "time_is_synthetic": pa.bool_(),
    }
    columns: dict[str, Any] = {
        "user_id": [user for user, _ in histories],
        "day": [day for _, day in histories],
        "num_prior": pa.array(
            [
                sum(day_of(e["known_ts"], ZONE) < day for e in h)
                for (_, day), h in histories.items()
            ],
            pa.int32(),
        ),
    }
    for name, kind in kinds.items():
        lists = [[event[name] for event in events] for events in histories.values()]
        columns[name] = pa.array(lists, pa.list_(kind))
    return pa.table(columns)


def network(**changes: Any) -> Network:
    """The smallest model that has every part."""
    values = {
        "width": 8,
        "table_dim": 4,
        "num_dense_tokens": 2,
        "dense_hidden": 8,
        "interaction": wukong(),
        "head_hidden": (8,),
    }
    return Network(**(values | changes))


def wukong(**changes: Any) -> WukongConfig:
    """One small layer."""
    values = {
        "num_layers": 1,
        "num_fm_tokens": 2,
        "num_lcb_tokens": 2,
        "rank": 2,
        "mlp_hidden": (8,),
    }
    return WukongConfig(**(values | changes))


def training(**changes: Any) -> Training:
    """Small batches and few rows to average over."""
    values = {
        "network": network(),
        "batch_size": 32,
        "trials": (Trial(lr_dense=1e-2, lr_sparse=1e-1),),
        "average_rows": 128,
    }
    return Training(**(values | changes))


def config(home: Path, **changes: Any) -> RunConfig:
    """A first run of the last day, written to its folder as a resolved one would be."""
    values: dict[str, Any] = {
        "name": "tiny",
        "contract": contract(),
        "timeline": Timeline(num_events=NUM_EVENTS),
        "teacher": training(),
        "domain_student": Student(training=training()),
        "vertical_student": Student(training=training(), distillation=Distillation(adapter=False)),
        "log_uri": str(home),
        "home": str(home),
        "plan": plan(),
        "run": run_context(),
    }
    made = RunConfig(**(values | changes))
    write_json(made.run_folder / "config.json", made.model_dump(mode="json"))
    return made


def plan(**changes: Any) -> Plan:
    """A first run, judged on the last twelve hours."""
    values = {
        "day": LAST_DAY,
        "first_day": FIRST_DAY,
        "bootstrap": True,
        "champion": None,
        "parent": None,
        "promotable": True,
        "reason": "There is no family yet: this run bootstraps one.",
        "trained_from": None,
        "gate_start": GATE_START,
        "gate_end": END,
    }
    return Plan(**(values | changes))


def run_context(**changes: Any) -> RunContext:
    """Who runs."""
    values = {
        "run_id": "run-1",
        "dag_run_id": "local",
        "code_hash": "code",
        "config_hash": "config",
        "mlflow_run": "none",
    }
    return RunContext(**(values | changes))


def packed(config: RunConfig, rows: World, vocabulary: Vocabulary | None = None) -> Packed:
    """Rows packed where the run's jobs look for them."""
    folder = config.run_folder / "packed"
    known = vocabulary or rows.vocabulary()
    pack(folder, rows.examples, rows.timelines, config.contract, known, {"examples": 0})
    if config.user_vectors is not None:
        high_value = config.user_vectors.high_value_events
        write_moments(folder, user_moments(rows.timelines, high_value, ZONE))
    return Packed(folder)


def reader(config: RunConfig, rows: World, vocabulary: Vocabulary | None = None) -> Reader:
    """The teacher's reader of rows, which are packed first."""
    return teacher_reader(config, packed(config, rows, vocabulary))


def bare_batch(num_rows: int) -> Batch:
    """Rows without features, where only their number matters."""
    nothing = torch.zeros(num_rows, 0)
    return Batch(nothing.long(), nothing, torch.zeros(num_rows, dtype=torch.int64))


def teacher(
    config: RunConfig, reader: Reader, segments: list[Segment], parent: Path | None = None
) -> tuple[Card, Learner]:
    """A teacher at the start of a run."""
    folder = None if parent is None else str(parent)
    job = TeacherJob("teacher", tuple(segments), config.teacher.trials[0], folder)
    return job.start(config, reader)


def student(
    config: RunConfig,
    reader: Reader,
    segments: list[Segment],
    parent: Path | None = None,
    *,
    distilled: bool = True,
) -> tuple[Card, Learner]:
    """The domain student of `blue`, or its twin, at the start of a run."""
    plan = domain_plan(config, "blue")
    settings = plan.settings.training
    card = student_card(config, plan, reader, settings.trials[0], distilled=distilled)
    return trainee.start(card, settings, reader, segments, parent)


def segments(*cuts: datetime) -> list[Segment]:
    """Segments between the start of the log and the given ends."""
    starts: list[datetime | None] = [None, *cuts]
    return [Segment(start, end) for start, end in zip(starts, cuts, strict=False)]


def days(*numbers: float) -> list[datetime]:
    """Instants so many days after the log's start."""
    return [(START + timedelta(days=number)).astimezone(UTC) for number in numbers]


def moment(microseconds: int) -> datetime:
    """From microseconds since 1970, exactly."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


def _values(row: Any) -> list[str]:
    return row if isinstance(row, list) else [row]
