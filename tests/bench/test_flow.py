"""Arms of the flow bench let through what they say and nothing else; their cost is counted."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jobs.scaling.sizes import WIDTH
from jobs.simulation.world import World
from tests.bench import bench_flow as bench
from tests.bench.sweep import Sweep
from tests.bench.worlds import Days, days_of

SHOWN = 600


@pytest.fixture(scope="module")
def days() -> Days:
    world = World(
        world_start=date(2026, 1, 1),
        num_users=100,
        num_ads=20,
        num_impressions=SHOWN,
        events_per_impression=4,
    )
    return days_of(world, 4)


@pytest.mark.parametrize("arm", bench.ARMS)
def test_sequence_and_features_meet_by_the_arms_flow_alone(days, arm):
    stream = days.stream
    config = bench.ranker_config(stream, arm)
    ranker = bench.build(config, 0)
    batch = stream.batch(days.judged[:32], bench.NUM_EVENTS)
    assert batch.history is not None
    category, event_type, surface = batch.history.categorical.unbind(1)
    others = torch.stack([category % 12 + 1, event_type, surface], dim=1)
    history = replace(batch.history, categorical=others)
    # Features' own summary first, the sequence's after it.
    split = 2 * WIDTH
    one = ranker.represent(batch)
    events_changed = ranker.represent(replace(batch, history=history))
    features_changed = ranker.represent(replace(batch, categorical=batch.categorical.flip(0)))
    reads_sequence = not torch.equal(one[:, :split], events_changed[:, :split])
    reads_features = not torch.equal(one[:, split:], features_changed[:, split:])
    assert reads_sequence == (arm in ("two_way", "s_to_ns"))
    assert reads_features == (arm in ("two_way", "ns_to_s"))


@pytest.mark.parametrize("arm", bench.ARMS)
def test_the_told_costs_are_counted(days, arm):
    stream = days.stream
    config = bench.ranker_config(stream, arm)
    ranker = bench.build(config, 0)
    told = bench.costs(config)
    assert told["num_parameters"] == sum(p.numel() for p in ranker.parameters())
    batch = stream.batch(days.judged[-64:], bench.NUM_EVENTS)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        ranker(batch)
    # Padding within a bucket is counted, what a row lacks of events is not.
    assert counter.get_total_flops() / 64 == pytest.approx(told["flops_per_row"], rel=0.05)


def test_what_has_not_run_is_told(days, tmp_path):
    lines = list(bench.summary(days, Sweep(tmp_path, bench.ARMS, len(bench.RATES))))
    count = sum(line.get("result") == "not run" for line in lines)
    assert count == len(bench.ARMS) + len(bench.COMPARED)
