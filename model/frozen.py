"""What the configurations in `model` have in common."""

from collections import Counter
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A configuration: frozen, unknown keys refused, every field described."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def refuse_duplicates(path: str, names: Iterable[str]) -> None:
    """Refuses a name that occurs twice.

    Raises:
        ValueError: If one does.
    """
    if duplicates := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ValueError(
            f"{path}: names must be unique; found {duplicates} more than once; rename them"
        )
