"""The errors a user or a table can cause, each with the exit code that reports it."""


class ConfigError(ValueError):
    """A configuration, contract or input that cannot be used: exit code 2.

    The message says what was wrong, what was found and what to do, in that order.
    """

    exit_code = 2


class GateFailed(Exception):
    """A gate refused: exit code 3. Never retried."""

    exit_code = 3


class PromotionConflict(Exception):
    """Another promotion landed since the gates judged: exit code 4. Judge again, then promote."""

    exit_code = 4
