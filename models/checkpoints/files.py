"""Weights files on disk: .safetensors of ours and of others, and what ``torch.save`` wrote."""

import codecs
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from distilplace.common.errors import UserError
from distilplace.common.pickles.reader import ForeignClassError
from distilplace.common.tensor_files import content_hash, read_tensors, write_tensors
from distilplace.models.checkpoints.content import Fits, State, find_state
from distilplace.models.checkpoints.torch_files import open_torch_file
from distilplace.runtime.model_card import KEY, ModelCard, parse
from distilplace.version import __version__

MEAN_IMAGE = "preprocessing.mean_image"
"""Name of the tensor that holds the mean image of a network whose view subtracts one; no part of the network."""
_REMEDY = "fetch or make it again"
_PAGE = "a web page (a download page saved instead of the file)"
_KINDS = {
    **dict.fromkeys((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<!--"), _PAGE),
    b"version https://git-lfs": "a Git LFS pointer (git lfs pull fetches the file itself)",
    b"\x1f\x8b": "a gzip archive (unpack it)",
}


class WeightsFile(NamedTuple):
    """A file's state dict with what lies beside it, and what it says of itself."""

    state: State
    metadata: dict[str, Any]
    """What it was saved with; empty: of another origin."""
    card: ModelCard | None = None
    """The same where it tells everything that is needed to use the network."""
    mean_image: np.ndarray | None = None
    """Float32 [H, W, 3], of a network whose view subtracts one."""


def save_weights(
    model: nn.Module,
    path: Path | str,
    metadata: ModelCard | Mapping[str, Any] | None = None,
    mean_image: np.ndarray | None = None,
) -> Path:
    """Write the model's state dict as safetensors, atomically and with a hash.

    Args:
        model: the network.
        path: the file.
        metadata: what the file says of itself; its hash and version are filled in. Or anything that JSON can say.
        mean_image: float32 [H, W, 3] that the network's preprocessing subtracts.

    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are saved as .safetensors, not {path.name}")
    tensors = dict(model.state_dict())
    if mean_image is not None:
        tensors[MEAN_IMAGE] = torch.from_numpy(np.array(mean_image, dtype=np.float32))
    if isinstance(metadata, ModelCard):
        made_by = metadata.created_by or f"distilplace {__version__}"
        text = replace(metadata, tensors_sha256=_digest(tensors), created_by=made_by).to_text()
    else:
        text = json.dumps(dict(metadata or {}))
    write_tensors(path, tensors, {"format": "pt", KEY: text})
    return path


def add_scores(path: Path | str, part: str, scores: Mapping[str, float | None]) -> None:
    """Write what the network of a file scores on ``part`` ("test") into it, atomically; its tensors stay.

    Raises:
        UserError: the file is absent, damaged, or does not describe itself.

    """
    path = _existing(path)
    tensors, text = read_tensors(path, "weights file", _REMEDY)
    card = ModelCard.from_text(text.get(KEY), f"weights file {path}")
    if card.scores.get(part) == dict(scores):
        return  # teacher stores know a file by its bytes
    told = replace(card, scores={**card.scores, part: dict(scores)})
    write_tensors(path, tensors, {**text, KEY: told.to_text()})


def read_metadata(path: Path | str) -> dict[str, Any]:
    """What :func:`save_weights` was given as ``metadata``, completed; empty for files of another origin."""
    path = _existing(path)
    return _own(path)[1] if _is_safetensors(path) else {}


def read_card(path: Path | str) -> ModelCard | None:
    """What a file says of the network that it holds; None where it says nothing. Raises as :func:`read_weights`."""
    metadata = read_metadata(path)
    return ModelCard.from_dict(metadata, f"weights file {path}") if "format" in metadata else None


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
        tensors, metadata = _own(path)
        card = ModelCard.from_dict(metadata, source) if "format" in metadata else None
        mean_image = tensors.pop(MEAN_IMAGE, None) if card is not None else None
        state = find_state(tensors, source, _no_record, fits)
        return WeightsFile(state, metadata, card, None if mean_image is None else mean_image.numpy())
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


def _own(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a .safetensors file, their hash checked where they have one."""
    tensors, text = read_tensors(path, "weights file", _REMEDY)
    metadata = parse(text.get(KEY), f"weights file {path}") or {}
    if "format" in metadata and metadata.get("tensors_sha256") != _digest(tensors):
        raise UserError(f"weights file {path} is damaged (its tensors do not match their hash): {_REMEDY}")
    return tensors, metadata


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return content_hash(tensors).removeprefix("sha256:")


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
