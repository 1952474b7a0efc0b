"""Configuration of what domains keep to themselves below their heads."""

from pydantic import PositiveInt

from model.frozen import Frozen


class DomainFFNConfig(Frozen):
    """A feed-forward layer that every token passes before it interacts with others."""

    hidden: PositiveInt
    """Hidden width of the layer (h)."""
    untied: bool = True
    """Whether each domain has a layer of its own; if not all share one, at the same FLOPs."""
