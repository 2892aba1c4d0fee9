"""``last.ckpt``: everything a run needs to go on as if it had not stopped. Written whole or not at all."""

from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.files import atomic_path

VERSION = 1


def save_checkpoint(path: Path, parts: dict[str, Any], progress: dict[str, Any]) -> None:
    """Write the ``state_dict()`` of each part and the plain numbers of ``progress``."""
    content = {"version": VERSION, "progress": progress, "parts": {n: part.state_dict() for n, part in parts.items()}}
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path, parts: dict[str, Any]) -> dict[str, Any]:
    """Restore each part in place and return ``progress``. Raises :class:`UserError` on a damaged or foreign file."""
    remedy = f"remove {path} to start this run anew"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds on damage; all mean the same to the user
        raise UserError(f"{path} is damaged or not a checkpoint ({type(error).__name__}); {remedy}") from None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise UserError(f"{path} was not written by this version; {remedy}")
    missing = set(parts) ^ set(content["parts"])
    if missing:
        raise UserError(f"{path} holds other parts than this run ({', '.join(sorted(missing))}); {remedy}")
    for name, part in parts.items():
        try:
            part.load_state_dict(content["parts"][name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(f"{path} does not fit this run ({name}: {error}); {remedy}") from None
    progress: dict[str, Any] = content["progress"]
    return progress
