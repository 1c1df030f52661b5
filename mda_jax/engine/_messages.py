"""What devices send to each other in a program that XLA has partitioned."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple


_SENDS = {  # how often the larger of what goes in and what comes out
    "all-gather": 1,
    "all-reduce": 2,
    "reduce-scatter": 1,
    "all-to-all": 1,
    "ragged-all-to-all": 1,
    "collective-permute": 1,
    "collective-broadcast": 1,
}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_OPERAND = re.compile(r"%([\w.-]+)")
_CALLED = re.compile(r"(?:body|calls|to_apply)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_BITS = re.compile(r"\d+")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")


class _Instruction(NamedTuple):
    name: str
    size: int  # bytes of the result
    operation: str
    rest: str  # of the line


def sent(program: str) -> dict[str, int]:
    """Bytes that each device sends, by kind of message.

    Args:
      program: the text of a compiled program. XLA has CPUs exchange bfloat16 as
        float32, so that a program for them sends twice as much of it.

    Returns:
      `{kind: bytes}`: as rings of many devices send, a sum (`all-reduce`) twice. What
      is in a loop of known length counts as often, else once; all branches count.
    """
    found: dict[str, int] = {}
    computations = dict(_computations(program))
    pending = [(name, 1) for name in computations if name.startswith("ENTRY ")]
    while pending:
        name, times = pending.pop()
        instructions = computations[name]
        sizes = {each.name: each.size for each in instructions}
        for each in instructions:
            kind = each.operation.removesuffix("-start")
            if kind in _SENDS:
                operands = _OPERAND.findall(each.rest.split(")")[0])
                given = sum(sizes.get(operand, 0) for operand in operands)
                size = _SENDS[kind] * max(given, each.size) * times
                found[kind] = found.get(kind, 0) + size
            trips = _TRIPS.search(each.rest)
            inner = times * (int(trips[1]) if trips else 1)
            pending += [(n, inner) for n in _called(each.rest) if n in computations]
    return found


def _computations(program: str) -> Iterator[tuple[str, list[_Instruction]]]:
    """Name -> instructions; that of the entry with `ENTRY ` before it."""
    name = ""
    instructions: list[_Instruction] = []
    for line in program.splitlines():
        if start := _COMPUTATION.match(line):
            name, instructions = f"{start[1] or ''}{start[2]}", []
        elif line.startswith("}") and name:
            yield name, instructions
        elif found := _INSTRUCTION.match(line):
            size = sum(map(_bytes, _ARRAY.finditer(found[2])))
            instructions.append(_Instruction(found[1], size, found[3], found[4]))


def _called(rest: str) -> list[str]:
    branches = _BRANCHES.search(rest)
    listed = _OPERAND.findall(branches[1]) if branches else []
    return _CALLED.findall(rest) + listed


def _bytes(array: re.Match[str]) -> int:
    """Bytes of an array as XLA writes its type: `bf16[2,3]`, `pred[]`."""
    name, shape = array.groups()
    bits = _BITS.search(name)
    entries = math.prod(map(int, filter(None, shape.split(","))))
    return entries * (int(bits[0]) if bits else 8) // 8
