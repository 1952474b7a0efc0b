"""How configuration values are declared and how mistakes in them are told.

Shared by the log contract and the run configuration.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.errors import ConfigError


class Settings(BaseModel):
    """Base of every configuration value: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


S = TypeVar("S", bound=BaseModel)


def checked(kind: type[S], raw: Any, source: str) -> S:
    """Validate raw values, telling mistakes in one sentence each.

    Args:
        kind: The settings class.
        raw: Parsed YAML or JSON.
        source: What to call the input in an error.

    Returns:
        The settings.

    Raises:
        ConfigError: Something is missing, unknown (the nearest name is suggested) or wrong.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_sentence(kind, e, source) for e in error.errors())) from None


def _sentence(kind: type[BaseModel], error: Mapping[str, Any], source: str) -> str:
    location = error["loc"]
    path = ".".join(str(part) for part in location) or "(top)"
    if error["type"] == "extra_forbidden":
        known = _names_at(kind, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"
        return f"{source}: unknown key {path}; {hint}"
    if error["type"] == "missing":
        return f"{source}: {path} is missing; add it"
    message = str(error["msg"]).removeprefix("Value error, ")
    found = error.get("input")
    told = "found" in message or isinstance(found, (dict, list, BaseModel)) or found is None
    tail = "" if told else f" (found {found!r})"
    return f"{source}: {path}: {message}{tail}"


def _names_at(kind: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Field names of the settings class that lies at a location below `kind`."""
    classes: list[type[BaseModel]] = [kind]
    for part in location:
        inner: list[type[BaseModel]] = []
        for cls in classes:
            if part in cls.model_fields:
                inner += _settings_in(cls.model_fields[part].annotation)
        # A dictionary key or a discriminator's tag descends no further in the classes.
        classes = inner or classes
    return sorted({name for cls in classes for name in cls.model_fields})


def _settings_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    origin = typing.get_origin(annotation)
    if origin is None and not isinstance(annotation, types.UnionType):
        return []
    return [found for arg in typing.get_args(annotation) for found in _settings_in(arg)]
