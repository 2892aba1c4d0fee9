"""Pickles read as data: an interpreter of their opcodes that imports nothing and calls nothing a file names.

A pickle is a program for a small stack machine. Python's own unpickler imports what it names, and reserves memory by
numbers in the file (nine bytes can ask for gigabytes). This one knows the opcodes of protocols 0 to 5; a class or
function is to it a name, looked up in a table that the caller gives. What is not in the table is refused, or becomes a
:class:`Foreign` that keeps its name and nothing else. Source: the documentation in Python's ``pickletools``.
"""

import codecs
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from distilplace.common.pickles.machine import (
    Call,
    Foreign,
    ForeignClassError,
    Machine,
    PickleError,
    Stateful,
    checked_key,
)

__all__ = ["Call", "Content", "Foreign", "ForeignClassError", "PickleError", "Stateful", "read_pickle"]

DIGITS = 1000  # of a number written as text
NEWEST = 5  # protocol


class Content(NamedTuple):
    """What a pickle holds, and where in the bytes it ends."""

    value: Any
    end: int


def read_pickle(
    data: Any,
    table: Mapping[str, Any],
    *,
    start: int = 0,
    keep_foreign: bool = False,
    persistent: Callable[[Any], Any] | None = None,
) -> Content:
    """The pickle that begins at ``start`` of ``data`` (bytes, or a memory map).

    Args:
        data: the file's content.
        table: "module.name" -> a :class:`Call`, or any inert value that takes its place.
        start: where the pickle begins.
        keep_foreign: names outside the table become :class:`Foreign`; otherwise they are refused.
        persistent: gives the object of a persistent id; without it such ids are refused.

    Raises:
        ForeignClassError: a name outside the table.
        PickleError: anything else that cannot be read; other exceptions may come out of the table's functions.

    """
    machine = Machine(data, table, start, keep_foreign, persistent)
    while (at := machine.at) < machine.end:
        operation = _OPERATIONS[data[at]]
        machine.at = at + 1
        if operation is None:
            if data[at] != _STOP:
                raise PickleError(f"unknown opcode {data[at]:#04x} at byte {at}")
            return Content(machine.pop(), machine.at)
        operation(machine)
    raise PickleError("cut off")


def _text_number(text: str) -> Any:
    if text in ("00", "01"):
        return text == "01"
    if len(text) > DIGITS:
        raise PickleError("a number of too many digits")
    return int(text.removesuffix("L") or "0")


def _quoted(text: str) -> str:
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        raise PickleError("a text without its quotes")
    return codecs.escape_decode(text[1:-1].encode("latin1"))[0].decode("latin1")


def _text(raw: bytes) -> str:
    return str(raw, "utf-8", "surrogatepass")


_B, _I, _Q = (struct.Struct(f"<{kind}") for kind in "BIQ")
_SIGNED, _FLOAT = struct.Struct("<i"), struct.Struct(">d")
_STOP, _BYTE, _TWO_BYTES, _FOUR_BYTES = b".KMJ"
_NUMBERS = {_BYTE: _B, _TWO_BYTES: struct.Struct("<H"), _FOUR_BYTES: _SIGNED}


def _bytes_by(layout: struct.Struct, turned: Callable[[bytes], Any]) -> Callable[[Machine], None]:
    """The operation that pushes ``turned`` of as many bytes as a number of ``layout`` before them says."""
    return lambda m: m.push(turned(m.take(m.number(layout))))


