"""Weights files on disk: .safetensors of ours and of others, and what ``torch.save`` wrote."""

import codecs
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from distilplace.common.errors import UserError
from distilplace.common.pickle_reader import ForeignClassError
from distilplace.common.tensor_files import read_tensors, write_tensors
from distilplace.models.checkpoints.content import Fits, State, find_state
from distilplace.models.checkpoints.torch_files import open_torch_file

_METADATA_KEY = "distilplace"
_REMEDY = "fetch or make it again"
_PAGE = "a web page (a download page saved instead of the file)"
_KINDS = {
    **dict.fromkeys((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<!--"), _PAGE),
    b"version https://git-lfs": "a Git LFS pointer (git lfs pull fetches the file itself)",
    b"\x1f\x8b": "a gzip archive (unpack it)",
}


class WeightsFile(NamedTuple):
    """A file's state dict with what lies beside it, and the metadata it was saved with (empty: of another origin)."""

    state: State
    metadata: dict[str, Any]


def save_weights(model: nn.Module, path: Path | str, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write the model's state dict as safetensors, atomically and with a hash; ``metadata``: anything JSON can say."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are saved as .safetensors, not {path.name}")
    write_tensors(path, model.state_dict(), {"format": "pt", _METADATA_KEY: json.dumps(dict(metadata or {}))})
    return path


def read_metadata(path: Path | str) -> dict[str, Any]:
    """What :func:`save_weights` was given as ``metadata``; empty for files of another origin."""
    path = _existing(path)
    return _metadata(read_tensors(path, "weights file", _REMEDY).metadata, path) if _is_safetensors(path) else {}


def read_state(path: Path | str, fits: Fits | None = None) -> dict[str, Tensor]:
    """The state dict in a file, unwrapped, on the CPU; UserError when there is none that can be opened safely."""
    return read_weights(path, fits).state.tensors


def read_weights(path: Path | str, fits: Fits | None = None) -> WeightsFile:
    """The state dict in a file, unwrapped, on the CPU, and what lies beside it.

    Nothing in a file is ever run: a foreign class stays a name. Where several entries could be the state dict, the
    first that ``fits`` is read, else the first.

    Raises:
        UserError: absent, damaged, no weights file, without a state dict, or made to do harm.

    """
    path = _existing(path)
    source = f"weights file {path}"
    if _is_safetensors(path):
        tensors, text = read_tensors(path, "weights file", _REMEDY)
        return WeightsFile(find_state(tensors, source, _no_record, fits), _metadata(text, path))
    try:
        with open_torch_file(path) as content:
            return WeightsFile(find_state(content.value, source, content.tensor, fits), {})
    except (UserError, MemoryError):
        raise
    except ForeignClassError as error:
        raise UserError(
            f"{source} holds Python objects ({error}) that could run foreign code and that no checkpoint needs:"
            " refused, nothing was run; do not use this file"
        ) from error
    except Exception as error:  # a decoder fed with arbitrary bytes may raise anything
        raise UserError(_unreadable(path, error)) from error


def _no_record(record: object) -> Tensor:
    raise TypeError(f"{record} in a file of tensors")


def _metadata(text: Mapping[str, str], path: Path) -> dict[str, Any]:
    try:
        found = json.loads(text.get(_METADATA_KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"weights file {path} is damaged ({error}): {_REMEDY}") from error
    return found if isinstance(found, dict) else {}


def _existing(path: Path | str) -> Path:
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "does not exist"
        raise UserError(f"weights file {path} {what}: give the path of a .safetensors or .pth file")
    return path


def _is_safetensors(path: Path) -> bool:
    """By content: eight bytes of header length, then JSON. The suffix decides where that tells nothing."""
    with path.open("rb") as stream:
        head = stream.read(9)
    return head[8:] == b"{" or (path.suffix == ".safetensors" and _kind(path) is None)


def _kind(path: Path) -> str | None:
    """What people take for a weights file by mistake, where it is one of :data:`_KINDS`."""
    with path.open("rb") as stream:
        head = stream.read(1024).removeprefix(codecs.BOM_UTF8).lstrip().lower()
    return next((told for beginning, told in _KINDS.items() if head.startswith(beginning)), None)


def _unreadable(path: Path, error: Exception) -> str:
    kind = _kind(path) or "no weights file"
    detail = str(error).split("\n")[0][:120] or type(error).__name__
    return f"weights file {path} is damaged or is {kind} ({detail}): {_REMEDY}"
