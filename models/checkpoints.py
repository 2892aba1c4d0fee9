"""Weights in and out: safe to open, exact about what fits, whole or not at all.

``torch.load`` is always called with ``weights_only=True``; nothing in a file is ever executed. Keys are DistilVPR's, as
the models' own are. Parts that DistilVPR stores and never uses are skipped by the names that the model lists in
``unused_checkpoint_prefixes``; any other difference is refused.
"""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.files import atomic_path
from models.architecture import differences

_NESTS = ("model", "state_dict", "model_state_dict", "model_state")  # opened in this order, one inside another too
_WRAPPERS = ("_orig_mod.", "module.", "_orig_mod.")  # of torch.compile and DataParallel, in either order
_METADATA_KEY = "distilplace"
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class LoadReport:
    """What became of a file's tensors; ``str()`` is one line for the log."""

    source: str
    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    """In the file, not part of the model: the unused parts, skipped by name."""
    absent_counters: tuple[str, ...]
    """Batch-norm counters the file lacks (old files do): kept as they were."""
    metadata: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = sorted({_part_name(key) for key in self.skipped})
        skipped = f", {len(self.skipped)} skipped ({', '.join(parts)}: not part of this model)" if parts else ""
        return f"{self.source}: {len(self.loaded)} tensors loaded{skipped}"


def expected_keys(model: nn.Module) -> list[str]:
    """The keys of a checkpoint for ``model``: the authors' names where such were published, else its own.

    A ``module.`` in front of all of them, and parts that the model does not use, may be in the file besides.
    """
    published = getattr(model, "expected_keys", None)
    keys: list[str] = list(model.state_dict()) if published is None else published()
    return keys


def load_weights(model: nn.Module, path: Path | str) -> LoadReport:
    """Load the weights of ``path`` into ``model``, all that the model has, or fail and leave the model as it was.

    Accepts .safetensors and what ``torch.save`` writes for a state dict, bare or inside {"state_dict": ...} or
    {"model": ...}, with or without ``module.`` in front of the keys. Values are cast to the model's types. A trunk
    alone under torchvision's names is enough for a model that has nothing else. A model with a method ``own_state``
    knows other names of its weights.

    Raises:
        UserError: missing, damaged or unsafe file; non-finite values; another architecture (with the settings that
            differ where the shapes tell); a trunk alone for a model that has more.

    """
    source = f"weights file {path}"
    state = _under_own_names(model, read_state(path), source)
    unused: Sequence[str] = getattr(model, "unused_checkpoint_prefixes", ())
    fitted, report = fit_state(model.state_dict(), state, unused, source)
    report = replace(report, metadata=read_metadata(path))
    model.load_state_dict(fitted, strict=True)
    return report


def _under_own_names(model: nn.Module, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """``state``; where it is the model's trunk under torchvision's names, or published, under the model's own names."""
    own_state = getattr(model, "own_state", None)
    if own_state is not None:
        renamed: dict[str, Tensor] = own_state(state, source)
        return renamed
    theirs, ours = getattr(model, "trunk_keys", ("", ""))
    target = model.state_dict()
    renamed = {ours + key.removeprefix(theirs): value for key, value in state.items() if key.startswith(theirs)}
    if theirs == ours or not renamed.keys() & target.keys() or any(key.startswith(ours) for key in state):
        return state
    more = [key for key in target if not key.startswith(ours)]
    if more:
        raise UserError(
            f"{source} holds an image trunk alone, under torchvision's names, but the model also has {_some(more)}:"
            " give the file as --pretrained instead"
        )
    return renamed


def save_weights(model: nn.Module, path: Path | str, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write the model's state dict as safetensors, atomically; ``metadata`` is anything JSON can say."""
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are saved as .safetensors, not {path.name}")
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary, {"format": "pt", _METADATA_KEY: json.dumps(dict(metadata or {}))})
    return path


def read_metadata(path: Path | str) -> dict[str, Any]:
    """What :func:`save_weights` was given as ``metadata``; empty for files of another origin."""
    path = _existing(path)
    if not _is_safetensors(path):
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            found = json.loads((stream.metadata() or {}).get(_METADATA_KEY, "{}"))
    except (SafetensorError, ValueError) as error:
        raise UserError(f"weights file {path} is damaged ({error}): fetch or make it again") from error
    return found if isinstance(found, dict) else {}


def read_state(path: Path | str) -> dict[str, Tensor]:
    """The state dict in a file, unwrapped, on the CPU; UserError when there is none that can be opened safely."""
    path = _existing(path)
    try:
        content = _open_safetensors(path) if _is_safetensors(path) else _open_torch(path)
    except MemoryError:
        raise
    except Exception as error:  # a decoder fed with arbitrary bytes may raise anything
        raise UserError(_unreadable(path, error)) from error
    for nest in _NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(nest), Mapping):
            content = content[nest]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"weights file {path} holds a {type(content).__name__} and no state dict")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"weights file {path} holds no plain state dict: entry {key!r} is a {type(value).__name__}")
    return _unwrapped(content)


