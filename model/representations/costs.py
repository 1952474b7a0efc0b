"""Closed-form costs of what a ranker reads of stored vectors."""

from model.config import RankerConfig
from model.representations import history, user_vector


def num_candidate_tokens(config: RankerConfig) -> int:
    """Tokens that stored representations are weighed by: all others of the row."""
    own = config.representation_history.num_tokens if config.representation_history else 0
    return config.num_feature_tokens - own


def num_parameters(config: RankerConfig) -> int:
    """Parameters of the user's vector and of the history of representations; 0 without them."""
    vector, earlier = config.user_vector, config.representation_history
    total = user_vector.num_parameters(vector, config.width) if vector else 0
    if earlier:
        total += history.num_parameters(earlier, config.width, num_candidate_tokens(config))
    return total


def flops(config: RankerConfig, num_representations: float) -> float:
    """Forward FLOPs of both for one row.

    Args:
        config: The ranker's configuration.
        num_representations: Stored representations that the row reads; at most `max_length` count.
    """
    vector, earlier = config.user_vector, config.representation_history
    total = float(user_vector.flops(vector, config.width)) if vector else 0.0
    if earlier:
        number = min(num_representations, earlier.max_length)
        total += history.flops(earlier, config.width, num_candidate_tokens(config), number)
    return total
