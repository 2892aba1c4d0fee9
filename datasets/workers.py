"""What a data-loader process does first: leave signals to the run's own process, and never outlive it."""

import ctypes
import multiprocessing
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def start_worker(_: int) -> None:
    """A ``worker_init_fn``.

    A terminal sends Ctrl-C to every process; the run ends its step, for which it needs its workers. When it is killed
    they are killed with it (Linux): a worker whose queue nobody empties would wait for ever.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:  # it was killed before the line above
            os._exit(1)
