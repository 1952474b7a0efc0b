"""What an event of a history tells of its item: attributes as known at the event's time.

A timeline does not repeat what is a function of item and time. The attributes that the contract
declares (`timeline_item_attributes`) are joined when histories are packed, out of the tables that
hold them, by the rule of every attribute: the last state known strictly before the event. So an
attribute that changes after an event does not show in it, and an event that is an impression tells
what its own example told.
"""

# pyarrow.compute makes its functions when imported.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import delta
from jobs.config import RunConfig
from jobs.contract import LogContract
from jobs.feeds import AttributesFeed, attribute_table
from jobs.training.item_states import flat, last_known, micros
from jobs.vocabulary import Vocabulary


@dataclass(frozen=True)
class ItemAttributes:
    """States of items, by the feed that they came from."""

    states: Mapping[str, pa.Table]
    """By table: `item_id`, `known_ts` and the feed's attributes, in order of item, time, values."""

    def of_events(self, name: str, timelines: pa.Table) -> pa.Array:
        """An attribute of the item of every event of all timelines; null where it is not known."""
        items, at_us = flat(timelines["item_id"]), micros(flat(timelines["event_ts"]))
        (states,) = (table for table in self.states.values() if name in table.column_names)
        rows = last_known(states, items, at_us)
        column = states[name].combine_chunks()
        return column.take(pa.array(rows, mask=rows < 0))


def declared_feeds(contract: LogContract) -> dict[str, list[str]]:
    """Tables that hold declared attributes, each with all attributes that its states are told by.

    A table's other attributes only decide which of two states of the same moment is the later one:
    the same as in examples.
    """
    found = {}
    feeds = contract.attribute_feeds("ad")
    for feed_name, feed in contract.feeds.items():
        if isinstance(feed, AttributesFeed) and feed in feeds:
            names = [f"ad_{attribute}" for attribute in feed.attributes]
            if set(names) & set(contract.timeline_item_attributes):
                read = [name for name in names if name not in contract.unread_texts]
                found[attribute_table(feed_name)] = read
    return found


def read_item_attributes(
    config: RunConfig, versions: Mapping[str, int | None], timelines: pa.Table
) -> ItemAttributes:
    """States of the items that timelines name.

    Args:
        config: The run.
        versions: Versions of the tables, as the examples were made from them.
        timelines: The timelines table's columns.
    """
    items = flat(timelines["item_id"]).unique().drop_null()
    states = {}
    for table, names in declared_feeds(config.contract).items():
        columns = ["entity_id", "known_ts", *names]
        version = versions.get(table)
        if version is None:
            kinds = [pa.string(), pa.timestamp("us", "UTC"), *[pa.string()] * len(names)]
            rows = pa.schema(list(zip(columns, kinds, strict=True))).empty_table()
        else:
            rows = delta.read_days(config.table(table), None, columns, version)
        rows = rows.filter(pc.is_in(rows["entity_id"], value_set=items))
        rows = rows.rename_columns(["item_id", "known_ts", *names])
        keys = [(name, "ascending", "at_start") for name in rows.column_names]
        states[table] = rows.take(pc.sort_indices(rows, keys))
    return ItemAttributes(states)


def attribute_rows(
    attributes: ItemAttributes | None,
    names: list[str],
    timelines: pa.Table,
    vocabulary: Vocabulary,
) -> list[np.ndarray]:
    """Rows of the attributes' embedding tables, an array per name with an entry per event."""
    if not names:
        return []
    assert attributes is not None, "declared attributes are read before packing"
    return [vocabulary.rows(name, attributes.of_events(name, timelines)) for name in names]
