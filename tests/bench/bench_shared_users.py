"""Rows that share a timeline against the same rows with a timeline each: a training step on a CPU.

Goal, set before the first run: at 8 impressions per user, forward and backward, at least 3 times as
many impressions a second as the same ranker reaches when every impression brings its own copy of
the timeline, gradients equal to 1e-4 of each parameter's largest. 5 times would be the stretch.

The ranker reads the timeline by target attention and by the upstream. No goal was set for the other
forms: target attention alone, and the GEM form, which adds InterFormer, whose sequence belongs to
one impression and cannot be shared. Both arms are the same module with the same
weights: only the batch differs. Timelines are of log-normal length; impressions fall at random
places of their last half, and each knows only what lies before it. Scores and gradients are
compared before anything is timed. Prints one line of JSON.

    python -m tests.bench.bench_shared_users --users 32 --impressions 8 --rounds 7
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from model.batch import Batch, Timelines
from model.config import FieldConfig, RankerConfig, TableConfig
from model.history_config import HistoryConfig
from model.interaction.config import WukongConfig
from model.ranker import Ranker, flops
from model.sequence_config import BranchConfig, InterFormerConfig, UpstreamConfig
from tests.bench import harness

GOAL = 3.0
TOLERANCE = 1e-4
FORMS = ("target_attention", "upstream", "gem")
_HOUR_US = 3_600_000_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--impressions", type=int, default=8, help="per user")
    parser.add_argument("--events", type=int, default=256, help="median of a timeline")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--form", choices=FORMS, default="upstream")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = ranker_config(options.width, 4 * options.events, options.form)
    model = Ranker(config)
    shared = make_batch(config, options.users, options.impressions, options.events)
    arms = {"shared": shared, "own": with_own_timelines(shared)}
    differences = compare(model, arms)
    timings = harness.rounds(
        {name: lambda batch=batch: step(model, batch) for name, batch in arms.items()},
        options.rounds,
    )
    num_events = {name: len(batch.history.event_us) for name, batch in arms.items()}
    mean = num_events["own"] / shared.num_rows
    costs = [flops(config, mean, rows) for rows in (1.0, num_events["own"] / num_events["shared"])]
    harness.report(
        "shared_users",
        goal=GOAL,
        users=options.users,
        impressions_per_user=options.impressions,
        width=options.width,
        form=options.form,
        num_events=num_events,
        flops_ratio=round(costs[0] / costs[1], 2),
        **differences,
        **harness.compared(timings, "own", "shared"),
        impressions_per_second={
            name: round(shared.num_rows / found["median_wall_seconds"], 1)
            for name, found in harness.samples(timings).items()
        },
        arms=harness.samples(timings),
        torch=torch.__version__,
    )


def ranker_config(width: int, longest: int, form: str) -> RankerConfig:
    """A teacher in small: two branches, three stages, pairs between them.

    Target attention alone reads whole timelines, so that both arms hold events that are read and no
    others.
    """
    long = UpstreamConfig(
        branches=(BranchConfig(), BranchConfig(window=32)),
        num_stages=3,
        layers_per_stage=1,
        ffn_hidden=4 * width,
        num_summary_tokens=2,
    )
    return RankerConfig(
        width=width,
        tables=tuple(TableConfig(name=n, num_rows=1000, dim=16) for n in ("item", "type", "user")),
        fields=(FieldConfig(name="ad", table="item"), FieldConfig(name="user", table="user")),
        num_dense=8,
        num_dense_tokens=2,
        dense_hidden=32,
        wukong=WukongConfig(
            num_layers=2, num_fm_tokens=8, num_lcb_tokens=8, rank=8, mlp_hidden=(128,)
        ),
        history=HistoryConfig(
            fields=(FieldConfig(name="item", table="item"), FieldConfig(name="type", table="type")),
            num_dense=2,
            num_heads=2,
            num_summary_tokens=4,
            max_events=longest if form == "target_attention" else 128,
            upstream=None if form == "target_attention" else long,
            interformer=InterFormerConfig(max_events=32) if form == "gem" else None,
        ),
        domains=("feed",),
        tasks=("click", "buy"),
        head_hidden=(64,),
    )


def make_batch(config: RankerConfig, num_users: int, num_impressions: int, median: int) -> Batch:
    """Users with timelines of log-normal length, and impressions in the last half of each."""
    torch.manual_seed(0)
    lengths = (torch.randn(num_users).mul(0.7).exp() * median).long().clamp(16, 4 * median)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    segment = torch.arange(num_users).repeat_interleave(num_impressions)
    known = (lengths[segment] * (0.5 + 0.5 * torch.rand(len(segment)))).long()
    known[::num_impressions] = lengths
    end = offsets[segment] + known
    assert config.history is not None
    num_events, num_rows = int(offsets[-1]), len(segment)
    event_us = (torch.rand(num_events, dtype=torch.float64) * _HOUR_US).cumsum(0).long()
    history = Timelines(
        categorical=torch.randint(1000, (num_events, 2)),
        dense=torch.randn(num_events, 2),
        event_us=event_us,
        offsets=offsets,
        segment=segment,
        start=torch.maximum(offsets[segment], end - config.history.max_events),
        end=end,
        row_us=event_us[end - 1] + _HOUR_US,
    )
    return Batch(
        torch.randint(1000, (num_rows, 2)),
        torch.randn(num_rows, config.num_dense),
        torch.zeros(num_rows, dtype=torch.int64),
        history,
    )


def with_own_timelines(batch: Batch) -> Batch:
    """The same rows, each with its own copy of what it knows."""
    history = batch.history
    assert history is not None
    first = history.offsets[history.segment]
    lengths = history.end - first
    ends = lengths.cumsum(0)
    at = torch.arange(int(ends[-1])) + (first - ends + lengths).repeat_interleave(lengths)
    return Batch(
        batch.categorical,
        batch.dense,
        batch.domain,
        Timelines(
            categorical=history.categorical[at],
            dense=history.dense[at],
            event_us=history.event_us[at],
            offsets=torch.cat([torch.zeros(1, dtype=torch.int64), ends]),
            segment=torch.arange(len(lengths)),
            start=history.start - first + ends - lengths,
            end=ends,
            row_us=history.row_us,
        ),
    )


def step(model: Ranker, batch: Batch) -> torch.Tensor:
    """Forward and backward; what an optimiser does afterwards is the same for both."""
    model.zero_grad()
    logits = model(batch).logits
    logits.square().mean().backward()
    return logits.detach()


def compare(model: Ranker, arms: dict[str, Batch]) -> dict[str, Any]:
    """Largest differences of scores and gradients, each relative to the largest value."""
    found = {}
    for name, batch in arms.items():
        logits = step(model, batch)
        gradients = {
            key: parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad.clone()
            for key, parameter in model.named_parameters()
            if parameter.grad is not None
        }
        found[name] = {"logits": logits, **gradients}
    ours, theirs = found["shared"], found["own"]
    assert ours.keys() == theirs.keys()
    relative = {
        key: float((ours[key] - theirs[key]).abs().max() / theirs[key].abs().max().clamp(min=1e-12))
        for key in ours
    }
    worst = max(relative, key=lambda key: relative[key])
    if relative[worst] > TOLERANCE:
        raise ValueError(
            f"arms that differ are not compared; found {relative[worst]:.1e} at {worst}, more than "
            f"{TOLERANCE:.0e}"
        )
    return {"logits_difference": relative.pop("logits"), "gradient_difference": relative[worst]}


if __name__ == "__main__":
    main()
