"""Randomness is counted, not consumed.

Every random choice is a function of named integers such as (seed, epoch, item), so it does not depend on how many
workers ran before, and a run that goes on after a kill draws what it would have drawn.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def counted_seed(*parts: int | str) -> int:
    """A 63-bit seed from integers and labels; equal parts give equal seeds on every machine."""
    digest = hashlib.blake2b("/".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """A NumPy generator seeded by :func:`counted_seed`."""
    return np.random.default_rng(counted_seed(*parts))


@contextmanager
def forked_random_state(*parts: int | str) -> Iterator[None]:
    """Seed python, NumPy and torch (CPU and, where initialised, CUDA) by ``parts`` inside the block; restore after."""
    seed = counted_seed(*parts)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            # torch.manual_seed formats a stack trace for every kind of device there might be: milliseconds an image.
            torch.default_generator.manual_seed(seed)
            if devices:
                torch.cuda.manual_seed_all(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
