"""Our own .safetensors files: named tensors and text beside them, with a hash that notices a flipped bit.

The hash covers names, types, shapes, bytes and the text. Files of another origin, or of before the hash, are read too.
The same tensors and text give the same bytes, so that a file written again is known by its hash.
"""

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path, require_file

HASH = "distilplace_sha256"
"""Entry of the metadata that holds the hash."""
_HASH_VALUE = re.compile(r"sha256:[0-9a-f]{64}")


class TensorFile(NamedTuple):
    """What a file holds; of the text the hash is taken away."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def content_hash(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """``sha256:...`` of all names, types, shapes and bytes, in the order of the names, and of the text."""
    digest = hashlib.sha256(json.dumps(sorted((metadata or {}).items())).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu()
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        if value.numel():
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write ``path`` (.safetensors), whole or not at all, with its hash."""
    from safetensors.torch import save_file

    text = dict(metadata or {})
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(kept, temporary, {**text, HASH: content_hash(kept, text)})
        _sort_text(temporary)


def _sort_text(path: Path) -> None:
    """Bring the text in a file's header, which safetensors writes in random order, into the order of its names."""
    with path.open("r+b") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        written = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(written) > length:
            raise ValueError(f"header of {path}: {len(written)} bytes sorted, {length} before")
        stream.seek(8)
        stream.write(written.ljust(length))  # spaces, which safetensors itself ends a header with


def read_tensors(path: Path | str, what: str = "file", remedy: str = "fetch or make it again") -> TensorFile:
    """Tensors (on the CPU) and text of a .safetensors file, its hash checked where it has one.

    Args:
        path: the file.
        what: what it is, for messages: "weights file", "PCA file".
        remedy: what to do about a damaged one, for messages.

    Raises:
        UserError: absent, damaged, or not as it was written.

    """
    from safetensors import safe_open

    path = require_file(path, what)
    try:
        with safe_open(path, framework="pt") as stream:
            metadata: dict[str, str] = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (no mapping)
    except MemoryError:
        raise
    except Exception as error:  # a decoder fed with arbitrary bytes may raise anything
        raise UserError(f"{what} {path} is damaged ({type(error).__name__}: {error}): {remedy}") from error
    stated = metadata.pop(HASH, None)
    if stated is None:
        if any(_HASH_VALUE.fullmatch(value) for value in metadata.values()):  # the hash's own name is damaged
            raise UserError(f"{what} {path} is damaged (its hash has no name): {remedy}")
    elif stated != content_hash(tensors, metadata):
        raise UserError(f"{what} {path} is damaged (its content does not match its hash): {remedy}")
    return TensorFile(tensors, metadata)
