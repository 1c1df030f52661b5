"""Pickles of plain values, written, and read by a machine that can build nothing else.

A pickle is a program. This machine has the instructions that plain values need, in
the protocol of PyTorch; a name that the program asks for stands for what a table has
under it, and only the table's functions are called. Nothing is ever imported.
"""

import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn


PROTOCOL = 2
Call = Callable[[tuple[Any, ...]], Any]


class Refused(Exception):
    """A pickle asks for what it may not have, or is damaged."""

    def __init__(self, found: str, expected: str):
        super().__init__(found)
        self.found, self.expected = found, expected


def unpickled(program: bytes, names: Mapping[str, Any], persistent: Any) -> Any:
    """Run a pickle.

    Args:
      program: the pickle.
      names: `module.name` -> the value that it stands for; a function is called with
        the one tuple of its arguments.
      persistent: called with the tuple that stands for data outside of the pickle.

    Returns:
      What it makes: None, numbers, strings, tuples, lists, dictionaries with such keys,
      and what the functions give. It may hold itself.

    Raises:
      Refused: it has another instruction or name, or ends too early.

    >>> unpickled(pickle.dumps({"a": [1, 2.5]}, 2), {}, tuple)
    {'a': [1, 2.5]}
    """
    return _Machine(program, names, persistent).run()


class Name(NamedTuple):
    """What a program finds in a module."""

    module: str
    name: str


class Made(NamedTuple):
    """What a function returns."""

    function: Name
    arguments: tuple[Any, ...]


class Outside(NamedTuple):
    """Data outside of the pickle."""

    identity: tuple[Any, ...]


class Filled(NamedTuple):
    """A dictionary that a function returns, with items."""

    made: Made
    items: Mapping[str, Any]


def pickled(value: Any) -> bytes:
    """Write a pickle that `unpickled` and Python read.

    Args:
      value: a boolean, an integer below 2**63, a string, a tuple of such, or one of the
        four kinds above.

    >>> unpickled(pickled(("a", (1, False))), {}, tuple)
    ('a', (1, False))
    """
    return pickle.PROTO + bytes([PROTOCOL]) + _program(value) + pickle.STOP


def _program(value: Any) -> bytes:
    """The instructions that make a value."""
    return _WRITTEN[type(value)](value)


def _text_program(text: str) -> bytes:
    data = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _filled_program(value: Filled) -> bytes:
    pairs = (_program(key) + _program(item) for key, item in value.items.items())
    return _program(value.made) + pickle.MARK + b"".join(pairs) + pickle.SETITEMS


_WRITTEN: dict[type, Callable[[Any], bytes]] = {
    bool: lambda v: pickle.NEWTRUE if v else pickle.NEWFALSE,
    int: lambda v: pickle.LONG1 + b"\x08" + v.to_bytes(8, "little", signed=True),
    str: _text_program,
    tuple: lambda v: pickle.MARK + b"".join(map(_program, v)) + pickle.TUPLE,
    Name: lambda v: pickle.GLOBAL + f"{v.module}\n{v.name}\n".encode(),
    Made: lambda v: _program(v.function) + _program(v.arguments) + pickle.REDUCE,
    Outside: lambda v: _program(v.identity) + pickle.BINPERSID,
    Filled: _filled_program,
}


