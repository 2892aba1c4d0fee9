"""Shared fixtures: where the goldens and real samples lie, if they do."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.goldens import ROOT, SHARED, load_golden


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hashes of the tests' files are not remembered in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILPLACE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _log_of_its_own() -> None:
    """Every test finds the log as a fresh process does, whatever command ran before it in this one."""
    log = logging.getLogger("distilplace")
    log.propagate = True
    for handler in list(log.handlers):
        log.removeHandler(handler)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Any]:
    """``golden("a0_sparse_layers.pt")``: a golden file's content, see tests/goldens.py."""
    return load_golden


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """``shared_data("kitti_frames")``: a folder of real samples; skips when absent."""

    def find(name: str) -> Path:
        path = SHARED / "data" / name
        if not path.exists():
            pytest.skip(f"real sample {path} is absent (set DISTILPLACE_SHARED)")
        return path

    return find
