"""A writer in a process of its own, to be killed: adds runs for as long as it lives, and says which are acknowledged.

python crowd.py MAP FIRST
"""

import sys

import numpy as np

from distilplace.runtime.map import PlaceMap, Space

SPACE = Space("f" * 64, "resnet18_gem", 64)
PLACES = 400


def vectors(number: int) -> np.ndarray:
    """Embeddings of the run ``number``, [400, 64]."""
    return np.random.default_rng(number).normal(size=(PLACES, SPACE.width)).astype(np.float32)


def main(path: str, first: int) -> None:
    positions = np.zeros((PLACES, 2))
    with PlaceMap(path, SPACE) as places:
        print("ready", flush=True)
        for number in range(first, first + 10_000):
            places.add(f"run {number}", vectors(number), positions + number)
            print(number, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
