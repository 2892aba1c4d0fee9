"""Files that are either whole or absent: write beside, flush, rename."""

import errno
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distilplace.common.errors import UserError

_ADVICE = {
    errno.ENOSPC: "free some space, then give the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space, then give the same command again",
    errno.EFBIG: "files may not grow that large here (ulimit -f)",
    errno.EROFS: "choose a folder that may be written to",
    errno.EACCES: "choose a folder that may be written to",
    errno.EPERM: "choose a folder that may be written to",
    errno.EIO: "the disk reports an error",
}
# What writing may raise; anything else in the caller's block is not about the file that is written.
_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}(?P<suffix>\.[^.]*)?", re.ASCII)


@contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success it replaces ``target``, on error it is removed.

    Raises:
        UserError: the disk is full, the folder may not be written to, or the like.

    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = _locked_temporary(target)
    except OSError as error:
        raise write_error(target, error) from None
    try:
        try:
            yield temporary
        except Exception as error:
            if (reason := _write_failure(error)) is None:
                raise
            raise write_error(target, reason) from None
        try:
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(0o644)
            os.replace(temporary, target)
            _sync_folder(target.parent)
        except OSError as error:
            raise write_error(target, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        os.close(descriptor)


def write_error(target: Path | str, error: OSError) -> UserError:
    """The one line for a file that could not be written."""
    advice = _ADVICE.get(error.errno or 0, "check the path")
    return UserError(f"cannot write {target}: {error.strerror or error}; {advice}")


def is_write_failure(error: OSError) -> bool:
    """Does the error say that a disk is full, read-only or broken?"""
    return error.errno in _WRITING


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files below ``folder`` whose writers were killed; those still being written stay."""
    removed = []
    for path in sorted(folder.rglob(".*")) if folder.is_dir() else []:
        found = _LEFTOVER.fullmatch(path.name)
        if found and (found["suffix"] or "") == Path(found["name"]).suffix and path.is_file() and not path.is_symlink():
            removed += [path] if _remove_unless_locked(path) else []
    return removed


def require_file(path: Path | str, what: str) -> Path:
    """``path``, which must be a regular file and no folder, device or pipe (:class:`UserError`)."""
    path = Path(path)
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "does not exist"
        raise UserError(f"{what} {path} {fault}: check the path")
    return path


def sha256(path: Path | str) -> str:
    """Hex digest of a file's content, read in blocks."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _locked_temporary(target: Path) -> tuple[int, Path]:
    """A new file beside ``target``, locked as long as its writer lives: :func:`remove_leftovers` tells them apart."""
    while True:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if Path(name).exists():
            return descriptor, Path(name)
        os.close(descriptor)  # taken for a leftover between the two calls


def _remove_unless_locked(path: Path) -> bool:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(descriptor)
        return True
    return False


def _write_failure(error: BaseException) -> OSError | None:
    """The failed write behind an error: libraries wrap it (torch) or only mention its number (safetensors)."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and is_write_failure(link):
            return link
        if mentioned := re.search(r"\(os error (\d+)\)", str(link)):
            number = int(mentioned[1])
            return OSError(number, os.strerror(number)) if number in _WRITING else None
        link = link.__cause__ or link.__context__
    return None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
