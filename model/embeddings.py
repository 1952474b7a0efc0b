"""Embedding tables and their growth, bags of values, and the scaling of dense columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from model.embedding_config import BagConfig, FieldConfig, TableConfig

INIT_STD = 0.02
"""Standard deviation of a fresh embedding row."""
MAX_DEVIATIONS = 5.0
"""Dense values are clipped at this many standard deviations from the mean."""


@dataclass(frozen=True)
class Bag:
    """The values of a column with any number of values per row, one row after the other.

    Row b owns the values offsets[b] to offsets[b + 1] − 1.

    Args:
        values: Table indexes.
        offsets: First value of each row and, last, the total (B + 1 numbers).

    Raises:
        ValueError: If the offsets do not start at 0, fall, or do not end at the values' number.
    """

    values: Int64[Tensor, " V"]
    offsets: Int64[Tensor, " num_offsets"]

    def __post_init__(self) -> None:
        offsets, num_values = self.offsets, len(self.values)
        if len(offsets) == 0 or not bool(
            ((offsets.diff() >= 0).all()) & (offsets[0] == 0) & (offsets[-1] == num_values)
        ):
            raise ValueError(
                "bag.offsets: offsets must start at 0, never fall, and end at the number of values "
                f"({num_values}); found {offsets.tolist()[:8]}…; cumulate the row lengths"
            )


class EmbeddingTables(nn.ModuleDict):
    """The embedding tables of a ranker, each with sparse gradients.

    e = E_table[index],  or Σ_i E_table[index_i] for a bag, or the mean; row 0 is the
    out-of-vocabulary row.

    Paper: Wukong, section 3.2 (embedding layer, multi-hot features sum-pooled).
    Differs: a bag may be averaged instead.
    """

    def __init__(self, tables: Sequence[TableConfig]) -> None:
        super().__init__()
        for table in tables:
            embedding = nn.Embedding(table.num_rows, table.dim, sparse=True)
            nn.init.normal_(embedding.weight, std=INIT_STD)
            self[_module_name(table.name)] = embedding

    def forward(
        self, fields: Sequence[FieldConfig], indexes: Int64[Tensor, "N C"]
    ) -> tuple[Float[Tensor, "N _"], ...]:
        """Looks up one column of indexes per field.

        Returns:
            One tensor per field, as wide as the field's table.
        """
        columns = indexes.unbind(1)
        return tuple(
            self[_module_name(field.table)](column)
            for field, column in zip(fields, columns, strict=True)
        )

    def pool(
        self, configs: Sequence[BagConfig], bags: Sequence[Bag]
    ) -> tuple[Float[Tensor, "B _"], ...]:
        """Pools one bag of values per row and column; an empty bag is zero.

        Returns:
            One tensor per bag column, as wide as the column's table.
        """
        pooled = []
        for config, bag in zip(configs, bags, strict=True):
            table = self[_module_name(config.table)]
            assert isinstance(table, nn.Embedding)
            pooled.append(
                embedding_bag(
                    bag.values,
                    table.weight,
                    bag.offsets,
                    mode=config.pooling,
                    sparse=table.sparse,
                    include_last_offset=True,
                )
            )
        return tuple(pooled)


def weight_key(table: str) -> str:
    """How the state-dict key of a table's weight ends."""
    return f"{_module_name(table)}.weight"


def _module_name(table: str) -> str:
    # The prefix keeps a table named "items" or "type" apart from the methods of a module.
    return f"table_{table}"


def grow_table(weight: Float[Tensor, "rows dim"], num_rows: int) -> Float[Tensor, "grown dim"]:
    """Appends rows to a table; each is an exact copy of the out-of-vocabulary row.

    E' = [E; E_0; …; E_0]. A value that was unknown before, and so read row 0, reads equal numbers
    after its admission: the grown model's scores are its parent's, to the last bit.

    Raises:
        ValueError: If the table would lose rows.
    """
    if num_rows < len(weight):
        raise ValueError(
            f"table: a vocabulary only grows; found {len(weight)} rows to be cut to {num_rows}; "
            "load the checkpoint with the vocabulary version that it names, or a later one"
        )
    return torch.cat([weight, weight[:1].expand(num_rows - len(weight), -1)])