def _signed(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


def _forget(machine: Machine) -> None:
    machine.to_mark()


def _protocol(machine: Machine) -> None:
    if (number := machine.number(_B)) > NEWEST:
        raise PickleError(f"protocol {number}, which is unknown")


def _frame(machine: Machine) -> None:
    if machine.number(_Q) > machine.end - machine.at:
        raise PickleError("cut off, or a length that exceeds the file")


def _push_numbers(machine: Machine) -> None:
    """A run of small whole numbers, which most of a list of matches is; in one loop, for speed."""
    data, at, push, last = machine.data, machine.at - 1, machine.stack.append, machine.end - 5
    while at < last:
        code = data[at]
        if code == _BYTE:
            push(data[at + 1])
            at += 2
        elif code == _TWO_BYTES:
            push(data[at + 1] | data[at + 2] << 8)
            at += 3
        elif code == _FOUR_BYTES:
            push(_SIGNED.unpack_from(data, at + 1)[0])
            at += 5
        else:
            machine.at = at
            return
    machine.at = at
    if at < machine.end and (layout := _NUMBERS.get(data[at])) is not None:  # the last bytes of the file
        machine.at += 1
        machine.push(machine.number(layout))


_TABLE: dict[str | int, Callable[[Machine], None]] = {
    # numbers and constants
    **{"N": lambda m: m.push(None), 0x88: lambda m: m.push(True), 0x89: lambda m: m.push(False)},
    **{"K": _push_numbers, "M": _push_numbers, "J": _push_numbers},
    **{"I": lambda m: m.push(_text_number(m.line())), "L": lambda m: m.push(_text_number(m.line()))},
    **{0x8A: _bytes_by(_B, _signed), 0x8B: _bytes_by(_I, _signed)},
    **{"F": lambda m: m.push(float(m.line())), "G": lambda m: m.push(_FLOAT.unpack(m.take(8))[0])},
    # text and bytes; Python 2's strings read as Latin-1
    **{"X": _bytes_by(_I, _text), 0x8C: _bytes_by(_B, _text), 0x8D: _bytes_by(_Q, _text)},
    "V": lambda m: m.push(m.line().encode("latin1").decode("raw-unicode-escape")),
    "S": lambda m: m.push(_quoted(m.line())),
    **{"T": _bytes_by(_I, lambda raw: str(raw, "latin1")), "U": _bytes_by(_B, lambda raw: str(raw, "latin1"))},
    **{"B": _bytes_by(_I, bytes), "C": _bytes_by(_B, bytes), 0x8E: _bytes_by(_Q, bytes), 0x96: _bytes_by(_Q, bytes)},
    # containers
    **{"]": lambda m: m.push([]), "}": lambda m: m.push({}), ")": lambda m: m.push(()), 0x8F: lambda m: m.push(set())},
    **{"l": lambda m: m.push(m.to_mark()), "t": lambda m: m.push(tuple(m.to_mark()))},
    **{0x85: lambda m: m.push_tuple(1), 0x86: lambda m: m.push_tuple(2), 0x87: lambda m: m.push_tuple(3)},
    **{"a": lambda m: m.append([m.pop()]), "e": lambda m: m.append(m.to_mark())},
    **{"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]), "u": lambda m: m.set_items(m.to_mark())},
    **{0x90: lambda m: m.add_items(m.to_mark()), 0x91: lambda m: m.push(frozenset(map(checked_key, m.to_mark())))},
    # stack and memo
    **{"(": Machine.mark, "0": Machine.drop, "1": _forget, "2": lambda m: m.push(m.last())},
    **{"q": lambda m: m.put(m.number(_B)), "r": lambda m: m.put(m.number(_I)), 0x94: lambda m: m.put(len(m.memo))},
    **{"h": lambda m: m.get(m.number(_B)), "j": lambda m: m.get(m.number(_I))},
    **{"p": lambda m: m.put(_text_number(m.line())), "g": lambda m: m.get(_text_number(m.line()))},
    # objects
    "c": lambda m: m.push(m.find(m.line(), m.line())),
    0x93: lambda m: m.push(m.find(*[m.pop(), m.pop()][::-1])),
    **{"R": Machine.reduce, 0x81: Machine.reduce, 0x92: Machine.make_with_names, "b": Machine.build},
    **{"o": Machine.make_from_mark, "i": lambda m: m.make_from_mark(m.find(m.line(), m.line()))},
    **{"P": lambda m: m.persist(m.line()), "Q": lambda m: m.persist(m.pop())},
    **{0x80: _protocol, 0x95: _frame},
}


def _empty_dict_from_mark(machine: Machine) -> None:
    items = machine.to_mark()
    machine.push({})
    machine.set_items(items)


_TABLE["d"] = _empty_dict_from_mark
_BY_CODE = {ord(code) if isinstance(code, str) else code: operation for code, operation in _TABLE.items()}
_OPERATIONS = [_BY_CODE.get(code) for code in range(256)]
