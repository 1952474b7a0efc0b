"""The run-time type check of tests: as PEP 484 has it, an int serves where a float is due."""

from typing import Any

from beartype import BeartypeConf, beartype


def check_types(function: Any) -> Any:
    """Decorates a function so that every call checks its annotations."""
    return beartype(function, conf=BeartypeConf(is_pep484_tower=True))
