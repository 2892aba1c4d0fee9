"""Long stages of a command: one line when each begins, one when it ends, whether or not anybody watches a terminal."""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from distilplace.engine.processes import is_first

LOG = logging.getLogger("distilplace")


@contextmanager
def stage(what: str) -> Iterator[None]:
    """Log ``what`` at once, and how long it took at its end; a stage that fails has no second line."""
    LOG.info("%s ...", what)
    start = time.perf_counter()
    yield
    LOG.info("%s: %.1f s", what, time.perf_counter() - start)


def bar(batches: Iterable[Any], title: str, **how: Any) -> Iterable[Any]:
    """The batches under a progress bar, where somebody watches a terminal; one for all processes."""
    return tqdm(batches, desc=title, leave=False, disable=None if is_first() else True, **how)
