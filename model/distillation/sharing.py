"""Parameter sharing: parts of a student that start as, or stay, those of its scorer."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from model.embeddings import grow_table, weight_key

_TABLES = "tables."
"""How the paths of embedding tables begin."""


def part_module(part: str) -> str:
    """The module of a part in `Ranker`: a table is named as in the configuration."""
    if not part.startswith(_TABLES):
        return part
    return _TABLES + weight_key(part.removeprefix(_TABLES)).removesuffix(".weight")


def freeze(ranker: nn.Module, parts: Sequence[str]) -> None:
    """Stop parts of a ranker from learning.

    Raises:
        ValueError: The ranker has no such part.
    """
    for part in parts:
        _module(ranker, part).requires_grad_(False)


@torch.no_grad()
def take_over(ranker: nn.Module, scorer: Mapping[str, Tensor], parts: Sequence[str]) -> None:
    """Copy parts of a scorer into a ranker, buffers such as the scaling of dense columns included.

    A table of fewer rows, of an earlier vocabulary, is grown: see `grow_table`.

    Paper: GEM (Meta engineering, 2025), parameter sharing between foundation and vertical models.
    Differs: no equation is public; parts are copied once, and then trained or frozen.

    Args:
        ranker: The student's `Ranker`.
        scorer: State of the scorer's `Ranker`.
        parts: Paths, such as `tables.user_id` or `history`.

    Raises:
        ValueError: Either lacks a part, or the part is of another shape in it.
    """
    for part in parts:
        name = part_module(part)
        own = _module(ranker, part).state_dict(prefix=f"{name}.", keep_vars=True)
        theirs = {key: value for key, value in scorer.items() if key.startswith(f"{name}.")}
        if own.keys() != theirs.keys():
            different = sorted(own.keys() ^ theirs.keys())
            raise ValueError(
                f"{part}: student and scorer must have the same parameters there; found in only "
                f"one of them {different[:3]}; give both networks the same part, or share another"
            )
        for key, parameter in own.items():
            value = theirs[key]
            if key.startswith(_TABLES) and value.shape[1:] == parameter.shape[1:]:
                value = grow_table(value, len(parameter))
            if value.shape != parameter.shape:
                raise ValueError(
                    f"{part}: {key} must be of one shape in student and scorer; found "
                    f"{tuple(parameter.shape)} in the student and {tuple(value.shape)} in the "
                    "scorer; give both networks the same sizes there, or do not share it"
                )
            parameter.copy_(value)


def _module(ranker: nn.Module, part: str) -> nn.Module:
    try:
        return ranker.get_submodule(part_module(part))
    except AttributeError:
        known = [name for name, _ in ranker.named_children() if name != "heads"]
        raise ValueError(
            f"initialised, frozen: a part is a path in the ranker, which has {known}; found "
            f"{part!r}; correct the name"
        ) from None
