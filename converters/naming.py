"""How the tensors of a checkpoint are named: found out from the names themselves."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from mda_jax.converters.dialects import Dialect, Family
from mda_jax.converters.errors import ConversionError
from mda_jax.converters.families import FAMILIES
from mda_jax.converters.formats.arrays import row_major_bytes
from mda_jax.converters.rules import Rule, Table
from mda_jax.converters.translate import Named


# What training code puts before every name.
WRAPPERS = (
    *("", "module.", "_orig_mod.", "model.", "params/"),
    *("module._orig_mod.", "_orig_mod.module.", "model._orig_mod."),
)
_SAMPLE = 256  # names that tell which dialects are worth a look at all of them
_BLOCK = 1 << 22  # entries compared at a time


class Naming(NamedTuple):
    """The dialect of a checkpoint, and what it has of its own.

    Attributes:
      family: of the model.
      dialect: of the names and layouts.
      wrapper: before every name.
      prefix: before the names of the backbone.
      ties: name that the rules know -> all names that its numbers are stored under.
    """

    family: str
    dialect: str
    wrapper: str = ""
    prefix: str = ""
    ties: Mapping[str, Sequence[str]] = {}

    @property
    def table(self) -> Dialect:
        """The dialect."""
        return dialect_of(self.family, self.dialect)

    def rules(self, sizes: Mapping[str, int]) -> list[Rule]:
        """From these names to our leaves."""
        return list(self.table.rules(self.prefix, sizes))


def family_of(name: str) -> Family:
    """A family by its name.

    Raises:
      ConversionError: there is none.
    """
    return _find(FAMILIES, name, "family")


@cache
def dialect_of(family: str, name: str) -> Dialect:
    """A dialect of a family by its name.

    Raises:
      ConversionError: there is none.
    """
    return _find(family_of(family).dialects, name, f"dialect of {family}")


def named(family: str, dialect: str, names: Iterable[str]) -> Naming:
    """The naming of tensors whose dialect is known; the prefix is told by the names.

    Raises:
      ConversionError: there is no such dialect.
    """
    every = list(names)
    prefixes = dialect_of(family, dialect).prefixes
    namings = [Naming(family, dialect, prefix=prefix) for prefix in prefixes]
    return next((n for n in namings if all(map(_covers(n), every))), namings[0])


def noted(fields: Mapping[str, Any]) -> Naming:
    """A naming that was written down.

    Args:
      fields: of a `Naming`.

    Raises:
      ConversionError: its dialect does not know the names that it states.
    """
    naming = Naming(**fields)
    groups = naming.table.tied(naming.prefix)
    for name, stored in naming.ties.items():
        if not any(name == g[0] and set(stored) <= set(g) for g in groups):
            raise ConversionError(f"{naming.dialect} does not tie {name!r} to others.")
    if naming.wrapper not in WRAPPERS or naming.prefix not in naming.table.prefixes:
        before = naming.wrapper + naming.prefix
        raise ConversionError(f"{naming.dialect} has no names after {before!r}.")
    return naming


def recognise(tensors: Named, config: Mapping[str, Any]) -> Naming:
    """Find the family and the dialect whose rules take every tensor.

    Args:
      tensors: of a checkpoint.
      config: content of its `config.json`; empty if there is none. The family of its
        `model_type` is tried first.

    Returns:
      How the tensors are named.

    Raises:
      ConversionError: no dialect takes them all; the message names a tensor that the
        nearest dialect does not take, and its nearest rule.
    """
    names = list(tensors)
    if not names:
        raise ConversionError("the checkpoint has no tensors.")
    some = names[:: 1 + len(names) // _SAMPLE]
    best: tuple[int, Naming] | None = None
    for naming in _candidates(names, config):
        covers = _covers(naming)
        known = sum(map(covers, some))
        if known == len(some) and all(map(covers, names)):
            return naming._replace(ties=_ties(tensors, naming, config))
        if best is None or known > best[0]:
            best = known, naming
    if best is None or not best[0]:
        listed = ", ".join(family.name for family in FAMILIES)
        raise ConversionError(
            f"no family has tensors like {names[0]!r}; known are {listed}."
        )
    _, naming = best
    covers = _covers(naming)
    odd = [name for name in names if not covers(name)]
    plain = odd[0].removeprefix(naming.wrapper)
    raise ConversionError(
        f"{Table(naming.rules({})).no_rule(plain)} {len(names) - len(odd)} of"
        f" {len(names)} tensors are those of {naming.family} in the dialect"
        f" {naming.dialect!r}."
    )


def _candidates(names: Sequence[str], config: Mapping[str, Any]) -> Iterator[Naming]:
    kind = config.get("model_type")
    wrappers = [w for w in WRAPPERS if all(n.startswith(w) for n in names)]
    for family in sorted(FAMILIES, key=lambda f: kind not in f.model_types):
        for dialect in family.dialects:
            for prefix in dialect.prefixes:
                for wrapper in wrappers:
                    yield Naming(family.name, dialect.name, wrapper, prefix)


def _covers(naming: Naming) -> Callable[[str], bool]:
    """Whether a dialect takes a tensor, by its name."""
    table = Table(naming.rules({}))
    tied = {name for names in naming.table.tied(naming.prefix) for name in names}

    def covers(name: str) -> bool:
        plain = name.removeprefix(naming.wrapper)
        return plain in tied or table.covers(plain)

    return covers


def _ties(
    tensors: Named, naming: Naming, config: Mapping[str, Any]
) -> dict[str, list[str]]:
    """The tensors that are stored several times, or under another name alone.

    The last name of an embedding is that of a head, which a config may untie.
    """
    ties, held = {}, set(tensors)
    untied = config.get("tie_word_embeddings") is False
    for every in naming.table.tied(naming.prefix):
        names = every[:-1] if untied and every[0].endswith(".weight") else every
        stored = [name for name in names if naming.wrapper + name in held]
        same = [n for n in stored if _equal(tensors, naming.wrapper, stored[0], n)]
        if same not in ([], [names[0]]):
            ties[names[0]] = same
    return ties


def _equal(tensors: Named, wrapper: str, *names: str) -> bool:
    """Whether two tensors are the same bits."""
    one, other = (wrapper + name for name in names)
    if one == other:
        return True
    if tensors.spec(one) != tensors.spec(other):
        return False
    a, b = (
        np.frombuffer(row_major_bytes(tensors[name]), np.uint8) for name in (one, other)
    )
    starts = range(0, a.size, _BLOCK)
    return all(np.array_equal(a[s : s + _BLOCK], b[s : s + _BLOCK]) for s in starts)


def _find(among: Iterable[Any], name: str, what: str) -> Any:
    found = {each.name: each for each in among}
    if name not in found:
        listed = ", ".join(found)
        raise ConversionError(f"{name!r} is no {what}; there are {listed}.")
    return found[name]
