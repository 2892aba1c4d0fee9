"""``last.ckpt``: everything a run needs to go on as if it had not stopped. Written whole or not at all.

The file is what ``torch.save`` writes, a zip archive; its comment is the SHA-256 of all that stands before it, so that
a single flipped bit is noticed (PyTorch itself does not check).
"""

import hashlib
from pathlib import Path
from typing import Any

import torch

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path

VERSION = 2
_LABEL = b"sha256:"
_COMMENT = len(_LABEL) + hashlib.sha256().digest_size * 2


def save_checkpoint(path: Path, parts: dict[str, Any], progress: dict[str, Any]) -> None:
    """Write the ``state_dict()`` of each part and the plain numbers of ``progress``."""
    content = {"version": VERSION, "progress": progress, "parts": {n: part.state_dict() for n, part in parts.items()}}
    with atomic_path(path) as temporary:
        with temporary.open("wb") as stream:
            torch.save(content, stream)
        _sign(temporary)


def load_checkpoint(path: Path, parts: dict[str, Any]) -> dict[str, Any]:
    """Restore each part in place and return ``progress``. Raises :class:`UserError` on a damaged or foreign file."""
    remedy = f"remove {path} to start this run over"
    try:
        genuine = _is_genuine(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {remedy}") from None
    if not genuine:
        raise UserError(f"{path} is damaged or not a checkpoint of this version (its SHA-256 does not fit); {remedy}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds on damage; all mean the same to the user
        raise UserError(f"{path} is not a checkpoint ({type(error).__name__}); {remedy}") from None
    found = content if isinstance(content, dict) else {}
    if found.get("version") != VERSION:
        raise UserError(f"{path} was not written by this version; {remedy}")
    states, progress = found.get("parts"), found.get("progress")
    if not isinstance(states, dict) or not isinstance(progress, dict):
        raise UserError(f"{path} is incomplete (it lacks parts or progress); {remedy}")
    if different := set(parts) ^ {str(name) for name in states}:
        raise UserError(f"{path} holds other parts than this run ({', '.join(sorted(different))}); {remedy}")
    for name, part in parts.items():
        try:
            part.load_state_dict(states[name])
        except Exception as error:  # whatever a state of another kind makes a part stumble over
            raise UserError(
                f"{path} does not fit this run ({name}: {error or type(error).__name__}); {remedy}"
            ) from None
    return progress


def _sign(path: Path) -> None:
    """Append the comment to an archive that has none."""
    with path.open("rb+") as stream:
        stream.seek(-2, 2)
        if stream.read(2) != b"\0\0":
            raise ValueError(f"{path} ends in a comment already")
        stream.seek(-2, 2)
        stream.write(_COMMENT.to_bytes(2, "little"))
        stream.flush()
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0, 2)
        stream.write(_LABEL + digest.encode())


def _is_genuine(path: Path) -> bool:
    with path.open("rb") as stream:
        size = stream.seek(0, 2) - _COMMENT
        if size <= 0:
            return False
        stream.seek(0)
        digest = hashlib.sha256()
        while size > 0 and (block := stream.read(min(size, 1 << 20))):
            digest.update(block)
            size -= len(block)
        return stream.read() == _LABEL + digest.hexdigest().encode()
