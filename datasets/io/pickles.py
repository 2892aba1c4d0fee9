"""Upstream's pickles, opened without running anything they name.

A pickle may name any callable. This reader (:mod:`distilplace.common.pickles.reader`) admits plain containers, NumPy
arrays and scalars, and the training tuples of the MinkLoc family, which become :class:`TrainingTuple`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.files import require_file
from distilplace.common.pickles.plain_classes import PLAIN, Array
from distilplace.common.pickles.reader import Call, ForeignClassError, PickleError, Stateful, read_pickle

MAX_DEPTH = 12


class TrainingTuple(Stateful):
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

    def set_state(self, state: Any) -> None:
        """Take the known attributes from a pickle's state; values are plain data by then."""
        if isinstance(state, tuple) and len(state) == 2:
            state = {**(state[0] or {}), **(state[1] or {})}
        if not isinstance(state, dict):
            raise PickleError("a training tuple's state is not a dict")
        for name in self.__slots__:
            if name in state:
                setattr(self, name, state[name])


_TABLE = {
    **PLAIN,
    "datasets.oxford.TrainingTuple": Call(lambda *_: TrainingTuple()),
    "datasets.base_datasets.TrainingTuple": Call(lambda *_: TrainingTuple()),
}


def load_pickle(path: Path) -> Any:
    """The plain data of a pickle; :class:`UserError` when it is missing, broken or names a foreign class."""
    require_file(path, "pickle")
    try:
        return unpickle(path.read_bytes())
    except ForeignClassError as error:
        raise UserError(
            f"pickle {path} names {error}, which is none of the plain types upstream's files need: refused, nothing run"
        ) from error
    except OSError as error:
        raise UserError(f"pickle {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # the values that a corrupt pickle gives can make NumPy raise nearly any exception
        raise UserError(f"{path} is not a readable pickle (truncated?): {type(error).__name__}: {error}") from error


def unpickle(content: bytes) -> Any:
    """The plain data of one pickle that fills ``content``; :class:`PickleError` and others when it is none."""
    value, end = read_pickle(content, _TABLE)
    if end != len(content):
        raise PickleError(f"{len(content) - end} bytes follow its end")
    return plain(value, {})


def plain(value: Any, done: dict[int, Any], depth: int = 0) -> Any:
    """``value`` with array stand-ins replaced by arrays; each container is visited once (``done``: id -> result)."""
    if isinstance(value, Array):
        return plain(value.value, done, depth)
    if not isinstance(value, dict | list | tuple | TrainingTuple | np.ndarray):
        return value
    if depth > MAX_DEPTH:
        raise PickleError(f"nested more than {MAX_DEPTH} deep")
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
