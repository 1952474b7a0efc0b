"""Pack the run's examples and histories into arrays that every training job maps into memory.

Reads `examples`, `timelines` and `vocabulary` at the versions that the run built; where the
contract declares them, `content_embeddings` and the tables of ads' attributes too. Writes `packed/`
in the run's folder; with `user_vectors`, when vectors of users are to be made too. Guarantees: rows
in order of time; the same tables give the same arrays.

    python -m jobs.pack_examples --config var/runs/<run>/config.json
"""

from __future__ import annotations

from datetime import timedelta

from jobs import delta
from jobs.command import JobSummary, main, read_summary
from jobs.config import RunConfig, days_between
from jobs.content.vectors import TABLE
from jobs.days import shown_days
from jobs.training.content import read_content
from jobs.training.inputs import Packed, pack
from jobs.training.item_attributes import declared_feeds, read_item_attributes
from jobs.training.user_vectors import user_moments, write_moments
from jobs.vocabulary import read_vocabulary

FOLDER = "packed"


def run(config: RunConfig) -> JobSummary:
    """Pack the days that the run's training or gates may touch, and those baselines learn."""
    tables = read_summary(config, "build_tables")
    built = tables.outputs
    first = config.plan.day - timedelta(days=config.windows.baseline_days - 1)
    days = sorted({*shown_days(config), *days_between(first, config.plan.day)})
    examples = delta.read_days(config.table("examples"), days, version=built["examples"])
    timelines = delta.read_days(config.table("timelines"), days, version=built["timelines"])
    # The order of files says nothing, but sums of floats would follow it.
    timelines = timelines.sort_by([("day", "ascending"), ("user_id", "ascending")])
    vocabulary = read_vocabulary(config.table("vocabulary"), built["vocabulary"])
    inputs = {name: built[name] for name in ("examples", "timelines", "vocabulary", "labels")}
    content = None
    if config.contract.content is not None:
        content = read_content(config, examples, timelines)
        inputs[TABLE] = built[TABLE]
    attributes = None
    if config.contract.timeline_item_attributes:
        read = declared_feeds(config.contract)
        inputs |= {
            table: tables.inputs[table] for table in read if tables.inputs[table] is not None
        }
        attributes = read_item_attributes(config, inputs, timelines)
    folder = config.run_folder / FOLDER
    spec = pack(
        folder, examples, timelines, config.contract, vocabulary, inputs, content, attributes
    )
    if config.user_vectors is not None:
        high_value = config.user_vectors.high_value_events
        write_moments(folder, user_moments(timelines, high_value, config.contract.time_zone))
    return JobSummary(
        job="pack_examples",
        inputs=inputs,
        rows={"examples": examples.num_rows, "timelines": timelines.num_rows},
        details={"dense_features": len(spec.dense), "embedding_rows": spec.table_rows},
    )


def open_packed(config: RunConfig) -> Packed:
    """The run's packed arrays."""
    return Packed(config.run_folder / FOLDER)


if __name__ == "__main__":
    main(run, __doc__)
