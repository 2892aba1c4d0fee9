"""``last.ckpt``: everything a run needs to go on as if it had not stopped. Written whole or not at all.

The file is what ``torch.save`` writes, a zip archive; its comment is the SHA-256 of all that stands before it, so that
a single flipped bit is noticed (PyTorch itself does not check). The one before it is kept as ``previous.ckpt``, and
used where the newest is damaged or lost.
"""

import errno
import hashlib
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path

LOG = logging.getLogger("distilplace")
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
VERSION = 3
_LABEL = b"sha256:"
_COMMENT = len(_LABEL) + hashlib.sha256().digest_size * 2


def kept_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run folder, the newest first."""
    return _kept(folder / LAST)


def save_checkpoint(path: Path, parts: dict[str, Any], progress: dict[str, Any]) -> None:
    """Write the ``state_dict()`` of each part and the plain numbers of ``progress``; keep the file before beside it."""
    content = {"version": VERSION, "progress": progress, "parts": {n: part.state_dict() for n, part in parts.items()}}
    with atomic_path(path) as temporary:
        with temporary.open("wb") as stream:
            torch.save(content, stream)
        _sign(temporary)
        _keep_previous(path)


def load_checkpoint(path: Path, parts: dict[str, Any]) -> dict[str, Any]:
    """Restore each part in place from ``path``, else from the checkpoint before it, and return ``progress``.

    Raises:
        UserError: no file is whole, or it is not of this run.

    """
    remedy = f"remove {' and '.join(map(str, _kept(path))) or path} to start this run over"
    whole = next((each for each in _kept(path) if _is_genuine(each, remedy)), None)
    if whole is None:
        raise UserError(f"{path} is damaged or not a checkpoint of this version (its SHA-256 does not fit); {remedy}")
    progress = _restored(whole, parts, remedy)
    if whole != path:
        state = "is damaged (its SHA-256 does not fit)" if path.exists() else "is gone"
        LOG.warning("warning: %s %s: this run goes on from %s, the checkpoint before it", path, state, whole.name)
        path.unlink(missing_ok=True)  # it must not take the place of the whole one at the next save
    return progress


def _kept(path: Path) -> list[Path]:
    return [each for each in (path, path.with_name(PREVIOUS)) if each.exists()]


def _restored(path: Path, parts: dict[str, Any], remedy: str) -> dict[str, Any]:
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
        except UserError:
            raise
        except Exception as error:  # whatever a state of another kind makes a part stumble over
            raise UserError(
                f"{path} does not fit this run ({name}: {error or type(error).__name__}); {remedy}"
            ) from None
    return progress


def _keep_previous(path: Path) -> None:
    """Give the file that is about to be replaced its second name; there is a checkpoint at every moment."""
    if not path.exists():
        return
    previous, temporary = path.with_name(PREVIOUS), path.with_name(f".{PREVIOUS}.new_name{path.suffix}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # a file system without hard links
        os.replace(path, previous)
        return
    os.replace(temporary, previous)
    with suppress(FileNotFoundError):  # where both were the same file already, nothing was renamed
        temporary.unlink()


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


def _is_genuine(path: Path, remedy: str) -> bool:
    try:
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
    except OSError as error:
        if error.errno == errno.EIO:
            return False
        raise UserError(f"cannot read {path}: {error.strerror}; {remedy}") from None
