"""Every tensor of every model is accounted for by a named rule, before any is read."""

from collections.abc import Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np

from mda_jax.converters.formats import Spec
from mda_jax.pipeline.bits import same_bits
from mda_jax.pipeline.errors import MergeError, Problems
from mda_jax.pipeline.names import is_recomputed
from mda_jax.pipeline.naming import INFERRED, Naming
from mda_jax.pipeline.views import View


COPIED = "copied: integers or booleans"
REBUILT = "copied: recomputed by the model"
UNNEEDED = "dropped: recomputed by the model"
DUPLICATE = "dropped: tied duplicate"

FLOATS = frozenset(
    np.dtype(d) for d in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)
)
_SHOWN = 3  # tensors named in an error
_REMEDY = (
    "give 'tokenizer: {source: union}' to align the tokens, or"
    " --unsafe-truncate-embeddings to cut the tables to the shortest"
)


class Inventory(NamedTuple):
    """What happens to each tensor."""

    merged: dict[str, Spec]  # of the donor
    copied: dict[str, str]  # of the donor -> rule
    dropped: dict[str, dict[str, str]]  # model -> tensor -> rule
    tied: list[dict[str, str]]  # per expert: tensor -> the one it holds instead


def account(
    donor: View, experts: Sequence[View], naming: Naming = INFERRED
) -> Inventory:
    """Decide what happens to each tensor, from names, shapes and types.

    Args:
      donor: the model whose names, shapes and types the output has.
      experts: the models to merge into it.
      naming: which tensors are tied, and which are tables of tokens.

    Returns:
      A rule for every tensor of every model.

    Raises:
      MergeError: a tensor is missing, extra, of another shape, or of a type that
        cannot be merged; the message names the model and the first tensors.
    """
    merged, copied = {}, {}
    for name in donor:
        spec = donor.spec(name)
        if is_recomputed(name, spec):
            copied[name] = REBUILT
        elif spec.dtype.kind in "biu":
            copied[name] = COPIED
        else:
            merged[name] = spec
    _check_types(donor, list(merged))
    dropped, tied = {}, []
    problems = Problems()
    for expert in experts:
        ties = _ties(merged, expert, naming)
        with problems.collected():
            dropped[str(expert.path)] = _compare(donor, merged, expert, ties, naming)
        tied.append(ties)
    problems.raise_any()
    return Inventory(merged, copied, dropped, tied)


def _ties(merged: dict[str, Spec], expert: View, naming: Naming) -> dict[str, str]:
    """For each weight the expert lacks, the tied one it holds."""
    lacking = (name for name in merged if name not in expert)
    held = {name: naming.partners(name, expert) for name in lacking}
    return {name: found[0] for name, found in held.items() if found}


def _compare(
    donor: View,
    merged: dict[str, Spec],
    expert: View,
    ties: dict[str, str],
    naming: Naming,
) -> dict[str, str]:
    """The rules of what the expert has beyond the donor; one error for all problems."""
    problems = []
    for name, spec in merged.items():
        held = ties.get(name, name)
        if held not in expert:
            problems.append(f"{name!r} {spec.shape} is missing")
        elif expert.spec(held).shape != spec.shape:
            got = expert.spec(held).shape
            problems.append(f"{name!r} has shape {got}, not {spec.shape}")
    dropped: dict[str, str] = {}
    for name in expert:
        if name in donor or name in ties.values():
            continue
        if is_recomputed(name, expert.spec(name)):
            dropped[name] = UNNEEDED
        elif any(_same(expert, name, expert, n) for n in naming.partners(name, expert)):
            dropped[name] = DUPLICATE
        else:
            problems.append(f"{name!r} {expert.spec(name).shape} is extra")
    if problems:
        raise _different(donor, expert, problems, naming)
    _check_types(expert, [ties.get(name, name) for name in merged])
    return dropped


def differing_copies(
    donor: View, experts: Sequence[View], copied: dict[str, str]
) -> list[str]:
    """View that are copied although some model has other integers there.

    Args:
      donor: the model that they are copied from.
      experts: the other models.
      copied: tensor -> rule, from `account`.

    Returns:
      Their names.

    Raises:
      MergeError: one of them is a table or matrix: most likely a quantised weight.
    """
    differing = []
    for name in (n for n, rule in copied.items() if rule == COPIED):
        others = [e for e in experts if name in e]
        odd = [e for e in others if not _same(e, name, donor, name)]
        if odd and len(donor.spec(name).shape) > 1:
            raise MergeError(
                f"{odd[0].path}: {name!r} is {odd[0].spec(name).dtype} and differs from"
                f" that of {donor.path}; integers are not merged. Dequantise the models"
                " first."
            )
        differing += [name] if odd else []
    return differing


def _different(
    donor: View, expert: View, problems: list[str], naming: Naming
) -> MergeError:
    rest = len(problems) - _SHOWN
    more = f"; and {rest} more" if rest > 0 else ""
    tables = (n for n in expert if n in donor and naming.is_token_table(n))
    differ = any(donor.spec(n).shape != expert.spec(n).shape for n in tables)
    remedy = f": {_REMEDY}" if differ else ""
    return MergeError(
        f"{expert.path}: {len(problems)} tensors do not match {donor.path}:"
        f" {'; '.join(problems[:_SHOWN])}{more}. Only fine-tunes of one architecture"
        f" with one vocabulary can be merged{remedy}."
    )


def _same(one: View, name: str, other: View, its_name: str) -> bool:
    return same_bits(lambda: one.raw(name), lambda: other.raw(its_name))


def _check_types(model: View, names: list[str]) -> None:
    for name in names:
        dtype = model.spec(name).dtype
        if dtype not in FLOATS:
            raise MergeError(
                f"{model.path}: {name!r} is {dtype}, which has no meaning without its"
                " scales or phases; expected float64, float32, float16 or bfloat16."
                " Dequantise the model first."
            )
