"""Runs in processes of their own, which are killed (SIGKILL) at random moments and started again."""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

FORK = multiprocessing.get_context("fork")
"""A forked process has torch imported already, which takes seconds otherwise."""


def start(work: Callable[[], object], said: Path) -> BaseProcess:
    """Do ``work`` in another process; what it says goes to the end of the file ``said``."""
    process = FORK.Process(target=_apart, args=(work, said))
    process.start()
    return process


def _apart(work: Callable[[], object], said: Path) -> None:
    torch.set_num_threads(1)  # the parent's threads did not come along
    torch.manual_seed(int.from_bytes(os.urandom(4), "little"))  # no number may come from there
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    sys.exit(work())  # type: ignore[arg-type]


def finish(work: Callable[[], object], said: Path) -> None:
    """Do ``work`` to its end."""
    process = start(work, said)
    process.join()
    assert process.exitcode == 0, said.read_text()[-3000:]


def kill_again_and_again(
    work: Callable[[], object], folder: Path, said: Path, *, times: int, damage: Callable[[Path], None] | None = None
) -> tuple[int, int]:
    """Start ``work``, whose run folder is ``folder``, and kill it, ``times`` times or until it ends by itself.

    Every third time while a checkpoint is being written, else after two to four changes of ``metrics.jsonl``; once,
    before anything. From half the kills on ``damage`` is done to ``last.ckpt`` once, where there is one before it.
    Returns how often it was killed, and how often while it saved.
    """
    random.seed(folder.name)
    saving, metrics = 0, folder / "metrics.jsonl"
    for number in range(times):
        process = start(work, said)
        if number % 3 == 2:
            _wait(process, lambda: _saved(folder), random.choice((1, 3)))
        elif number != 4:
            _wait(process, lambda: metrics.stat().st_size if metrics.is_file() else 0, random.randint(2, 4))
        time.sleep(random.uniform(0, 0.002))
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            return number, saving
        saving += bool(_saved(folder))
        if damage is not None and number + 1 >= times / 2 and (folder / "previous.ckpt").exists():
            damage(folder / "last.ckpt")
            damage = None
    return times, saving


def _wait(process: BaseProcess, look: Callable[[], object], changes: int) -> None:
    """Until what ``look`` finds has changed so often, or the process has ended."""
    before = look()
    while changes and process.is_alive():
        time.sleep(0.0002)
        now = look()
        changes -= now != before
        before = now


def _saved(folder: Path) -> list[str]:
    """The temporary files of a checkpoint: there are some while it is being written."""
    return [name for name in os.listdir(folder) if name.startswith(".last.ckpt.")] if folder.is_dir() else []


def flip_a_bit(path: Path) -> None:
    """In the middle of the file; another name of the same file keeps what it has."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.unlink()
    path.write_bytes(content)
