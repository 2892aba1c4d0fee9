"""Several processes as torchrun starts them, but forked: nothing is imported again."""

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

TIMEOUT = 600  # seconds


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def in_processes(count: int, work: Callable[[], Any], folder: Path, *, connected: bool = True) -> list[Any]:
    """What ``work()`` gives in each of ``count`` processes that know of each other as torchrun's do.

    ``connected``: their gloo group is made first; commands make their own. What is given goes through a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, context = free_port(), multiprocessing.get_context("fork")
    started = [context.Process(target=_run, args=(rank, count, port, work, folder, connected)) for rank in range(count)]
    for process in started:
        process.start()
    for process in started:
        process.join(TIMEOUT)
    told = [(folder / f"{rank}.txt").read_text() for rank in range(count) if (folder / f"{rank}.txt").exists()]
    assert [process.exitcode for process in started] == [0] * count, "\n".join(told)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _run(rank: int, count: int, port: int, work: Callable[[], Any], folder: Path, connected: bool) -> None:
    torch.set_num_threads(1)
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "forked"}
    places = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": 1}
    os.environ |= {name: str(value) for name, value in (rendezvous | places).items()}
    code = 1
    try:
        sys.stdout = sys.stderr = (folder / f"{rank}.txt").open("w")
        if connected:
            dist.init_process_group("gloo")
        torch.save(work(), folder / f"{rank}.pt")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)
