"""The engine ``triton``: its cases in Triton's interpreter and, where there is one, on a GPU; its tiles; its choice.

The cases run in processes of their own (``conftest.py`` starts them early): kernels are defined once, for the
interpreter or for the compiler.
"""

import os
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.models.sparse.backends import available_backends, choose_backend
from distilplace.models.sparse.backends.triton import TritonManager
from distilplace.models.sparse.backends.triton_tiles import tile_table

CPU = torch.device("cpu")


def run(root, *command):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_in_the_interpreter(finished):
    pytest.importorskip("triton")
    assert " passed" in finished("triton_cases")


@pytest.mark.slow
def test_compiles_for_ampere_and_hopper(finished):
    pytest.importorskip("triton")
    assert " passed" in finished("triton_compilation")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_the_gpu(root):
    assert " passed" in run(root, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/models/sparse/triton_cases.py")


def test_importing_and_choosing_an_engine_does_not_import_triton(root):
    run(
        root,
        "-c",
        "import sys, distilplace.models.sparse.backends.triton as engine;"
        "from distilplace.models.sparse.backends import choose_backend;"
        "choose_backend('auto'); engine.TritonManager.unavailable(engine.torch.device('cpu'));"
        "assert 'triton' not in sys.modules",
    )


def test_on_the_cpu_it_needs_the_interpreter_and_is_never_chosen(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert TritonManager.unavailable(CPU) == "needs a CUDA device, not cpu"
    with pytest.raises(UserError, match="--sparse_backend triton: needs a CUDA device, not cpu"):
        choose_backend("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_backend("triton") is TritonManager
    assert "triton" in available_backends()
    assert choose_backend("auto") is not TritonManager


def test_a_manager_made_by_a_worker_can_be_used():
    manager = TritonManager(torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0]]))
    wanted = manager.kernel_map(0, 3)
    for travelled in (pickle.loads(pickle.dumps(manager)), manager.to("cpu")):
        assert type(travelled) is TritonManager
        assert travelled.tiled_map(0, 3, 1, 1).pairs.sizes == wanted.sizes


@pytest.mark.parametrize(("capability", "fits"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_the_gpu_must_be_new_enough(monkeypatch, capability, fits):
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    reason = TritonManager.unavailable(torch.device("cuda"))
    assert reason == (None if fits else "needs a GPU of compute capability 8.0 or newer, not 7.5")
    assert (choose_backend("auto", "cuda") is TritonManager) == fits


def test_without_triton(monkeypatch):
    monkeypatch.setattr("distilplace.models.sparse.backends.triton.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install triton"):
        choose_backend("triton")


@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=9), block=st.sampled_from([1, 4, 16, 64]))
@example(sizes=[0, 16, 0, 17, 0], block=16)
@settings(deadline=None)
def test_tiles_hold_every_pair_once_under_its_offset(sizes, block):
    table = tile_table(tuple(sizes), block, CPU)
    assert table.dtype == torch.int32
    assert table.shape[1] == 3
    found = [(offset, pair) for offset, first, last in table.tolist() for pair in range(first, last)]
    owners = [offset for offset, size in enumerate(sizes) for _ in range(size)]
    assert found == list(zip(owners, range(sum(sizes)), strict=True))
    assert all(0 < last - first <= block for _, first, last in table.tolist())
