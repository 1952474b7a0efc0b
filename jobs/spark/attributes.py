"""Attributes of users and ads as known at a moment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def with_attributes(
    rows: DataFrame, attributes: DataFrame, on: str, at: str, names: Sequence[str]
) -> DataFrame:
    """Attributes of a user or ad as known strictly before a moment.

    Args:
        rows: Rows with the columns `on` and `at`.
        attributes: `entity_id`, `known_ts` and the attributes.
        on: Column of `rows` with the entity's id.
        at: Column of `rows` with the moment.
        names: Attributes to add.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    # A daily listing repeats itself: of a run of equal states only the first says anything.
    state = F.struct("known_ts", *[F.col(name).alias(f"_{name}") for name in names])
    in_order = Window.partitionBy("entity_id").orderBy("known_ts", *names)
    same = [F.col(name).eqNullSafe(F.lag(name).over(in_order)) for name in names]
    repeated = reduce(lambda a, b: a & b, same, F.lag("known_ts").over(in_order).isNotNull())
    changes = attributes.withColumn("_repeated", repeated).where(~F.col("_repeated"))
    states = changes.groupBy("entity_id").agg(F.array_sort(F.collect_list(state)).alias("_states"))
    joined = rows.join(states, on=F.col(on) == F.col("entity_id"), how="left")
    known = F.filter("_states", lambda one: one["known_ts"] < F.col(at))
    last = F.try_element_at(known, F.lit(-1))
    return joined.withColumns({name: last[f"_{name}"] for name in names}).drop(
        "_states", "entity_id"
    )
