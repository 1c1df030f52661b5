"""What can go wrong in a merge from files, besides a damaged file."""


class ConfigError(ValueError):
    """The request makes no sense as written: a key, a value, a path."""


class MergeError(ValueError):
    """The request is fine, but these models cannot be merged."""