def extend_tables(
    state_dict: Mapping[str, Tensor], tables: Sequence[TableConfig]
) -> dict[str, Tensor]:
    """Grows the tables of a checkpoint to the sizes of a newer vocabulary.

    Args:
        state_dict: State of a `Ranker` or of any module that contains one set of tables.
        tables: The tables as the newer vocabulary has them.

    Returns:
        The same state with grown tables; everything else is taken over as it is.

    Raises:
        ValueError: If a table is absent from the checkpoint, or would lose rows.
    """
    extended = dict(state_dict)
    for table in tables:
        keys = [key for key in state_dict if key.endswith(weight_key(table.name))]
        if len(keys) != 1:
            raise ValueError(
                f"tables.{table.name}: the checkpoint must hold the table once; found {keys}; "
                "warm-start only from a ranker with the same tables"
            )
        extended[keys[0]] = grow_table(state_dict[keys[0]], table.num_rows)
    return extended


def forget_rows(
    state_dict: Mapping[str, Tensor], rows: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """Makes rows of tables exact copies of the out-of-vocabulary row.

    E'_r = E_0 for every r. A value that has lost its row reads row 0; should it regain its own, it
    reads the same numbers there.

    Args:
        state_dict: State of a `Ranker` or of any module that contains one set of tables.
        rows: Rows by table; tables that the state lacks are passed over.

    Returns:
        The same state with those tables changed in copies; everything else is taken over as it is.
    """
    changed = dict(state_dict)
    for table, at in rows.items():
        for key in [key for key in state_dict if key.endswith(weight_key(table))]:
            weight = state_dict[key].clone()
            weight[list(at)] = state_dict[key][0]
            changed[key] = weight
    return changed


class DenseNormaliser(nn.Module):
    """Standardises dense columns with statistics that are fitted once and then kept.

    z = clip((x − mean) / std, ±5), and 0 where x is NaN: a missing value is the mean.

    Paper: none; the papers leave the scaling of dense inputs out.
    Differs: none.
    """

    mean: Tensor
    std: Tensor
    num_fitted_rows: Tensor

    def __init__(self, num_dense: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_dense))
        self.register_buffer("std", torch.ones(num_dense))
        self.register_buffer("num_fitted_rows", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def fit(self, dense: Float32[Tensor, "B N"]) -> None:
        """Takes mean and standard deviation of each column, missing values left out.

        A constant column keeps standard deviation 1, and a column without any value mean 0 too.

        Raises:
            ValueError: If the normaliser is fitted already, or there is no row to fit on.
        """
        if len(dense) == 0 or int(self.num_fitted_rows) > 0:
            raise ValueError(
                "normaliser: it is fitted once, on at least one row; found "
                f"{int(self.num_fitted_rows)} rows fitted before and {len(dense)} now; "
                "keep the parent's statistics in a warm start, fit only a new ranker"
            )
        values = dense.double()
        mean = values.nanmean(0).nan_to_num(0.0)
        std = (values - mean).square().nanmean(0).sqrt().nan_to_num(0.0)
        # Below the resolution of single precision a deviation is rounding, not variation.
        constant = std <= 1e-7 * mean.abs()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(constant, 1.0, std))
        self.num_fitted_rows.fill_(len(dense))

    def forward(self, dense: Float32[Tensor, "B N"]) -> Float32[Tensor, "B N"]:
        """Standardises; before `fit` the mean is 0 and the standard deviation 1."""
        deviations = (dense - self.mean) / self.std
        return deviations.clamp(-MAX_DEVIATIONS, MAX_DEVIATIONS).nan_to_num(0.0)
