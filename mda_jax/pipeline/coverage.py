"""The proof, after a merge, that every tensor of every model is accounted for."""

from mda_jax.pipeline.errors import MergeError
from mda_jax.pipeline.job import Job
from mda_jax.pipeline.parts import Part
from mda_jax.pipeline.views import View


def coverage(job: Job, written: set[str]) -> dict[str, dict[str, int]]:
    """Count what became of the tensors of each model.

    Args:
      job: the merge.
      written: the tensors that the output has.

    Returns:
      Model -> how many of its tensors were used, and left out by a named rule; a
      tensor used twice counts once.

    Raises:
      MergeError: a tensor of a model is neither, or the output lacks one.
    """
    if lost := job.specs.keys() - written:
        raise MergeError(f"{min(lost)!r} was to be written, and was not.")
    used: dict[str, set[str]] = {str(path): set() for path in job.models}
    for part, _ in job.parts:
        for i, view in enumerate(part.views):
            used[str(view.path)] |= _used(part, i, view)
    found = {}
    for path, model in job.models.items():
        mine, dropped = used[str(path)], set(job.dropped.get(str(path), ()))
        if lost := set(model) - mine - dropped:
            raise MergeError(f"{path}: no rule says what became of {min(lost)!r}.")
        found[str(path)] = {"used": len(mine), "left_out": len(set(model) - mine)}
    return found


def _used(part: Part, i: int, view: View) -> set[str]:
    """The tensors of an ingredient that went into the output."""
    used: set[str] = set()
    if i == part.cast.donor:
        used |= {view.stored(name) for name in view}
    for at, ties in zip(part.cast.experts, part.inventory.tied, strict=True):
        if at == i:
            merged = (ties.get(name, name) for name in part.inventory.merged)
            used |= {view.stored(name) for name in merged}
            used |= {view.stored(n) for n in part.inventory.copied if n in view}
    return used
