"""The stack machine that a pickle is a program for: see :mod:`distilplace.common.pickles.reader`."""

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

FEW = 1000  # parts of a dictionary key: more would take long to hash


class PickleError(ValueError):
    """No readable pickle: damaged, cut off, or not of the kinds of data that are read here."""


class ForeignClassError(PickleError):
    """The pickle names a class or function outside the caller's table."""


class Call(NamedTuple):
    """An entry of the table: what takes the place of a class or function. It gets the file's arguments."""

    function: Callable[..., Any]


class Stateful(ABC):
    """A stand-in that takes the state a pickle gives to the object it has made."""

    __slots__ = ()

    @abstractmethod
    def set_state(self, state: Any) -> None:
        """Take over ``state``; :class:`PickleError` when it is none of this kind."""


class Foreign:
    """Stands for an object that was never made; its name is the class's or function's, such as "argparse.Namespace"."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Machine:
    """Stack, marks and memo of a pickle that is being read; one method per kind of operation."""

    def __init__(self, data: Any, table: Mapping[str, Any], start: int, keep_foreign: bool, persistent: Any) -> None:
        self.data, self.at, self.end = data, start, len(data)
        self.table, self.keep_foreign, self.persistent = table, keep_foreign, persistent
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    # -- bytes ----------------------------------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        begin = self.at
        self.at = begin + count
        if count < 0 or self.at > self.end:
            raise PickleError("cut off, or a length that exceeds the file")
        found: bytes = self.data[begin : self.at]
        return found

    def number(self, layout: struct.Struct) -> int:
        """The next number, written as ``layout``."""
        found: int = layout.unpack(self.take(layout.size))[0]
        return found

    def line(self) -> str:
        """The rest of the line, without its end."""
        stop = self.data.find(b"\n", self.at)
        if stop < 0:
            raise PickleError("cut off")
        return self.take(stop + 1 - self.at)[:-1].decode("latin1")

    # -- stack ----------------------------------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        """Put a value."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the last value."""
        if not self.stack:
            raise PickleError("takes what was never put")
        return self.stack.pop()

    def last(self) -> Any:
        """The last value, which stays."""
        if not self.stack:
            raise PickleError("takes what was never put")
        return self.stack[-1]

    def mark(self) -> None:
        """Begin a group of values."""
        self.marked.append(self.stack)
        self.stack = []

    def to_mark(self) -> list[Any]:
        """The items since the last mark, taken away."""
        if not self.marked:
            raise PickleError("takes what was never put")
        items, self.stack = self.stack, self.marked.pop()
        return items

    def drop(self) -> None:
        """Take the last value, or an empty group."""
        if self.stack:
            self.stack.pop()
        else:
            self.to_mark()

    def put(self, index: int) -> None:
        """Keep the last value under a number."""
        self.memo[index] = self.last()

    def get(self, index: int) -> None:
        """Put what was kept under a number."""
        if index not in self.memo:
            raise PickleError("recalls what was never kept")
        self.stack.append(self.memo[index])

    def push_tuple(self, count: int) -> None:
        """Make a tuple of the last ``count`` values."""
        if len(self.stack) < count:
            raise PickleError("takes what was never put")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    # -- containers -----------------------------------------------------------------------------------------------

    def append(self, items: list[Any]) -> None:
        """Add items to the last list."""
        target = self.last()
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, Foreign):
            raise PickleError("items for what is no list")

    def set_items(self, items: list[Any]) -> None:
        """Add keys and values, in turn, to the last dict."""
        target = self.last()
        if len(items) % 2:
            raise PickleError("a key without a value")
        if type(target) is dict:
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[checked_key(key)] = value
        elif not isinstance(target, Foreign):
            raise PickleError("items for what is no dict")

    def add_items(self, items: list[Any]) -> None:
        """Add items to the last set."""
        target = self.last()
        if type(target) is set:
            target.update(map(checked_key, items))
        elif not isinstance(target, Foreign):
            raise PickleError("items for what is no set")

    # -- names, objects -------------------------------------------------------------------------------------------

    def find(self, module: Any, name: Any) -> Any:
        """What takes the place of a class or function."""
        if type(module) is not str or type(name) is not str:
            raise PickleError("a class whose name is no text")
        full = f"{module}.{name}"
        if full in self.table:
            return self.table[full]
        if self.keep_foreign:
            return Foreign(full)
        raise ForeignClassError(full)

    def make(self, what: Any, arguments: Any) -> None:
        """Push what a class or function becomes, called with the file's arguments."""
        if isinstance(what, Foreign):
            self.push(Foreign(what.name))
        elif isinstance(what, Call) and type(arguments) is tuple:
            self.push(what.function(*arguments))
        else:
            raise PickleError("a call of what is no class or function")

    def make_with_names(self) -> None:
        """A call with named arguments, which only foreign classes may have."""
        names, arguments, what = self.pop(), self.pop(), self.pop()
        if names and not isinstance(what, Foreign):
            raise PickleError("a call with named arguments")
        self.make(what, arguments)

    def make_from_mark(self, what: Any = None) -> None:
        """A call whose arguments are the last group; its first item is the class where none is given."""
        items = self.to_mark()
        if what is None and not items:
            raise PickleError("takes what was never put")
        self.make(items.pop(0) if what is None else what, tuple(items))

    def reduce(self) -> None:
        """A call: class or function, and the tuple of its arguments."""
        arguments, what = self.pop(), self.pop()
        self.make(what, arguments)

    def build(self) -> None:
        """Give an object its state."""
        state, target = self.pop(), self.last()
        if isinstance(target, Stateful):
            target.set_state(state)
        elif not isinstance(target, Foreign) and type(target) is not dict:  # a dict's own attributes are of no use
            raise PickleError("a state for what has none")

    def persist(self, key: Any) -> None:
        """Put what a persistent id stands for."""
        if self.persistent is None:
            raise PickleError("an object that lies outside the file (persistent id)")
        self.push(self.persistent(key))


def checked_key(key: Any) -> Any:
    """``key`` if it can be a dictionary's or a set's without taking long; :class:`PickleError` otherwise."""
    waiting, seen = [key], 0
    while waiting:
        part = waiting.pop()
        seen += 1
        kind = type(part)
        if kind is tuple and seen + len(part) <= FEW:
            waiting.extend(part)
        elif kind is int and not -(1 << 63) <= part < 1 << 64:
            raise PickleError("a key that is a huge number")
        elif seen > FEW or not (part is None or kind in (int, str, float, bool, bytes, complex, frozenset, Foreign)):
            raise PickleError(f"a key of the kind {kind.__name__}")
    return key
