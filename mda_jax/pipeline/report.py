"""What a merge did."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple


class Report(NamedTuple):
    """What happened to every tensor of every model.

    Attributes:
      out: the new folder.
      method: name of the merge method.
      rules: tensor of the output -> what was done.
      dropped: model -> tensor -> why the output lacks it.
      tied: model -> tensor -> the tied one that was used instead.
      files: the files copied beside the weights.
      warnings: what deserves a second look, one line each.
      seconds: wall time.
    """

    out: Path
    method: str
    rules: dict[str, str]
    dropped: dict[str, dict[str, str]]
    tied: dict[str, dict[str, str]]
    files: list[Path]
    warnings: list[str]
    seconds: float

    def counts(self) -> dict[str, int]:
        """Number of tensors per rule; dropped and tied ones count once per model."""
        every = Counter(self.rules.values())
        for rules in self.dropped.values():
            every.update(rules.values())
        every["tied: read from their partner"] += sum(map(len, self.tied.values()))
        return {rule: count for rule, count in every.items() if count}
