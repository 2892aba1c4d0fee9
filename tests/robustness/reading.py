"""Reads damaged files one after the other: ``python -m tests.robustness.reading GROUP FOLDER``, a process of its own.

Prints a JSON line before and after each file, so that a crash or a hang can be told from its file.
"""

import json
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distilplace.common.errors import UserError
from tests.robustness import own_specimens, specimens
from tests.robustness.mutations import MUTATIONS, REPEATED
from tests.robustness.specimens import Specimen

GROUPS = specimens.GROUPS | own_specimens.GROUPS
SECONDS = 20
MEMORY = 3 * 2**30  # bytes of addresses beyond those of the imports; what runs into it shows as a MemoryError


class Hang(BaseException):
    """A reader took longer than :data:`SECONDS`; no reader's ``except Exception`` catches it."""


def same(one: Any, other: Any) -> bool:
    """Equal values, tensors and arrays compared by content."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(left, right) for left, right in zip(one, other, strict=True))
    return bool(one == other)


def attempt(specimen: Specimen, path: Path, original: Any) -> dict[str, Any]:
    """What became of one file: ``refused``, ``same``, ``read`` (another value), or ``traceback``, ``hang``."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.alarm(SECONDS)
    try:
        value = specimen.read(path)
        outcome = {"outcome": "same" if same(original, value) else "read"}
    except UserError as error:
        outcome = {"outcome": "refused", "message": str(error)}
    except Hang:
        outcome = {"outcome": "hang"}
    except BaseException:
        outcome = {"outcome": "traceback", "message": traceback.format_exc()[-1500:]}
    finally:
        signal.alarm(0)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {**outcome, "seconds": time.monotonic() - start, "kilobytes": grown}


def main(group: str, folder: Path) -> None:
    """Every specimen of the group, whole and then in every mutation."""

    def stop(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, stop)
    for name, specimen in GROUPS[group].items():
        home = folder / name
        home.mkdir()
        path = specimen.build(home)
        content = path.read_bytes()
        original = specimen.read(path)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        for mutation, change in MUTATIONS.items():
            for seed in range(2 if mutation in REPEATED else 1):
                changed = change(content, random.Random(f"{name} {mutation} {seed}"))
                if changed == content:
                    continue
                path.write_bytes(changed)
                about = {"file": name, "mutation": mutation, "seed": seed}
                print(json.dumps({**about, "outcome": "begun"}), flush=True)
                print(json.dumps({**about, **attempt(specimen, path, original)}), flush=True)
        path.write_bytes(content)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
