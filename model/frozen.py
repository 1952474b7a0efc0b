"""What every configuration here is: frozen, and without unknown keys."""

from pydantic import BaseModel, ConfigDict


class FrozenConfig(BaseModel):
    """A part of a model's configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
