"""What the names of tensors mean: inferred, where a file of rules says nothing."""

import difflib
import os
import re
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from mda_jax._types import Role
from mda_jax.pipeline import layers, names
from mda_jax.pipeline.document import Document, Steps, nearest, read_document
from mda_jax.pipeline.errors import Problems
from mda_jax.pipeline.layers import Layer, Stack


Patterns: TypeAlias = tuple[re.Pattern[str], ...]
Rules: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]


class Naming(NamedTuple):
    """The rules; None leaves a question to inference.

    Attributes:
      document: where the rules stand.
      layers: of tensors in layers; the group is the number of the layer.
      ties: tensor -> the tensor that it equals.
      tokens: of tensors with a row for each token.
      before: of tensors outside the layers that are used before them.
      roles: regex -> role, for `mda_jax.trees.layouts`.
    """

    document: Document
    layers: Patterns | None = None
    ties: dict[str, str] | None = None
    tokens: Patterns | None = None
    before: Patterns | None = None
    roles: dict[str, Role] | None = None

    def layer(self, name: str) -> Layer | None:
        """The layer that a tensor belongs to."""
        if self.layers is None:
            return layers.layer(name)
        return layers.split(name, _first_match(self.layers, name))

    def stacks(self, tensors: Iterable[str]) -> dict[str, Stack]:
        """The stacks of layers of a model, by what stands before their numbers.

        >>> INFERRED.stacks(["h.0.a", "h.0.b", "h.1.a", "h.1.b", "head.0.bias", "norm"])
        {'h.': Stack(first=0, length=2, width=1)}
        """
        return {
            name: layers.stack(held)
            for name, held in self._by_stack(tensors).items()
            if self.layers is not None or layers.is_stack(held)
        }

    def comes_first(self, name: str) -> bool:
        """Whether a tensor outside the layers is used before them."""
        if self.before is None:
            return layers.comes_first(name)
        return _first_match(self.before, name) is not None

    def is_token_table(self, name: str) -> bool:
        """Whether a tensor has one row for each token."""
        if self.tokens is None:
            return names.is_token_table(name)
        return _first_match(self.tokens, name) is not None

    def partners(self, name: str, held: Container[str]) -> list[str]:
        """The names that a tensor may be tied to, among those a model holds.

        >>> naming = load_naming({"ties": {"head": "wte", "in": "wte"}})
        >>> naming.partners("head", {"wte", "in", "norm"})
        ['wte', 'in']
        """
        if self.ties is None:
            return names.partners(name, held)
        one = self.ties.get(name, name)
        group = [one, *(each for each, other in self.ties.items() if other == one)]
        return [other for other in group if other != name and other in held]

    def check(self, models: Collection[Collection[str]]) -> None:
        """Refuse rules that no tensor follows, or that make no stack of layers.

        Args:
          models: the names of the tensors of each.

        Raises:
          ConfigError: with the line and the nearest name; `others` has further ones.
        """
        known = sorted({name for model in models for name in model})
        problems = Problems()
        for steps, pattern in self._patterns():
            with problems.collected():
                if not any(map(pattern.fullmatch, known)):
                    raise self.document.error(steps, _unmatched(pattern.pattern, known))
        for name, other in (self.ties or {}).items():
            for each in (name, other):
                with problems.collected():
                    if each not in known:
                        raise self.document.error(("ties", name), _unknown(each, known))
        for model in models if self.layers is not None else ():
            with problems.collected():
                for stack, held in self._by_stack(model).items():
                    self._check_stack(stack, held)
        problems.raise_any()

    def lines(self, models: Iterable[Iterable[str]]) -> list[str]:
        """How many tensors follow every rule, one line each."""
        known = {name for model in models for name in model}
        found = [
            f"{steps[0]}: {sum(map(bool, map(pattern.fullmatch, known)))} tensors match"
            f" {pattern.pattern!r}"
            for steps, pattern in self._patterns()
        ]
        found += [f"ties: {a!r} equals {b!r}" for a, b in (self.ties or {}).items()]
        return found + [
            f"{k}: none" for k, rules in self.document.data.items() if not rules
        ]

    def _by_stack(self, tensors: Iterable[str]) -> dict[str, list[Layer]]:
        found: dict[str, list[Layer]] = defaultdict(list)
        for each in filter(None, map(self.layer, tensors)):
            found[each.stack].append(each)
        return found

    def _patterns(self) -> Iterator[tuple[Steps, re.Pattern[str]]]:
        for key in ("layers", "tokens", "before"):
            for i, pattern in enumerate(getattr(self, key) or ()):
                yield (key, i), pattern
        for text in self.roles or ():
            yield ("roles", text), re.compile(text)

    def _check_stack(self, stack: str, held: list[Layer]) -> None:
        for each in held:
            if not each.digits.isdecimal():
                name, problem = each.renumbered(each.digits), "which is no whole number"
                problem = f"the group is {each.digits!r} in {name!r}, {problem}."
                raise self.document.error(("layers",), problem)
        numbers = {each.number for each in held}
        if lost := set(range(min(numbers), max(numbers))) - numbers:
            problem = f"{stack!r} has layers {min(numbers)} to {max(numbers)}"
            problem = f"{problem}, but no {min(lost)}; expected no gap."
            raise self.document.error(("layers",), problem)


