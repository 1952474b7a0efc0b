"""Pack the run's examples and histories into arrays that every training job maps into memory.

Reads `examples`, `timelines` and `vocabulary` (and `content_embeddings`, where the contract
declares content) at the versions that the run built. Writes `packed/`
in the run's folder. Guarantees: rows in order of time; the same tables give the same arrays.

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
from jobs.vocabulary import read_vocabulary

FOLDER = "packed"


def run(config: RunConfig) -> JobSummary:
    """Pack the days that the run's training or gates may touch, and those baselines learn."""
    built = read_summary(config, "build_tables").outputs
    first = config.plan.day - timedelta(days=config.windows.baseline_days - 1)
    days = sorted({*shown_days(config), *days_between(first, config.plan.day)})
    examples = delta.read_days(config.table("examples"), days, version=built["examples"])
    timelines = delta.read_days(config.table("timelines"), days, version=built["timelines"])
    vocabulary = read_vocabulary(config.table("vocabulary"), built["vocabulary"])
    inputs = {name: built[name] for name in ("examples", "timelines", "vocabulary", "labels")}
    content = None
    if config.contract.content is not None:
        content = read_content(config, examples, timelines)
        inputs[TABLE] = built[TABLE]
    folder = config.run_folder / FOLDER
    spec = pack(folder, examples, timelines, config.contract, vocabulary, inputs, content)
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
