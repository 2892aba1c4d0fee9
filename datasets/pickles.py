"""Upstream's pickles, opened without running anything they name.

A pickle may name any callable. This reader admits plain containers, NumPy arrays and scalars (rebuilt here from their
bytes, never through NumPy's own reconstruction), and the training tuples of the MinkLoc family, which become
:class:`TrainingTuple`. Files of NumPy 1 (``numpy.core``) and NumPy 2 (``numpy._core``) read alike.
"""

import collections
import pickle  # the restricted unpickler below derives from it; pickle.load is never called
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.errors import UserError

PLAIN_DTYPE = re.compile(r"[<>=|]?(?:[biufSU?]\d*|O8?)")
MAX_DEPTH = 12


class ForeignClassError(pickle.UnpicklingError):
    """The pickle names something outside the whitelist."""


class TrainingTuple:
    """Upstream's training record: plain attributes, whatever the pickle's class was called.

    MinkLoc family: id, timestamp, rel_scan_filepath, positives, non_negatives, position (northing, easting; metres).
    EgoNN has ``pose`` (4 x 4) instead of position, and ``positives_poses``.
    """

    __slots__ = (
        "id",
        "non_negatives",
        "pose",
        "position",
        "positives",
        "positives_poses",
        "rel_scan_filepath",
        "timestamp",
    )

    def __setstate__(self, state: Any) -> None:
        """Take the known attributes from a pickle's BUILD; values are plain data by then."""
        if isinstance(state, tuple) and len(state) == 2:
            state = {**(state[0] or {}), **(state[1] or {})}
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a training tuple's state is not a dict")
        for name in self.__slots__:
            if name in state:
                setattr(self, name, state[name])


class _Admitted:
    """A callable a pickle may call but not alter: BUILD on it is refused, attributes cannot be set."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("an attempt to alter the reader")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("an attempt to alter the reader")


class _DType:
    """A dtype named by code and byte order; structured, sub-array and other exotic dtypes are refused."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not PLAIN_DTYPE.fullmatch(code):
            raise pickle.UnpicklingError(f"dtype {code!r} is not a plain one")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order, subarray, names, fields = state[1:5]
        if (subarray, names, fields) != (None, None, None) or order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError("a structured dtype")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for an ndarray until its state arrives; :func:`plain` then takes ``value``."""

    __slots__ = ("value",)

    def __init__(self, *_: Any) -> None:
        self.value: Any = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        order: Literal["C", "F"] = "F" if fortran else "C"
        if dtype.dtype.hasobject:
            if not isinstance(data, list):
                raise pickle.UnpicklingError("an object array without a list of objects")
            filled = np.empty(len(data), dtype=object)
            for index, element in enumerate(data):
                filled[index] = element
            self.value = filled.reshape(shape, order=order)
        else:
            raw = data.encode("latin1") if isinstance(data, str) else data
            self.value = np.frombuffer(raw, dtype=dtype.dtype).reshape(shape, order=order).copy(order)


def _scalar(dtype: _DType, data: Any) -> Any:
    """A NumPy scalar as the Python number or string it holds."""
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype=dtype.dtype, count=1)[0].item()


def _from_buffer(data: Any, dtype: _DType, shape: Any, order: str) -> np.ndarray:
    return np.frombuffer(data, dtype=dtype.dtype).reshape(shape, order="F" if order == "F" else "C").copy()


def _latin1(text: str, encoding: str) -> bytes:
    """``_codecs.encode``: how protocol 2 writes bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """``bytes()``: how protocol 2 writes the empty string; a length would let a file ask for any amount of memory."""
    return b""


_CALLABLES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("datasets.oxford", "TrainingTuple"): TrainingTuple,
    ("datasets.base_datasets", "TrainingTuple"): TrainingTuple,
    ("_codecs", "encode"): _Admitted(_latin1),
    ("builtins", "bytes"): _Admitted(_no_bytes),
    ("__builtin__", "bytes"): _Admitted(_no_bytes),
    ("numpy", "dtype"): _Admitted(_DType),
    ("numpy", "ndarray"): _Admitted(_Array),
    **{
        (f"numpy.{core}.{module}", name): _Admitted(call)
        for core in ("core", "_core")
        for module, name, call in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (dict, list, tuple, set, frozenset, int, float, bool, str)
    },
}


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that knows :data:`_CALLABLES` and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of an admitted global; :class:`ForeignClassError` for everything else."""
        try:
            return _CALLABLES[module, name]
        except KeyError:
            raise ForeignClassError(f"{module}.{name}") from None


def load_pickle(path: Path) -> Any:
    """The plain data of a pickle; :class:`UserError` when it is missing, broken or names a foreign class."""
    try:
        with path.open("rb") as stream:
            return plain(RestrictedUnpickler(stream, encoding="latin1").load(), {})
    except ForeignClassError as error:
        raise UserError(
            f"pickle {path} names {error}, which is none of the plain types upstream's files need: refused, nothing run"
        ) from error
    except OSError as error:
        raise UserError(f"pickle {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a corrupt pickle can make the unpickler raise nearly any exception
        raise UserError(
            f"{path} is not a readable pickle (truncated, or another format): {type(error).__name__}: {error}"
        ) from error


def plain(value: Any, done: dict[int, Any], depth: int = 0) -> Any:
    """``value`` with array stand-ins replaced by arrays; each container is visited once (``done``: id -> result)."""
    if isinstance(value, _Array):
        return plain(value.value, done, depth)
    if not isinstance(value, dict | list | tuple | TrainingTuple | np.ndarray):
        return value
    if depth > MAX_DEPTH:
        raise pickle.UnpicklingError(f"nested more than {MAX_DEPTH} deep")
    if id(value) in done:
        return done[id(value)]
    done[id(value)] = value
    if isinstance(value, dict):
        for key in value:
            value[key] = plain(value[key], done, depth + 1)
    elif isinstance(value, list):
        value[:] = [plain(element, done, depth + 1) for element in value]
    elif isinstance(value, tuple):
        done[id(value)] = tuple(plain(element, done, depth + 1) for element in value)
    elif isinstance(value, TrainingTuple):
        for name in TrainingTuple.__slots__:
            if hasattr(value, name):
                setattr(value, name, plain(getattr(value, name), done, depth + 1))
    elif value.dtype.hasobject:
        for index in np.ndindex(value.shape):
            value[index] = plain(value[index], done, depth + 1)
    return done[id(value)]
