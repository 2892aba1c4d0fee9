"""``python -m tools.bench.scale``: what data sets of real size take, from generated lists and a stub for images.

``landmarks``: Google Landmarks v2's clean list, 1,580,470 images of 81,313 landmarks, is read and trained on with two
workers. "MiB" counts memory that processes share once. It takes half a minute.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from distilplace.common.console import exit_code
from distilplace.common.home import program
from distilplace.common.randomness import generator
from distilplace.datasets.loading import training_loader
from distilplace.datasets.readers.landmarks import google_landmarks
from distilplace.datasets.sampling.items import GroupPairSampler
from distilplace.tools.bench.machine import held_mib, peak_mib

IMAGES, LANDMARKS = 1_580_470, 81_313
BATCH, BATCHES, WORKERS = 128, 40, 2


class StubLandmarks(google_landmarks.GoogleLandmarksData):
    """Every listed image is there, and looks alike."""

    crop_size = 16

    def present(self, images: Iterable[str]) -> set[str]:
        """All of them."""
        return set(images)

    def read_image(self, path: Path) -> Image.Image:
        """A small image, without opening a file."""
        return Image.new("RGB", (24, 24))


def write_list(folder: Path, images: int, landmarks: int) -> None:
    """A clean list of so many images, landmarks of 2 images to some hundred, and the first image."""
    draw = generator("bench", "landmarks")
    shares = draw.lognormal(0.0, 1.0, landmarks)
    counts = 2 + draw.multinomial(images - 2 * landmarks, shares / shares.sum())
    names = iter([f"{number:016x}" for number in draw.permutation(images)])
    rows = [f"{landmark},{' '.join(next(names) for _ in range(count))}" for landmark, count in enumerate(counts)]
    (folder / "meta").mkdir(parents=True)
    (folder / google_landmarks.CLEAN_LIST).write_text("\n".join([google_landmarks.HEADER, *rows]) + "\n")
    first = rows[0].partition(",")[2].split()[0]
    leaf = folder.joinpath(google_landmarks.IMAGES, *first[:3])
    leaf.mkdir(parents=True)
    (leaf / f"{first}.jpg").write_bytes(b"stub")


def landmarks(folder: Path, workers: int = WORKERS) -> list[str]:
    """Lines about reading the list in ``folder`` and training on it, measured in this process and its workers."""
    before, start = peak_mib(reset=True) or 0.0, time.perf_counter()
    training = StubLandmarks(folder).training_set()
    read, seconds = peak_mib() or 0.0, time.perf_counter() - start
    sampler = GroupPairSampler(training, BATCH, seed=0, max_batches=BATCHES)
    loader = training_loader(
        StubLandmarks(folder), training, wants=("images",), quantize=None, sampler=sampler, num_workers=workers, seed=0
    )
    held = [held_mib([None, *(child.pid for child in multiprocessing.active_children())]) or 0.0 for _ in loader]
    times = []
    for batch in sampler:
        start = time.perf_counter()
        training.masks(batch)
        times.append(1000 * (time.perf_counter() - start))
    assert training.groups is not None
    return [
        f"{len(training)} images of {len(np.unique(training.groups))} landmarks, libraries {before:.0f} MiB",
        f"read in {seconds:.0f} s, {read:.0f} MiB at most",
        f"trained with {workers} workers: {max(held):.0f} MiB at most, {len(held)} batches of {BATCH}",
        f"masks of a batch: {np.median(times):.2f} ms",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        program("tools.bench.scale"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the published numbers of images")
    known = parser.parse_args(arguments)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_list(Path(folder), int(IMAGES * known.share), int(LANDMARKS * known.share))
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                print("\n".join(pool.submit(landmarks, Path(folder)).result()))

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