class _Machine:
    """The state of a program that runs."""

    def __init__(self, program: bytes, names: Mapping[str, Any], persistent: Any):
        self._program, self._at = program, 0
        self._names, self._persistent = names, persistent
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each mark
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        while (code := self._bytes(1)) != pickle.STOP:
            if code not in _STEPS:
                _refuse(f"the instruction {_instruction(code)}", "plain values")
            _STEPS[code](self)
        return self.pop()

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        if not self._stack:
            _refuse("a program that takes what it never made", "a whole pickle")
        return self._stack.pop()

    def number(self, layout: str) -> Any:
        """The number that follows, in the notation of `struct`."""
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))[0]

    def protocol(self) -> None:
        version = self.number("B")
        if version != PROTOCOL:
            _refuse(f"a pickle of protocol {version}", f"protocol {PROTOCOL}")

    def mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def since_mark(self) -> list[Any]:
        """What was made since the last mark, taken off the stack."""
        if not self._below:
            _refuse("a program without a mark", "a whole pickle")
        items, self._stack = self._stack, self._below.pop()
        return items

    def integer(self, size: str) -> None:
        self.push(int.from_bytes(self._bytes(self.number(size)), "little", signed=True))

    def text(self) -> None:
        held = self._bytes(self.number("<I"))
        try:
            self.push(held.decode())
        except UnicodeDecodeError:
            _refuse(f"the text {held[:40]!r}", "UTF-8")

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        held = self._top(dict)
        if len(items) % 2:
            _refuse("a key without a value", "a whole pickle")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | float | None):
                _refuse(f"a key of type {type(key).__name__}", "a string or number")
            held[key] = value

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def put(self, layout: str) -> None:
        index, value = self.number(layout), self.pop()
        self._memo[index] = value
        self.push(value)

    def get(self, layout: str) -> None:
        index = self.number(layout)
        if index not in self._memo:
            _refuse("a program that recalls what it never noted", "a whole pickle")
        self.push(self._memo[index])

    def name(self) -> None:
        name = b".".join((self._line(), self._line())).decode(errors="replace")
        if name not in self._names:
            _refuse(ascii(name[:80]), "tensors and plain values")
        self.push(self._names[name])

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not callable(function) or not isinstance(arguments, tuple):
            _refuse("a call of what is no function", "a whole pickle")
        self.push(function(arguments))

    def load_persistent(self) -> None:
        self.push(self._persistent(self.pop()))

    def attributes(self) -> None:
        """Attributes of a dictionary, such as versions of modules; left out."""
        self.pop()
        self._top(dict)

    def _top(self, kind: type) -> Any:
        value = self.pop()
        if type(value) is not kind:
            _refuse(f"a change of a {type(value).__name__}", f"a {kind.__name__}")
        self.push(value)
        return value

    def _line(self) -> bytes:
        end = self._program.find(b"\n", self._at)
        if end < 0:
            _refuse("a pickle that ends within a name", "a whole pickle")
        return self._bytes(end + 1 - self._at)[:-1]

    def _bytes(self, count: int) -> bytes:
        held = self._program[self._at : self._at + max(0, count)]
        if len(held) != count:
            _refuse(f"a pickle of {len(self._program)} bytes", "more: it is cut off")
        self._at += count
        return held


_STEPS: dict[bytes, Callable[[_Machine], object]] = {
    pickle.PROTO: _Machine.protocol,
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.BININT: lambda m: m.push(m.number("<i")),
    pickle.BININT1: lambda m: m.push(m.number("B")),
    pickle.BININT2: lambda m: m.push(m.number("<H")),
    pickle.LONG1: lambda m: m.integer("B"),
    pickle.LONG4: lambda m: m.integer("<i"),
    pickle.BINFLOAT: lambda m: m.push(m.number(">d")),
    pickle.BINUNICODE: _Machine.text,
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE1: lambda m: m.tuple_of(1),
    pickle.TUPLE2: lambda m: m.tuple_of(2),
    pickle.TUPLE3: lambda m: m.tuple_of(3),
    pickle.TUPLE: lambda m: m.push(tuple(m.since_mark())),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.APPEND: lambda m: m.append([m.pop()]),
    pickle.APPENDS: lambda m: m.append(m.since_mark()),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.SETITEM: _Machine.set_item,
    pickle.SETITEMS: lambda m: m.set_items(m.since_mark()),
    pickle.MARK: _Machine.mark,
    pickle.BINPUT: lambda m: m.put("B"),
    pickle.LONG_BINPUT: lambda m: m.put("<I"),
    pickle.BINGET: lambda m: m.get("B"),
    pickle.LONG_BINGET: lambda m: m.get("<I"),
    pickle.GLOBAL: _Machine.name,
    pickle.REDUCE: _Machine.call,
    pickle.BINPERSID: _Machine.load_persistent,
    pickle.BUILD: _Machine.attributes,
}
_INSTRUCTIONS = {each.code.encode("latin-1"): each.name for each in pickletools.opcodes}


def _instruction(code: bytes) -> str:
    return _INSTRUCTIONS.get(code, repr(code))


def _refuse(found: str, expected: str) -> NoReturn:
    raise Refused(found, expected)
