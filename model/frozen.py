"""The base of every configuration in `model`."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A configuration: frozen, unknown keys refused, every field described."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
