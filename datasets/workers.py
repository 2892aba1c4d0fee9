"""What a data-loader process does first: leave signals to the run's own process, and never outlive it."""

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def start_worker(_: int) -> None:
    """A ``worker_init_fn``.

    Terminals and schedulers signal every process of a run; the run ends its step, for which it needs its workers. When
    it is killed they are killed with it (Linux): a worker whose queue nobody empties would wait for ever.
    """
    gc.freeze()  # a collection would write to, and so copy, all the memory that is shared with the run
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return
    if os.getppid() != parent.pid:  # it was killed before the lines above
        os._exit(1)
    # SIGTERM counts when it is the run's own, which so ends its workers at its exit.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_told, args=(parent.pid,), daemon=True).start()


def _end_when_told(parent: int) -> None:
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent:
            os._exit(0)
