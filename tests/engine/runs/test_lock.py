"""Two runs in one folder: the second is refused, by a lock that no dead process keeps."""

import signal
import subprocess
import sys

import pytest

from distilplace.common.errors import UserError
from distilplace.engine.runs.lock import RunLock

HOLD = (
    "import os, sys, time; from pathlib import Path; from distilplace.engine.runs.lock import RunLock\n"
    "lock = RunLock(Path(sys.argv[1])); lock.acquire()\n"
    "child = len(sys.argv) > 2 and os.fork() == 0\n"  # a child that outlives it holds no lock
    "if child or len(sys.argv) == 2: print('held', flush=True)\n"  # said by the child, once it runs
    "time.sleep(3 if child else 60); os._exit(0)"
)


def holder(folder, *more) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), *more], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_process_is_refused_until_the_first_is_dead(tmp_path):
    process = holder(tmp_path, "with a child")
    try:
        with pytest.raises(UserError, match=rf"{tmp_path} is in use by process {process.pid} on .*: wait"):
            RunLock(tmp_path).acquire()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_one_process_cannot_take_it_twice_and_a_refusal_leaves_it_in_place(tmp_path):
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()
    for _ in range(2):
        with pytest.raises(UserError, match="in use"):
            second.acquire()
    second.release()
    assert first.path.is_file()
    first.release()
    first.release()
    second.acquire()
    assert second.is_held
    second.release()


def test_a_lock_taken_from_a_file_that_is_just_being_removed_is_tried_again(tmp_path, monkeypatch):
    import fcntl

    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()
    flock, calls = fcntl.flock, []

    def release_meanwhile(descriptor, how):
        calls.append(how)
        if len(calls) == 1:
            first.release()
        return flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", release_meanwhile)
    second.acquire()
    assert len(calls) == 2
    assert second.path.is_file()
    second.release()
