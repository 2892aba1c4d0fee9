"""Shared fixtures: where the goldens and real samples lie, if they do."""

import logging
import random
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.goldens import ROOT, SHARED, load_golden


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hashes of the tests' files are not remembered in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILPLACE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _as_in_a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test finds its own name and the log as a fresh process does, whatever command ran before it in this one."""
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    log = logging.getLogger("distilplace")
    log.propagate = True
    for handler in list(log.handlers):
        log.removeHandler(handler)


@pytest.fixture(autouse=True)
def _counted_randomness(request: pytest.FixtureRequest) -> None:
    """A test draws its own numbers, the same ones whichever tests ran before it in its process."""
    seed = zlib.crc32(request.node.nodeid.encode())
    random.seed(seed)
    np.random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Any]:
    """``golden("a0_sparse_layers.pt")``: a golden file's content, see tests/goldens.py."""
    return load_golden


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """``real_data("kitti_frames")``: a folder or file of others' data, which no clone holds; skips where absent.

    It is looked for in ``data/`` of the folder that DISTILPLACE_SHARED names, else of ``shared`` beside the checkout.
    """

    def find(name: str) -> Path:
        path = SHARED / "data" / name
        if not path.exists():
            pytest.skip(f"needs real data: {path} is absent (DISTILPLACE_SHARED names another folder than {SHARED})")
        return path

    return find


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that read real data carry the marker ``real_data`` and say so in their names.

    Raises:
        pytest.UsageError: a name does not: with generated data the test would run on every clone.

    """
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker("real_data")
        if item.get_closest_marker("real_data") and "real" not in item.name:
            raise pytest.UsageError(f"{item.nodeid} needs real data: call it test_real_..., or generate its input")
