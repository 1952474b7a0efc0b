"""One user with a large share of all events: what his task costs over the median task.

Timelines are made of a log whose users' shares fall steeply, so that the first user alone has about
a million events. Every task that builds timelines tells its CPU seconds, writing left out; the
goal, set beforehand, is that the slowest takes at most three times the median one. Prints one line
of JSON.

    python -m tests.bench.bench_heaviest_user --events 2600000 --skew 1.5
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.config import Resources
from jobs.spark.histories import Cut
from jobs.spark.session import spark_session
from jobs.spark.timelines import timeline_batches
from tests.bench import harness
from tests.bench.event_log import EventLog
from tests.bench.timeline_arms import Histories, shuffled

_GOAL = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=2_600_000)
    parser.add_argument("--impressions", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--skew", type=float, default=1.5, help="power of rank in users' shares")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--partitions", type=int, default=8, help="of the shuffle")
    options = parser.parse_args()
    log = EventLog(options.events, options.impressions, options.users, skew=options.skew)
    resources = Resources(spark_driver_memory="3g", spark_shuffle_partitions=options.partitions)
    with (
        tempfile.TemporaryDirectory() as home,
        spark_session(resources, home, "bench_heaviest_user") as spark,
    ):
        events, impressions = log.write(Path(home))
        work = Histories(events, impressions, tuple(log.days), Cut(100, 20), Path(home))
        build = timeline_batches(list(work.days), work.cut)

        def timed(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            held = list(batches)
            started = time.process_time()
            made = list(build(held))
            seconds = time.process_time() - started
            longest = max((pc.max(b["num_cut"]).as_py() for b in made), default=0)
            row = {"seconds": [seconds], "most_cut": [longest]}
            yield pa.RecordBatch.from_pydict(row)

        ratios, cut = [], 0
        for _ in range(options.rounds + 1):
            rows = shuffled(spark, work).mapInArrow(timed, "seconds double, most_cut bigint")
            found = rows.toArrow()
            seconds = np.sort(found["seconds"].to_numpy())
            ratios.append(float(seconds[-1] / np.median(seconds)))
            cut = pc.max(found["most_cut"]).as_py()
    harness.report(
        "timelines.heaviest_user",
        goal=_GOAL,
        tasks=options.partitions,
        slowest_over_median=sorted(round(ratio, 2) for ratio in ratios[1:]),
        median=round(float(np.median(ratios[1:])), 2),
        most_events_cut_of_a_day=cut,
    )


if __name__ == "__main__":
    main()
