"""How configuration values are declared and how mistakes in them are told.

Shared by the log contract and the run configuration.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType
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
        ConfigError: Something is missing, unknown (the nearest name is suggested), wrong, or a
            secret, whose value is not told.
    """
    for place in _secrets(raw):
        raise ConfigError(
            f"{source}: {place} holds a secret, which would be written to the run's folder and to "
            "MLflow; remove it here and give it in the environment of the jobs"
        )
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_sentence(kind, e, source) for e in error.errors())) from None


_SECRET_VALUE = re.compile(
    r"://[^/\s@:]*:[^/\s@]+@"  # the password of a URI
    r"|-D\S*(secret|password|passwd|token|access[._-]?key)\S*=\S",  # of the JVM
    re.IGNORECASE,
)
_SECRET_OPTION = re.compile(
    r"(^|[._-])(secret|password|passwd|token|credentials?|(access|api)[._-]?key)($|[._-])",
    re.IGNORECASE,
)


def _secrets(raw: Any, place: str = "", among_options: bool = False) -> Iterator[str]:
    """Places of secrets in raw values: they are kept and shown wherever a configuration is."""
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            inner = f"{place}.{key}" if place else str(key)
            if among_options and _SECRET_OPTION.search(str(key)):
                yield inner
            yield from _secrets(value, inner, inner.endswith("options"))
    elif isinstance(raw, (list, tuple)):
        for index, value in enumerate(raw):
            yield from _secrets(value, f"{place}.{index}")
    elif isinstance(raw, str) and _SECRET_VALUE.search(raw):
        yield place


def _sentence(kind: type[BaseModel], error: Mapping[str, Any], source: str) -> str:
    location = error["loc"]
    path = _path(kind, location) or "(top)"
    if error["type"] == "extra_forbidden":
        known = _names(_at(kind, location[:-1]))
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return f"{source}: unknown key {path}; {hint}"
    if error["type"] == "missing":
        return f"{source}: {path} is missing; add it"
    if error["type"] == "union_tag_not_found":
        return f"{source}: {path}.kind is missing; add it"
    message = str(error["msg"]).removeprefix("Value error, ")
    found = error.get("input")
    told = "found" in message or isinstance(found, (dict, list, BaseModel)) or found is None
    tail = "" if told else f" (found {found!r})"
    return f"{source}: {path}: {message}{tail}"


def _path(kind: type[BaseModel], location: Sequence[Any]) -> str:
    """A location as the user wrote it: without the tags by which a kind of settings was chosen."""
    return ".".join(
        str(part) for i, part in enumerate(location) if not _is_tag(_at(kind, location[:i]), part)
    )


def _at(kind: type[BaseModel], location: Sequence[Any]) -> Any:
    """The annotation of the value at a location below `kind`; None below an unknown key."""
    annotation: Any = kind
    for part in location:
        annotation = _below(annotation, part)
    return annotation


def _below(annotation: Any, part: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(part)
        return None if field is None else _bare(field.annotation)
    arguments = typing.get_args(annotation)
    if _is_union(annotation):
        tagged = [a for a in arguments if part in _tags(a)]
        return (
            tagged[0] if tagged else _below(next(a for a in arguments if a is not NoneType), part)
        )
    # The values of a dictionary, the items of a list or tuple.
    return (
        _bare(arguments[1 if typing.get_origin(annotation) is dict else 0]) if arguments else None
    )


def _is_tag(annotation: Any, part: Any) -> bool:
    return _is_union(annotation) and any(part in _tags(a) for a in typing.get_args(annotation))


def _tags(annotation: Any) -> list[Any]:
    """Values by which a class of settings is chosen among others: those of its literal `kind`."""
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return []
    kind = annotation.model_fields.get("kind")
    return [] if kind is None else list(typing.get_args(kind.annotation))


def _names(annotation: Any) -> list[str]:
    """Field names of the settings class in an annotation."""
    if _is_union(annotation):
        return sorted({name for a in typing.get_args(annotation) for name in _names(a)})
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return sorted(annotation.model_fields)
    return []


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _bare(annotation: Any) -> Any:
    """An annotation without pydantic's metadata."""
    if typing.get_origin(annotation) is typing.Annotated:
        return typing.get_args(annotation)[0]
    return annotation
