"""The one exception of conversion."""


class ConversionError(ValueError):
    """A checkpoint cannot be converted; the message names the tensor or the field."""
