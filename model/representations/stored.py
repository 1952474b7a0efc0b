"""The earlier representations of a batch's rows, as a ranker reads them."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float32, Int64
from torch import Tensor


@dataclass(frozen=True)
class StoredRepresentations:
    """What a scorer kept of the earlier impressions of each row's user, one row after the other.

    Row b reads offsets[b] to offsets[b + 1] − 1, in the order in which they became known; its own
    is never among them. All were known before the row and scored by who had learnt none of theirs:
    the loader sees to both.

    Args:
        values: Stored representations, P of them.
        age_us: Time from each one's impression to the row's, in microseconds.
        offsets: First one of each row and, last, P (B + 1 numbers).

    Raises:
        ValueError: If the offsets do not start at 0, fall, or do not end at P, or the ages are not
            as many.
    """

    values: Float32[Tensor, "P V"]
    age_us: Int64[Tensor, " num_ages"]
    offsets: Int64[Tensor, " num_offsets"]

    def __post_init__(self) -> None:
        offsets, number = self.offsets, len(self.values)
        if len(self.age_us) != number:
            raise ValueError(
                f"representations.age_us: an age for each of the {number} representations; found "
                f"{len(self.age_us)}; build both from the same impressions"
            )
        if len(offsets) == 0 or not bool(
            ((offsets.diff() >= 0).all()) & (offsets[0] == 0) & (offsets[-1] == number)
        ):
            raise ValueError(
                "representations.offsets: offsets must start at 0, never fall, and end at the "
                f"number of representations ({number}); found {offsets.tolist()[:8]}…; cumulate "
                "the rows' lengths"
            )

    @property
    def num_rows(self) -> int:
        """Rows that read (B)."""
        return len(self.offsets) - 1

    def map(self, function: Callable[[Tensor], Tensor]) -> "StoredRepresentations":
        """Applies a function to every tensor, for example a transfer."""
        return StoredRepresentations(
            function(self.values), function(self.age_us), function(self.offsets)
        )
