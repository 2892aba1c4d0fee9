"""``python -m tools.bench.maps``: how fast a map is built, opened and searched, with and without a position prior.

Embeddings are generated: 20 views of each of n / 20 places, their noise falling with the dimension as principal
components of images do; queries are further views. Places lie 1 m apart on parallel tracks 10 m apart. Each map is
searched exactly and, where FAISS is installed, through IVF-PQ and HNSW: "faster" and R@1 are against the exact search
of the same run. "open" builds the index, "again" reads the one that is kept. Times are medians and 95th percentiles of
single queries. A million places take some 20 minutes on two cores, nearly all of it to build HNSW.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distilplace.common.console import exit_code
from distilplace.common.errors import UserError
from distilplace.common.home import program
from distilplace.runtime.map import PlaceMap, Space
from distilplace.runtime.map.loaded import BEARABLE_MS, LARGE
from distilplace.tools.bench.machine import peak_mib

SIZES = (6_006, 21_711, 100_000, 1_000_000)
WIDTH, VIEWS, TRACK, RADIUS = 256, 20, 1000, 50.0
BLOCK = 20_000
TIMES = ("p50 ms", "p95 ms", "prior p50", "prior p95")
HEADER = ("places", "index", "add s", "open s", "again s", "MiB file", "MiB RAM", *TIMES, "faster", "R@1")


class Row(NamedTuple):
    """A map of one size, searched one way.

    ``again_s``: seconds to open it a second time; ``ram``: growth of the peak while opening, None: not known;
    ``faster``: than the exact search without a prior.
    """

    places: int
    kind: str
    add_s: float
    open_s: float
    again_s: float
    file_mib: float
    ram_mib: float | None
    p50_ms: float
    p95_ms: float
    prior_p50_ms: float
    prior_p95_ms: float
    faster: float
    recall: float

    def cells(self) -> tuple[str, ...]:
        """As text."""
        ram = "-" if self.ram_mib is None else f"{self.ram_mib:.0f}"
        times = (self.p50_ms, self.p95_ms, self.prior_p50_ms, self.prior_p95_ms)
        return (
            *(f"{self.places:,}", self.kind, f"{self.add_s:.1f}", f"{self.open_s:.1f}", f"{self.again_s:.1f}"),
            *(f"{self.file_mib:.0f}", ram),
            *(f"{value:.2f}" for value in times),
            *(f"{self.faster:.1f}x", f"{self.recall:.3f}"),
        )


def measure(size: int, indexes: Sequence[str], folder: Path, queries: int = 100) -> list[Row]:
    """A map of ``size`` places made in ``folder``, searched through each of ``indexes`` ("exact" is always first)."""
    path = folder / f"bench_{size}.db"
    space = Space("0" * 64, "bench", WIDTH)
    places = positions(size)
    start = time.perf_counter()
    generating: list[float] = []
    with PlaceMap(path, space) as built:
        built.add("bench", embeddings(size, generating), places)
    added = time.perf_counter() - start - sum(generating)
    random = np.random.default_rng(1)
    rows = random.integers(0, size, queries)
    asked = [view(int(row), random) for row in rows]
    found, truth, exactly = [], np.empty(0), 0.0
    for index in dict.fromkeys(["exact", *indexes]):
        times, priors, ids, opened, ram = _search(path, index, asked, places[rows])
        again = _search(path, index, asked[:1], places[rows[:1]])[3]
        (p50, p95), (near50, near95) = (np.percentile(each, (50, 95)).tolist() for each in (times, priors))
        if index == "exact":
            truth, exactly = ids, p50
        size_mib = path.stat().st_size / 2**20
        ratios = exactly / p50, float((ids == truth).mean())
        found.append(Row(size, index, added, opened, again, size_mib, ram, p50, p95, near50, near95, *ratios))
    path.unlink()
    shutil.rmtree(path.with_name(f"{path.name}.index"), ignore_errors=True)
    return found


def usual_indexes() -> list[str]:
    """What a map is searched through beside the exact search."""
    return ["ivfpq", "hnsw"] if find_spec("faiss") else []


def threshold(rows: Sequence[Row]) -> str:
    """From which size on this machine an exact search takes longer than is bearable, by the largest map measured."""
    largest = max((row for row in rows if row.kind == "exact"), key=lambda row: row.places)
    each = largest.p50_ms / largest.places
    return (
        f"exact search: {100_000 * each:.1f} ms per 100,000 places of {WIDTH} numbers, so {BEARABLE_MS:g} ms at "
        f"{BEARABLE_MS / each:,.0f} (index auto takes IVF-PQ from {LARGE:,} on)"
    )


def table(rows: Sequence[Row]) -> str:
    """The rows, aligned."""
    lines = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


_SPECTRUM = (1 + np.arange(WIDTH)) ** -0.5


def embeddings(size: int, seconds: list[float]) -> Iterator[np.ndarray]:
    """Float32 blocks [b, 256]; how long each took is appended to ``seconds``."""
    for start in range(0, size, BLOCK):
        began = time.perf_counter()
        rows = np.arange(start, min(size, start + BLOCK))
        noise = np.random.default_rng((2, start)).normal(size=(len(rows), WIDTH))
        block = (_bases(rows // VIEWS) + 0.5 * noise * _SPECTRUM).astype(np.float32)
        seconds.append(time.perf_counter() - began)
        yield block


def view(row: int, random: np.random.Generator) -> np.ndarray:
    """Another view of what the place ``row`` shows, float32 [256]."""
    start = row - row % BLOCK
    own = np.random.default_rng((2, start)).normal(size=(row - start + 1, WIDTH))[-1]
    stored = _bases(np.array([row // VIEWS]))[0] + 0.5 * own * _SPECTRUM
    return np.asarray(stored + 0.3 * random.normal(size=WIDTH) * _SPECTRUM, dtype=np.float32)


def positions(size: int) -> np.ndarray:
    """Float64 [n, 2] easting and northing, metres."""
    rows = np.arange(size)
    return np.stack([rows % TRACK, 10.0 * (rows // TRACK)], axis=1).astype(np.float64)


def _bases(numbers: np.ndarray) -> np.ndarray:
    """What each place looks like, [m, 256]."""
    distinct, where = np.unique(numbers, return_inverse=True)
    made = np.stack([np.random.default_rng((3, int(number))).normal(size=WIDTH) for number in distinct])
    return np.asarray((made * _SPECTRUM)[where])


def _search(
    path: Path, index: str, asked: Sequence[np.ndarray], centres: np.ndarray
) -> tuple[list[float], list[float], np.ndarray, float, float | None]:
    """Milliseconds without and with a prior, the first ids, seconds to open, MiB that opening took at its peak."""
    before = peak_mib(reset=True)
    start = time.perf_counter()
    with PlaceMap(path, index=index) as places:
        places.search(asked[0])
        opened, after = time.perf_counter() - start, peak_mib()
        ram = None if before is None or after is None else after - before
        times, priors, ids = [], [], []
        for query in asked:
            began = time.perf_counter()
            ids.append(places.search(query)[0].id)
            times.append(1000 * (time.perf_counter() - began))
        for query, centre in zip(asked, centres.tolist(), strict=True):
            began = time.perf_counter()
            places.search(query, centre=centre, radius=RADIUS)
            priors.append(1000 * (time.perf_counter() - began))
    return times, priors, np.array(ids), opened, ram


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        program("tools.bench.maps"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="places, separated by commas")
    parser.add_argument("--indexes", default="", help="beside exact, such as ivfpq; default: ivfpq,hnsw")
    parser.add_argument("--folder", type=Path, help="where maps are made (1.2 GB for a million places)")
    known = parser.parse_args(arguments)

    def work() -> None:
        if not all(size.isdecimal() and int(size) > 0 for size in known.sizes.split(",")):
            raise UserError(f"--sizes {known.sizes} are none: give whole numbers, separated by commas")
        rows: list[Row] = []
        with tempfile.TemporaryDirectory(dir=known.folder) as folder:
            wanted = known.indexes.split(",") if known.indexes else usual_indexes()
            for size in map(int, known.sizes.split(",")):
                rows += measure(size, wanted, Path(folder))
                print(table(rows), flush=True)
        print(threshold(rows))

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
