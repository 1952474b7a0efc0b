"""Configurations of embedding tables and of the tokens made from them."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, StringConstraints

from model.frozen import Frozen

TableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
"""A table's name becomes part of a state-dict key, so it is a plain identifier."""


class TableConfig(Frozen):
    """One embedding table; its row 0 stands for every out-of-vocabulary value."""

    name: TableName
    """Name that fields refer to."""
    num_rows: PositiveInt
    """Rows, the out-of-vocabulary row included."""
    dim: PositiveInt
    """Width of a row; it may differ from the ranker's width d."""


class FieldConfig(Frozen):
    """One categorical column and the table that its indexes point into."""

    name: str
    """Column name."""
    table: str
    """Name of a `TableConfig`; several fields may share one table."""
    num_tokens: PositiveInt = 1
    """Tokens that the field becomes (k): more than one for an important field."""


class BagConfig(FieldConfig):
    """One categorical column with any number of values per row."""

    pooling: Literal["sum", "mean"] = "sum"
    """How the rows of a bag's values become one; an empty bag is zero either way."""


class GroupConfig(Frozen):
    """Minor fields or bags that become one token together."""

    fields: Annotated[tuple[str, ...], Field(min_length=2)]
    """Names of fields and bags, each with one token; none is in two groups."""
    hidden: tuple[PositiveInt, ...]
    """Hidden widths of the MLP over their concatenated rows."""


class ContentConfig(Frozen):
    """One given vector per row, for example a text embedding of the ad."""

    name: str
    """What the vector describes."""
    dim: PositiveInt
    """Its width."""
