"""Rules between two namings of a model, and matching them to the names of tensors.

A rule has templates on both sides and a transform from the outer side (a checkpoint as
it lies in files) to the inner side (our Flax leaves). In a template,

* `{i}` is any number, the same on both sides;
* `{e*}` gathers: all numbers from 0 on, as a list that the transform stacks;
* `{a:x|y|z}` is one of these words, and in the same place of the other side's list.

Both directions are read off the same templates, so that there is no second table.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple, NoReturn

from mda_jax.converters.errors import ConversionError
from mda_jax.converters.transforms import SAME, Shape, Transform


class Rule(NamedTuple):
    """How some tensors of a checkpoint become some Flax leaves.

    Without templates on one side, what matches the other has no counterpart there.
    """

    outer: tuple[str, ...]
    inner: tuple[str, ...]
    transform: Transform = SAME

    def flipped(self) -> "Rule":
        """The rule of the way back."""
        return Rule(self.inner, self.outer, self.transform.inverse())


class Group(NamedTuple):
    """Tensors that one rule takes together, and what they become."""

    rule: Rule
    sources: tuple[str, ...]
    targets: dict[str, Shape]


def expanded(rule: Rule) -> Iterator[Rule]:
    """One rule for every choice of the words that templates list.

    >>> for each in expanded(Rule(("{a:q|k}.weight",), ("{a:query|key}/kernel",))):
    ...     print(each.outer, each.inner)
    ('q.weight',) ('query/kernel',)
    ('k.weight',) ('key/kernel',)
    """
    listed = next((m for t in rule.outer + rule.inner if (m := _WORDS.search(t))), None)
    if listed is None:
        yield rule
        return
    for place, word in enumerate(listed[2].split("|")):
        sides = [
            tuple(_chosen(template, listed[1], place, word) for template in side)
            for side in (rule.outer, rule.inner)
        ]
        yield from expanded(Rule(sides[0], sides[1], rule.transform))


def _chosen(template: str, name: str, place: int, word: str) -> str:
    """A template with one word of a list in the place of the list."""
    own = re.compile(rf"\{{{name}:([^}}]*)\}}")
    listed = own.sub(lambda m: m[1].split("|")[place], template)
    return listed.replace(f"{{{name}}}", word)


class Table:
    """Rules, found by the names of their outer side."""

    def __init__(self, rules: Iterable[Rule]):
        self._rules = [each for rule in rules for each in expanded(rule)]
        self._by_outline: dict[str, list[_Place]] = {}
        for rule in self._rules:
            for at, template in enumerate(rule.outer):
                place = _Place(rule, at)
                self._by_outline.setdefault(_outline(template), []).append(place)

    def flipped(self) -> "Table":
        """The table of the way back."""
        return Table(rule.flipped() for rule in self._rules)

    @property
    def targets(self) -> list[str]:
        """The templates of all that the rules give."""
        return [template for rule in self._rules for template in rule.inner]

    def covers(self, name: str) -> bool:
        """Whether a rule takes this tensor."""
        return bool(self._places(name))

    def is_left(self, name: str) -> bool:
        """Whether a rule takes this tensor that gives nothing for it."""
        return any(not place.rule.inner for place, _ in self._places(name))

    def no_rule(self, name: str) -> str:
        """What to say of a tensor that no rule takes."""
        templates = [t for rule in self._rules for t in rule.outer]
        near = difflib.get_close_matches(name, templates, 1, 0)
        return f"no rule for the tensor {name!r}; the nearest is {near[0]!r}."

    def counterparts(self, name: str) -> list[str]:
        """What the rules that take a tensor give for it, the first of each list."""
        return [
            _filled(template, match.groupdict(), 0)
            for place, match in self._places(name)
            for template in place.rule.inner
        ]

    def groups(self, shapes: Mapping[str, Shape]) -> list[Group]:
        """Apply the rules to the tensors of a model.

        Args:
          shapes: of every tensor, by name.

        Returns:
          Which tensors belong together, and what they become.

        Raises:
          ConversionError: a tensor without exactly one rule, a rule with some of its
            tensors missing, a shape that does not fit.
        """
        found: dict[tuple[int, tuple[tuple[str, str], ...]], _Found] = {}
        for name in shapes:
            rule, at, holes, number = self._place(name)
            key = id(rule), tuple(holes.items())
            members = found.setdefault(key, _Found(rule, holes, {})).members
            members[at, number] = name
        return [_group(each, shapes) for each in found.values()]

    def _places(self, name: str) -> list[tuple["_Place", re.Match[str]]]:
        places = self._by_outline.get(_outline(name), [])
        return [(p, m) for p in places if (m := p.match(name))]

    def _place(self, name: str) -> tuple[Rule, int, dict[str, str], int]:
        places = self._places(name)
        if len(places) != 1:
            self._refuse(name, [p.rule.outer[p.at] for p, _ in places])
        [(place, match)] = places
        holes = match.groupdict()
        number = int(holes.pop(_GATHERED, 0))
        return place.rule, place.at, holes, number

    def _refuse(self, name: str, rules: Sequence[str]) -> NoReturn:
        if rules:
            raise ConversionError(f"{name!r} has several rules: {', '.join(rules)}.")
        raise ConversionError(self.no_rule(name))


class _Place(NamedTuple):
    rule: Rule
    at: int

    def match(self, name: str) -> re.Match[str] | None:
        return _pattern(self.rule.outer[self.at]).fullmatch(name)


class _Found(NamedTuple):
    rule: Rule
    holes: dict[str, str]
    members: dict[tuple[int, int], str]


_WORDS = re.compile(r"\{(\w+):([^}]*)\}")
_HOLE = re.compile(r"\{(\w+)(\*?)\}")
_NUMBER = re.compile(r"\d+")
_GATHERED = "gathered"


def _outline(text: str) -> str:
    """A name or template with every number and hole left out; few names share one."""
    return _NUMBER.sub("#", _HOLE.sub("#", text))


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pattern, seen, end = "", set(), 0
    for hole in _HOLE.finditer(template):
        name = _GATHERED if hole[2] else hole[1]
        pattern += re.escape(template[end : hole.start()])
        pattern += rf"(?P={name})" if name in seen else rf"(?P<{name}>0|[1-9]\d*)"
        seen.add(name)
        end = hole.end()
    return re.compile(pattern + re.escape(template[end:]))


def _filled(template: str, holes: Mapping[str, str], number: int) -> str:
    return _HOLE.sub(lambda m: str(number) if m[2] else holes[m[1]], template)


def _gathers(template: str) -> bool:
    return any(hole[2] for hole in _HOLE.finditer(template))


def _group(found: _Found, shapes: Mapping[str, Shape]) -> Group:
    rule, holes, members = found
    expected = [
        (at, number)
        for at, template in enumerate(rule.outer)
        for number in range(_count(members, at) if _gathers(template) else 1)
    ]
    missing = [key for key in expected if key not in members]
    if missing or len(expected) != len(members):
        at, number = missing[0] if missing else expected[-1]
        raise ConversionError(
            f"the tensor {_filled(rule.outer[at], holes, number)!r} is missing; it goes"
            f" together with {next(iter(members.values()))!r}."
        )
    sources = tuple(members[key] for key in expected)
    try:
        given = rule.transform.shapes([shapes[name] for name in sources])
    except ValueError as e:
        raise ConversionError(f"the tensor {sources[0]!r}: {e}.") from e
    if not rule.inner:
        return Group(rule, sources, {})
    places = (
        [(rule.inner[0], number) for number in range(len(given))]
        if _gathers(rule.inner[0])
        else [(template, 0) for template in rule.inner]
    )
    names = [_filled(template, holes, number) for template, number in places]
    return Group(rule, sources, dict(zip(names, given, strict=True)))


def _count(members: Mapping[tuple[int, int], str], at: int) -> int:
    """One more than the highest number; one too many is enough to find a gap."""
    highest = max((number for a, number in members if a == at), default=-1)
    return min(highest, len(members)) + 1
