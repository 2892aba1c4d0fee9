"""Triton's two long subprocesses are started when the session starts, and run beside the other tests.

With pytest-xdist every worker collects all tests: there the one that gets such a test starts its subprocess.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable

import pytest

from tests.conftest import ROOT

STARTED = pytest.StashKey[dict[str, subprocess.Popen]]()
OUTPUTS = pytest.StashKey[dict[str, "tempfile._TemporaryFileWrapper[str]"]]()
PROCESSES = {"test_in_the_interpreter": "triton_cases", "test_compiles_for_ampere_and_hopper": "triton_compilation"}


def start(name: str, config: pytest.Config) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["OMP_NUM_THREADS"] = "1"
    if name == "triton_cases":
        environment["TRITON_INTERPRET"] = "1"
    output = config.stash[OUTPUTS][name] = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed at the session's end)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/models/sparse/{name}.py"]
    config.stash[STARTED][name] = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start what the chosen tests will wait for."""
    session.config.stash[STARTED], session.config.stash[OUTPUTS] = {}, {}
    if not session.config.option.collectonly and not hasattr(session.config, "workerinput"):
        for item in session.items:
            if item.path.name == "test_sparse_triton.py" and item.name in PROCESSES:
                start(PROCESSES[item.name], session.config)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what a stopped session left behind."""
    for process in session.config.stash.get(STARTED, {}).values():
        process.kill()
        process.wait()
    for output in session.config.stash.get(OUTPUTS, {}).values():
        output.close()


@pytest.fixture
def finished(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """``finished("triton_cases")``: the output of that subprocess, which must have succeeded."""

    def wait(name: str) -> str:
        if name not in request.config.stash[STARTED]:
            start(name, request.config)
        code = request.config.stash[STARTED][name].wait()
        output = request.config.stash[OUTPUTS][name]
        output.seek(0)
        text = output.read()
        assert code == 0, text
        return text

    return wait
