"""Examples: one impression with its features, its labels and where its history ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.contract import BASE_FEATURE_COLUMNS, LogContract
from validation import tables

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def example_rows(
    impressions: DataFrame,
    labels: DataFrame,
    counts: DataFrame,
    history_ends: DataFrame,
    contract: LogContract,
) -> DataFrame:
    """Join everything that is known of an impression.

    Args:
        impressions: Impressions with attributes; `day` is the day shown.
        labels: The labels table's columns.
        counts: `impression_id`, the counts and the moments of last events.
        history_ends: `impression_id` and `history_end`.
        contract: Says which columns are features.

    Returns:
        The examples table's columns.
    """
    from pyspark.sql import functions as F

    places = contract.surface_vertical
    domain = F.create_map(*[F.lit(x) for s, (d, _) in places.items() for x in (s, d)])
    vertical = F.create_map(*[F.lit(x) for s, (_, v) in places.items() for x in (s, v)])
    rows = impressions.withColumns(
        {
            "hour": F.hour(F.from_utc_timestamp("event_ts", contract.time_zone)).cast("string"),
            "domain": domain[F.col("surface")],
            "vertical": vertical[F.col("surface")],
        }
    )
    rows = rows.join(labels.drop("event_ts", "day"), on="impression_id", how="inner")
    for frame in (counts, history_ends):
        rows = rows.join(frame, on="impression_id", how="inner")
    columns = example_columns(contract).items()
    return rows.selectExpr(*[f"CAST(`{name}` AS {kind}) AS `{name}`" for name, kind in columns])


def with_labels(examples: DataFrame, labels: DataFrame, contract: LogContract) -> DataFrame:
    """Examples as they are, with other labels.

    Args:
        examples: Rows of the examples table.
        labels: Rows of the labels table, of all of these impressions.
        contract: Says which columns are labels.
    """
    columns = [name for name in example_columns(contract) if name in examples.columns]
    names = tables.label_columns(list(contract.tasks), contract.zipper_tasks)
    new = labels.select("impression_id", *[name for name in names if name in columns])
    return examples.drop(*names).join(new, on="impression_id", how="inner").select(*columns)


def example_columns(contract: LogContract) -> tables.Columns:
    """Columns of the examples table under a contract."""
    features = contract.features
    return tables.examples(
        [name for name in features.categorical if name not in BASE_FEATURE_COLUMNS],
        features.numeric,
        count_feature_names(contract),
        list(contract.tasks),
        tables.recency_columns(features.recency),
        zippers=contract.zipper_tasks,
        bags=features.bags,
    )


def count_feature_names(contract: LogContract) -> list[str]:
    """Names of all counts: `<entity>_<count>_<window>d`."""
    features = contract.features
    return [
        f"{entity}_{name}"
        for entity in features.entities
        for name in tables.count_columns(list(features.counts), features.windows_days)
    ]
