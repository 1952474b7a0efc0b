"""Mistakes in configuration are told where the user made them, with the nearest name."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from jobs.errors import ConfigError
from jobs.settings import Settings, checked


class Inner(Settings):
    width: int = Field(default=1, ge=1)


class Cat(Settings):
    kind: Literal["cat"]
    purrs: bool = True
    cat: dict[str, Inner] = {}


class Dog(Settings):
    kind: Literal["dog"]
    barks: bool = True


class Home(Settings):
    name: str
    inner: Inner | None = None
    layers: tuple[Inner, ...] = ()
    pets: dict[str, Annotated[Cat | Dog, Field(discriminator="kind")]] = {}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"name": "x", "nmae": 1}, "f: unknown key nmae; did you mean 'name'?"),
        ({"name": "x", "zzz": 1}, "f: unknown key zzz; known here: inner, layers, name, pets"),
        ({}, "f: name is missing; add it"),
        ({"name": "x", "inner": {"widht": 1}}, "unknown key inner.widht; did you mean 'width'?"),
        ({"name": "x", "inner": {"width": 0}}, "f: inner.width: Input should be greater than"),
        ({"name": "x", "inner": {"width": "wide"}}, "(found 'wide')"),
        ({"name": "x", "layers": [{}, {"wdth": 1}]}, "unknown key layers.1.wdth; did you mean"),
        # The kind by which a class is chosen is no part of the path.
        ({"name": "x", "pets": {"tom": {"kind": "cat", "pur": 1}}}, "unknown key pets.tom.pur;"),
        ({"name": "x", "pets": {"tom": {"kind": "cat", "pur": 1}}}, "did you mean 'purrs'?"),
        ({"name": "x", "pets": {"rex": {"kind": "dog", "barsk": 1}}}, "did you mean 'barks'?"),
        ({"name": "x", "pets": {"rex": {"kind": "dog", "purr": 1}}}, "known here: barks, kind"),
        ({"name": "x", "pets": {"tom": {"kind": "cat", "cat": {"a": 3}}}}, "f: pets.tom.cat.a: "),
        ({"name": "x", "pets": {"tom": {"purrs": True}}}, "f: pets.tom.kind is missing; add it"),
        ({"name": "x", "pets": {"tom": {"kind": "cow"}}}, "f: pets.tom: Input tag 'cow' found"),
        ([], "f: (top): Input should be a valid dictionary"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(raw, message):
    with pytest.raises(ConfigError) as error:
        checked(Home, raw, "f")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_every_mistake_has_its_line():
    with pytest.raises(ConfigError) as error:
        checked(Home, {"inner": {"width": 0}, "pet": {}}, "f")
    assert [line.split(";")[0][:20] for line in str(error.value).splitlines()] == [
        "f: name is missing",
        "f: inner.width: Inpu",
        "f: unknown key pet",
    ]


def test_settings_cannot_be_changed():
    home = checked(Home, {"name": "x"}, "f")
    with pytest.raises(ValueError, match="frozen"):
        home.name = "y"  # pyright: ignore[reportAttributeAccessIssue]