def fit_state(
    target: Mapping[str, Tensor], state: Mapping[str, Tensor], unused: Sequence[str], source: str, prefix: str = ""
) -> tuple[dict[str, Tensor], LoadReport]:
    """Check a file's state dict against a model's, key by key.

    Args:
        target: the model's state dict.
        state: the file's.
        unused: key prefixes that may be skipped when the model has no such key.
        source: the file in words, for messages.
        prefix: what stands before these keys in the whole model (to find the settings that differ).

    Returns:
        A complete state dict for the model (its own types, the file's values) and the report.

    """
    missing = [key for key in target if key not in state]
    counters = tuple(key for key in missing if key.endswith(".num_batches_tracked"))
    missing = [key for key in missing if key not in counters]
    extra = [key for key in state if key not in target]
    skipped = tuple(key for key in extra if key.startswith(tuple(unused)))
    unexpected = [key for key in extra if key not in skipped]
    common = [key for key in target if key in state]
    misfits = [
        f"{key} {_kind(state[key])} instead of {_kind(target[key])}"
        for key in common
        if state[key].shape != target[key].shape or state[key].is_floating_point() != target[key].is_floating_point()
    ]
    faults = [("lacks", missing), ("has the unknown", unexpected), ("has", misfits)]
    told = "; ".join(f"it {verb} {_some(names)}" for verb, names in faults if names)
    if told:
        theirs = {f"{prefix}{key}": value for key, value in state.items()}
        known = differences(theirs, {f"{prefix}{key}": value for key, value in target.items()})
        settings = f" ({'; '.join(known)})" if known else ""
        raise UserError(f"{source} is of another architecture than the model{settings}: {told}")
    fitted = {key: state[key].to(target[key].dtype) if key in state else target[key] for key in target}
    broken = [key for key in common if fitted[key].is_floating_point() and not fitted[key].isfinite().all()]
    if broken:
        raise UserError(f"{source} holds NaN or infinite values in {_some(broken)}: use a checkpoint from before that")
    return fitted, LoadReport(source, tuple(common), skipped, counters)


def _existing(path: Path | str) -> Path:
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"weights file {path} {what}: give the path of a .safetensors or .pth file")
    return path


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` without the prefix that wrappers put before every key."""
    for wrapper in _WRAPPERS:
        while all(key.startswith(wrapper) for key in state):
            state = {key.removeprefix(wrapper): value for key, value in state.items()}
    return dict(state)


def _is_safetensors(path: Path) -> bool:
    """By content: eight bytes of header length, then JSON. The suffix decides only when the file is too short."""
    with path.open("rb") as stream:
        head = stream.read(9)
    return head[8:] == b"{" or path.suffix == ".safetensors"


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def _open_torch(path: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd pickles: what matters of it becomes the error's line
        return torch.load(path, map_location="cpu", weights_only=True)


def _unreadable(path: Path, error: Exception) -> str:
    foreign = re.search(r"GLOBAL (\w[\w.]*\w)", str(error))
    if foreign:
        reason = f"holds Python objects ({foreign[1]}), never opened since they could run foreign code, or is damaged"
        return f"weights file {path} {reason}: save the model's state_dict() instead"
    return f"weights file {path} is damaged or is no weights file ({type(error).__name__}): fetch or make it again"


def _kind(tensor: Tensor) -> str:
    return f"{list(tensor.shape)}" if tensor.is_floating_point() else f"{list(tensor.shape)} ({tensor.dtype})"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _part_name(key: str) -> str:
    """The part of the network a key belongs to: "layer4" of "image_fe.model.layer4.0.conv1.weight"."""
    parts = [part for part in key.split(".") if part not in ("image_fe", "model")]
    return ".".join(parts[:2]) if parts[0] == "features" else parts[0]
