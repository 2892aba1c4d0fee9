"""What takes the place of NumPy's and Python's own classes in a pickle: values rebuilt here from their bytes."""

import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from distilplace.common.pickles.machine import Call, Foreign, PickleError, Stateful, checked_key

PLAIN_DTYPE = re.compile(r"[<>=|]?(?:[biufcSU?]\d*|O8?)")

MOST_EMPTY = 1_000_000  # rows of nothing


class DType(Stateful):
    """A dtype named by code and byte order; structured, sub-array and other exotic dtypes are refused."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not PLAIN_DTYPE.fullmatch(code):
            raise PickleError(f"dtype {code!r} is not a plain one")
        self.dtype = np.dtype(code)

    def set_state(self, state: Any) -> None:
        """Byte order; anything else a dtype may have is refused."""
        order, subarray, names, fields = state[1:5]
        if (subarray, names, fields) != (None, None, None) or order not in ("<", ">", "=", "|"):
            raise PickleError("a structured dtype")
        self.dtype = self.dtype.newbyteorder(order)


class Array(Stateful):
    """Stands for an ndarray until its state arrives: the array is ``value``."""

    __slots__ = ("value",)

    def __init__(self, *_: Any) -> None:
        self.value: Any = np.empty(0)

    def set_state(self, state: Any) -> None:
        """(version, shape, dtype, Fortran order, bytes or list of objects)."""
        _, shape, dtype, fortran, data = state
        if not data and max(shape, default=0) > MOST_EMPTY:
            raise PickleError("an empty array of countless rows")
        order: Literal["C", "F"] = "F" if fortran else "C"
        if _dtype(dtype).hasobject:
            if not isinstance(data, list):
                raise PickleError("an object array without a list of objects")
            filled = np.empty(len(data), dtype=object)
            for index, element in enumerate(data):
                filled[index] = element
            self.value = filled.reshape(shape, order=order)
        else:
            self.value = np.frombuffer(_raw(data), dtype=_dtype(dtype)).reshape(shape, order=order).copy(order)


def _scalar(dtype: Any, data: Any) -> Any:
    """A NumPy scalar as the Python number or string it holds."""
    if _dtype(dtype).hasobject:
        return data
    if _dtype(dtype).itemsize == 0:  # an empty text
        return np.zeros((), _dtype(dtype)).item()
    return np.frombuffer(_raw(data), dtype=_dtype(dtype), count=1)[0].item()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    flat = np.frombuffer(_raw(data), dtype=_dtype(dtype))
    return flat.reshape(shape, order="F" if order == "F" else "C").copy()


def _dtype(stand_in: Any) -> np.dtype[Any]:
    if not isinstance(stand_in, DType):
        raise PickleError("an array without a type")
    return stand_in.dtype


def _raw(data: Any) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else bytes(memoryview(data))


def _latin1(text: Any, encoding: Any) -> bytes:
    """``_codecs.encode``: how protocol 2 writes bytes."""
    if encoding != "latin1" or not isinstance(text, str):
        raise PickleError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """``bytes()``: how protocol 2 writes the empty string; a length would let a file ask for any amount of memory."""
    return b""


def _set_of(items: Any = ()) -> set[Any]:
    """A set of hashable plain items; only their list is given by pickles."""
    return set(map(checked_key, items))


def _frozen_set_of(items: Any = ()) -> frozenset[Any]:
    return frozenset(_set_of(items))


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    return {checked_key(key): value for key, value in pairs}


def _refused(*_: Any) -> Any:
    raise PickleError("a call of a plain type")


_BUILTINS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("dict", "list", "tuple", "int", "float", "bool", "str"), _refused),
    **{"bytes": _no_bytes, "set": _set_of, "frozenset": _frozen_set_of},
}
_NUMPY: dict[str, Callable[..., Any]] = {
    "multiarray._reconstruct": Array,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _from_buffer,
}
PLAIN: dict[str, Any] = {
    "collections.OrderedDict": Call(_ordered),
    "collections.defaultdict": Call(lambda *_: {}),
    "_codecs.encode": Call(_latin1),
    "numpy.dtype": Call(DType),
    "numpy.ndarray": Call(Array),
    **{f"numpy.{core}.{name}": Call(made) for core in ("core", "_core") for name, made in _NUMPY.items()},
    **{f"{room}.{name}": Call(made) for room in ("builtins", "__builtin__") for name, made in _BUILTINS.items()},
}
"""Plain containers, NumPy arrays and scalars; files of NumPy 1 (``numpy.core``) and 2 (``numpy._core``) read alike."""


class _ArrayOfAny(Array):
    """An :class:`Array`; of a type that is not plain (dates, records) it stays without content."""

    __slots__ = ()

    def set_state(self, state: Any) -> None:
        """As :class:`Array` does, but for the types that :data:`OPAQUE` keeps as names."""
        if isinstance(state[2], Foreign):
            self.value = np.empty(0, dtype=object)
        else:
            super().set_state(state)


def _any_dtype(code: Any, *_: Any) -> Any:
    is_plain = isinstance(code, str) and PLAIN_DTYPE.fullmatch(code)
    return DType(code) if is_plain else Foreign(f"numpy.dtype {code.name if isinstance(code, Foreign) else code}")


def _any_scalar(dtype: Any, data: Any) -> Any:
    return Foreign(dtype.name) if isinstance(dtype, Foreign) else _scalar(dtype, data)


OPAQUE: dict[str, Any] = {
    "numpy.dtype": Call(_any_dtype),
    "numpy.ndarray": Call(_ArrayOfAny),
    **{f"numpy.{core}.multiarray._reconstruct": Call(_ArrayOfAny) for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": Call(_any_scalar) for core in ("core", "_core")},
}
"""In the place of :data:`PLAIN`'s entries: dates, records and the like become names instead of being refused."""
