"""Threads of the sparse engine: work done once whoever does it, nobody waited for in vain, PyTorch's number kept."""

import subprocess
import sys
import threading
import time

import pytest
import torch

from distilplace.models import create_model
from distilplace.models.sparse import threads
from distilplace.models.sparse.threads import Pause, Team, threads_for_load

COORDS = torch.tensor(
    [[b, x, y, (x * y) % 7] for b in range(2) for x in range(24) for y in range(24)], dtype=torch.int32
)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_every_piece_is_done_once_and_errors_are_raised():
    team, done, lock = Team(2), [], threading.Lock()

    def work(piece):
        with lock:
            done.append(piece)

    team.share(500, work)
    assert sorted(done) == list(range(500))

    def broken(piece):
        if piece == 7:
            raise ValueError("seven")

    with pytest.raises(ValueError, match="seven"):
        Team(1).share(20, broken)


def test_a_helper_that_has_not_begun_is_not_waited_for():
    team, gate, done = Team(1), threading.Event(), []
    team._pool.submit(gate.wait)  # the helper is somewhere else, as on a machine with other things to do
    start = time.perf_counter()
    team.share(8, done.append)
    assert time.perf_counter() - start < 1
    assert done == list(range(8))
    gate.set()


def test_late_helpers_are_left_out_for_a_while():
    caller, seen = threading.get_ident(), []

    def work(piece):
        seen.append(threading.get_ident())
        time.sleep(0.001 if threading.get_ident() == caller else 0.1)

    team = Team(1)
    team.share(4, work)
    assert len(set(seen)) == 2
    seen.clear()
    for _ in range(8):
        team.share(2, work)
    assert set(seen) == {caller}
    team.share(2, work)
    assert len(set(seen)) == 2  # they have another chance


def test_pauses_double_while_disturbed_and_start_over_when_not():
    pause, lengths = Pause(longest=32), []
    for disturbed in (True, True, True, True, False, True):
        pause.judge(disturbed)
        lengths.append(sum(iter(pause.take, False)))
    assert lengths == [8, 16, 32, 32, 0, 8]


def test_an_interrupted_pass_is_followed_by_passes_of_one_thread(two_threads, monkeypatch):
    count = [0]
    monkeypatch.setattr(threads, "_EVALUATION", Pause())
    monkeypatch.setattr(threads, "_interruptions", lambda: count[0])

    def used(interrupted: int) -> int:
        with threads_for_load():
            count[0] += interrupted
            found = torch.get_num_threads()
        assert torch.get_num_threads() == 2
        return found

    assert [used(0) for _ in range(3)] == [2, 2, 2]
    assert used(50) == 2
    assert [used(50) for _ in range(8)] == [1] * 8
    assert used(0) == 2
    with pytest.raises(RuntimeError), threads_for_load():
        raise RuntimeError
    assert torch.get_num_threads() == 2


def test_the_number_of_threads_changes_no_bit_of_an_evaluation(two_threads):
    torch.manual_seed(0)
    network = create_model("minkloc").eval()
    batch = {"coords": COORDS, "features": torch.ones(len(COORDS), 1)}
    with torch.no_grad():
        two = network(batch)["embedding"]
        torch.set_num_threads(1)
        one = network(batch)["embedding"]
    assert torch.equal(one, two)


LIMITED = """
import numba, torch
from distilplace.models import create_model
coords = torch.tensor([[0, x, y, (x * y) % 7] for x in range(24) for y in range(24)], dtype=torch.int32)
network = create_model("minkloc")
network({"coords": coords, "features": torch.ones(len(coords), 1)})["embedding"].sum().backward()
print(torch.get_num_threads())
"""


def test_omp_num_threads_holds(root):
    """numba's own threads set OpenMP's number again: PyTorch had as many as there are cores."""
    command = [sys.executable, "-c", LIMITED]
    environment = {"OMP_NUM_THREADS": "1", "PATH": "", "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("1", 0), done.stderr
