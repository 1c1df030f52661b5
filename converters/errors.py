"""What can go wrong besides a damaged file."""


class Problem(ValueError):
    """One problem, and those that were found with it."""

    others: "tuple[Problem, ...]" = ()


class ConfigError(Problem):
    """The request makes no sense as written: a key, a value, a path."""


class ConversionError(Problem):
    """A checkpoint cannot be converted; the message names the tensor or the field."""