INFERRED = Naming(Document("names", {}, {}))


def load_naming(source: Rules) -> Naming:
    """Read rules for names.

    Args:
      source: a YAML file, or its content as a dictionary. Its keys are `layers`,
        `tokens` and `before`, lists of regular expressions for whole names; `ties`,
        tensor -> tensor; `roles`, regular expression -> role. A key that is there says
        all there is to say, but for `roles`; what is not there is inferred.

    Returns:
      The rules.

    Raises:
      ConfigError: with the line and the nearest known name.
    """
    if isinstance(source, Mapping):
        document = Document("names", dict(source), {})
    else:
        document = read_document(Path(source))
    if not isinstance(document.data, dict):
        listed = ", ".join(_READERS)
        raise document.error((), f"rules for names are a mapping of keys: {listed}.")
    problems = Problems()
    found: dict[str, Any] = {}
    for key, value in document.data.items():
        with problems.collected():
            if key not in _READERS:
                hint = nearest(str(key), _READERS)
                raise document.error((key,), f"unknown key {key!r}; {hint}.")
            found[key] = _READERS[key](document, key, value)
    problems.raise_any()
    return Naming(document, **found)


def _numbered(document: Document, key: str, value: object) -> Patterns:
    """Patterns with one group each."""
    found = _patterns(document, key, value)
    for i, pattern in enumerate(found):
        if pattern.groups != 1:
            problem = (
                rf"{pattern.groups} groups; expected one, as (\d+), for the number"
            )
            problem = f"{pattern.pattern!r} has {problem} of the layer."
            raise document.error((key, i), problem)
    return found


def _patterns(document: Document, key: str, value: object) -> Patterns:
    if not isinstance(value, list):
        problem = f"{key!r}: got {value!r}; expected a list of regular expressions."
        raise document.error((key,), problem)
    return tuple(_compiled(document, (key, i), text) for i, text in enumerate(value))


def _ties(document: Document, key: str, value: object) -> dict[str, str]:
    expected = "expected a mapping from tensors to those that they equal"
    if not isinstance(value, dict):
        raise document.error((key,), f"{key!r}: got {value!r}; {expected}.")
    for name, other in value.items():
        if not isinstance(name, str) or not isinstance(other, str):
            problem = f"{name!r}: got {other!r}; {expected}, by name."
            raise document.error((key, name), problem)
        if other in value:
            problem = f"{name!r}: {other!r} is tied itself; name what both equal."
            raise document.error((key, name), problem)
    return value


def _roles(document: Document, key: str, value: object) -> dict[str, Role]:
    if not isinstance(value, dict):
        problem = "expected a mapping from regular expressions to roles"
        raise document.error((key,), f"{key!r}: got {value!r}; {problem}.")
    for text, role in value.items():
        _compiled(document, (key, text), text)
        if role not in _ROLES:
            hint = nearest(str(role), _ROLES)
            raise document.error((key, text), f"no role {role!r}; {hint}.")
    return {text: _ROLES[role] for text, role in value.items()}


_ROLES = {role.value: role for role in Role}
_READERS = {
    "layers": _numbered,
    "ties": _ties,
    "tokens": _patterns,
    "before": _patterns,
    "roles": _roles,
}


def _compiled(document: Document, steps: Steps, text: object) -> re.Pattern[str]:
    try:
        return re.compile(text)  # type: ignore[call-overload, no-any-return]
    except (re.error, TypeError, OverflowError, RecursionError) as e:
        problem = f"{text!r} is no regular expression ({e})."
        raise document.error(steps, problem) from e


def _first_match(patterns: Patterns, name: str) -> re.Match[str] | None:
    found = (pattern.fullmatch(name) for pattern in patterns)
    return next(filter(None, found), None)


def _unmatched(text: str, known: list[str]) -> str:
    problem = f"no tensor has a name that {text!r} matches as a whole"
    return f"{problem}; {_like(text.replace(chr(92), ''), known)}."


def _unknown(name: str, known: list[str]) -> str:
    return f"no model has a tensor {name!r}; {_like(name, known)}."


def _like(name: str, known: list[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1, cutoff=0)
    return f"the nearest is {found[0]!r}" if found else "there are none"
