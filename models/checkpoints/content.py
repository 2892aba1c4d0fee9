"""Finding the state dict in what a weights file holds, whatever training program packed it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.common.pickles.plain_classes import Array
from distilplace.common.pickles.reader import Foreign
from distilplace.models.checkpoints.torch_files import TensorRecord, Unusable

NESTS = (
    *("model", "state_dict", "model_state_dict", "model_state", "net", "network", "module", "weights", "params"),
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),
)
"""Where training programs put a state dict, the first that fits counts; one may lie inside another."""
WRAPPERS = ("_orig_mod.", "module.", "_orig_mod.")
"""Prefixes of torch.compile and DataParallel, in either order."""
_DEPTH = 6
_SHOWN = 5


Fits = Callable[[dict[str, Tensor]], bool]
"""Whether a state dict is the one that is wanted."""


class State(NamedTuple):
    """A file's state dict, and what lies beside it."""

    tensors: dict[str, Tensor]
    foreign: dict[str, str]
    """What was not opened: where it lies ("pca.Landmarks_clean") -> its class, or "state dict" for a further one."""


def is_counter(key: str) -> bool:
    """Whether a tensor only counts: of thop (operations of a layer), of SWA and EMA (models averaged)."""
    return key.rpartition(".")[2] in ("total_ops", "total_params", "n_averaged")


def find_state(value: Any, source: str, tensor: Callable[[TensorRecord], Tensor], fits: Fits | None = None) -> State:
    """The state dict in ``value``, without wrappers' prefixes.

    Args:
        value: a state dict, or dicts around one, of tensors or what stands for them.
        source: the file in words, for messages.
        tensor: reads a :class:`TensorRecord`.
        fits: says whether a state dict is the one that is wanted, asked where several could be; None: the first is.

    Raises:
        UserError: there is none, or several and none has a usual name; a tensor without plain numbers.

    """
    found = list(_candidates(value, source, "", {}, _DEPTH))
    if fits is not None and len(found) > 1:
        for inner, path, beside in found:
            with suppress(UserError):
                state = _state(inner, source, path, beside, tensor, value)
                if fits(state.tensors):
                    return state
    inner, path, beside = found[0]
    return _state(inner, source, path, beside, tensor, value)


def _candidates(
    value: Any, source: str, path: str, beside: dict[str, str], depth: int
) -> Iterator[tuple[Any, str, dict[str, str]]]:
    """What in ``value`` may be the state dict, the likeliest first: it, where it lies, what lies beside it."""
    nests = _nests(value, source) if depth else []
    for nest in nests:
        others = {key: entry for key, entry in value.items() if key != nest}
        closed = dict(_foreign(others, path))
        closed |= {f"{path}{key}": "state dict" for key, entry in others.items() if _holds_tensors(entry, _DEPTH)}
        yield from _candidates(value[nest], source, f"{path}{nest}.", beside | closed, depth - 1)
    if not nests or any(_is_tensor(entry) for entry in value.values()):
        closed = {f"{path}{nest}": "state dict" for nest in nests if not isinstance(value[nest], Foreign)}
        yield value, path, beside | closed


def _state(
    value: Any,
    source: str,
    path: str,
    beside: dict[str, str],
    tensor: Callable[[TensorRecord], Tensor],
    outer: Any,
) -> State:
    """The tensors of one candidate; ``outer`` is the whole content, for messages."""
    if isinstance(value, Foreign):
        raise UserError(f"{source} {of_foreign(value.name)}")
    if not isinstance(value, Mapping) or not any(_is_tensor(entry) for entry in value.values()):
        raise UserError(f"{source} holds {_told(outer)} and no state dict")
    found: dict[str, Tensor] = {}
    for key, entry in value.items():
        if _is_tensor(entry):
            if not isinstance(key, str):
                raise UserError(f"{source} holds no plain state dict: entry {key!r} has no text as its name")
            found[key] = _read(entry, f"{source}: entry {key}", tensor)
    closed = dict(_foreign({key: entry for key, entry in value.items() if key not in found}, path))
    return State(unwrapped(found), beside | closed)


def of_foreign(name: str) -> str:
    """Why an object of the class ``name`` is no state dict, and what to do."""
    return (
        f"holds Python objects ({name}), never opened since they could run foreign code: save the model's"
        " state_dict() instead"
    )


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` without the prefix that wrappers put before every key; counters beside them may lack it."""
    for wrapper in WRAPPERS:
        named = [key for key in state if not is_counter(key)]
        while named and all(key.startswith(wrapper) for key in named):
            state = {key.removeprefix(wrapper): value for key, value in state.items()}
            named = [key.removeprefix(wrapper) for key in named]
    return dict(state)


def _nests(value: Any, source: str) -> list[str]:
    """The entries of ``value`` that may hold the state dict; none where it is one itself, or holds none."""
    if not isinstance(value, Mapping):
        return []
    nested = [key for key, entry in value.items() if isinstance(key, str) and _holds_tensors(entry, _DEPTH)]
    usual = [name for name in NESTS if name in nested or (isinstance(value.get(name), Foreign) and not nested)]
    if usual or any(_is_tensor(entry) and isinstance(key, str) and not is_counter(key) for key, entry in value.items()):
        return usual
    if len(nested) > 1:
        raise UserError(
            f"{source} holds several state dicts ({', '.join(nested[:_SHOWN])}) and none under a usual name such as"
            " state_dict: save the one that is meant alone"
        )
    return nested


def _holds_tensors(value: Any, depth: int) -> bool:
    """Whether ``value`` is a state dict or has one inside; an optimiser's state is none."""
    if not isinstance(value, Mapping) or depth == 0 or {"state", "param_groups"} <= value.keys():
        return False
    named = [(key, entry) for key, entry in value.items() if isinstance(key, str)]
    if any(_is_tensor(entry) and not is_counter(key) for key, entry in named):
        return True
    return any(_holds_tensors(entry, depth - 1) for _, entry in named)


def _is_tensor(value: Any) -> bool:
    numbers = isinstance(value, Array) and value.value.dtype.kind in "fiub"
    return numbers or isinstance(value, Tensor | TensorRecord | Unusable)


def _read(entry: Any, where: str, tensor: Callable[[TensorRecord], Tensor]) -> Tensor:
    if isinstance(entry, Unusable):
        raise UserError(f"{where} is {entry.kind}")
    if isinstance(entry, Array):
        return torch.from_numpy(entry.value.astype(entry.value.dtype.newbyteorder("=")))
    return entry if isinstance(entry, Tensor) else tensor(entry)


def _foreign(value: Any, path: str, depth: int = 2) -> Iterator[tuple[str, str]]:
    """Where in ``value`` objects lie that were not opened, and their classes."""
    if isinstance(value, Foreign):
        yield path.removesuffix("."), value.name
    elif isinstance(value, Mapping) and depth:
        for key, entry in value.items():
            yield from _foreign(entry, f"{path}{key}.", depth - 1)
    elif isinstance(value, list | tuple) and depth:
        for number, entry in enumerate(value[:_SHOWN]):
            yield from _foreign(entry, f"{path}{number}.", depth - 1)


def _told(value: Any) -> str:
    """What a file holds, in a few words."""
    if isinstance(value, TensorRecord | Tensor):
        return "a Tensor"
    if isinstance(value, Mapping):
        kinds = [f"{key} ({type(entry).__name__})" for key, entry in list(value.items())[:_SHOWN]]
        return f"the entries {', '.join(kinds)}" if kinds else "nothing"
    return f"a {type(value).__name__}"
