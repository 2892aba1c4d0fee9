"""What a run says once, and goes on or stops with: a disk that is nearly full, a step that is not finite."""

import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.common.tensor_files import write_tensors

LOG = logging.getLogger("distilplace")
NONFINITE = "nonfinite.safetensors"


class FolderAlarms:
    """Those of one run; ``folder``: the run's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._said_full = self._kept_batch = False

    def disk(self, checkpoint: Path) -> None:
        """To be called before ``checkpoint`` is written again: a warning where less than twice its size is free."""
        if self._said_full or not checkpoint.is_file():
            return
        size, free = checkpoint.stat().st_size, shutil.disk_usage(self._folder).free
        if free < 2 * size:
            self._said_full = True
            told = f"{free / 1e6:.0f} MB are free at {self._folder}, a checkpoint takes {size / 1e6:.0f} MB"
            LOG.warning("warning: the disk is nearly full: %s: free some space", told)

    def nonfinite(self, batch: Mapping[str, Any], step: int, culprits: str) -> str:
        """Keep the first batch whose step is not finite, for whoever looks for the cause; what to say of it.

        The file ``nonfinite.safetensors`` holds the batch's tensors, and as text its keys, step and culprits.
        """
        if self._kept_batch:
            return ""
        self._kept_batch = True
        path = self._folder / NONFINITE
        # Clones: rows of a sampler's layout may share their memory, which the file format refuses.
        tensors = {name: value.detach().clone() for name, value in batch.items() if isinstance(value, Tensor)}
        text = {"step": str(step), "not_finite": culprits, "keys": json.dumps(list(batch["keys"]))}
        with suppress(UserError):  # a full disk must not hide what diverged
            write_tensors(path, tensors, text)
            return f" (its batch is kept: {path})"
        return ""
