"""Configuration of heads that do not stand alone."""

from typing import Annotated

from pydantic import Field

from model.frozen import Frozen


class ChainConfig(Frozen):
    """A click, and tasks that are served as its product with what their heads say (ESMM)."""

    click: str
    """Task of the click."""
    conversions: Annotated[tuple[str, ...], Field(min_length=1)]
    """Tasks whose heads tell the outcome given a click; its labels are of all impressions."""

    def check(self, tasks: tuple[str, ...]) -> None:
        """Refuses tasks that are not there, or are in the chain twice.

        Raises:
            ValueError: If they are.
        """
        named = (self.click, *self.conversions)
        if set(named) - set(tasks) or len(set(named)) < len(named):
            raise ValueError(
                f"chain: a click and its conversions are different tasks of {list(tasks)}; found "
                f"{self.click!r} and {list(self.conversions)}; correct the names or leave chain out"
            )
