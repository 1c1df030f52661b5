"""The one exception of every reader."""

import os


class FormatError(ValueError):
    """A file is not what its format promises; the message names the file."""

    def __init__(
        self, path: str | os.PathLike[str], found: str, expected: str, advice: str
    ):
        super().__init__(
            f"{os.fspath(path)}: found {found}; expected {expected}. {advice}"
        )
