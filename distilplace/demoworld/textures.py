"""Numbers that look random but belong to a place: hashes of cells and sums of smooth noise."""

from functools import lru_cache

import numpy as np

from distilplace.common.randomness import generator
from distilplace.demoworld.mesh import Floats

SIZE = 512


@lru_cache(maxsize=1)
def _tables() -> tuple[Floats, Floats]:
    """White noise and tileable fractal noise, [512,512] each in 0..1; the same for every world."""
    random = generator("demo", "noise")
    white = random.random((SIZE, SIZE)).astype(np.float32)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE)))
    frequency[0, 0] = 1.0
    spectrum = np.fft.fft2(random.normal(size=(SIZE, SIZE))) / frequency**1.35
    spectrum[0, 0] = 0
    smooth = np.fft.ifft2(spectrum).real
    ranks = np.clip(0.5 + smooth / (4.0 * smooth.std()), 0, 1)
    return white, ranks.astype(np.float32)


def cell_hash(a: np.ndarray, b: np.ndarray, salt: np.ndarray | int = 0) -> Floats:
    """A number in 0..1 for each integer cell (a, b)."""
    white, _ = _tables()
    a, b = np.asarray(a).astype(np.int32), np.asarray(b).astype(np.int32)
    salt = np.asarray(salt).astype(np.int32)
    mask = SIZE - 1
    return white[(a * 7 + b * 131 + salt * 37) & mask, (a * 113 + b * 17 + salt * 71) & mask]


def fractal(u: np.ndarray, v: np.ndarray, cells_per_metre: float) -> Floats:
    """Fractal noise in 0..1 (mean 0.5) over metres; its finest grain is one cell."""
    _, smooth = _tables()
    mask = SIZE - 1
    i = np.floor(u * cells_per_metre).astype(np.int32) & mask
    j = np.floor(v * cells_per_metre).astype(np.int32) & mask
    return smooth[j, i]


def fractal_smooth(u: np.ndarray, v: np.ndarray, cells_per_metre: float) -> Floats:
    """As :func:`fractal`, interpolated between cells (for things seen from far closer than a cell: clouds)."""
    _, smooth = _tables()
    mask = SIZE - 1
    x, y = np.asarray(u) * cells_per_metre, np.asarray(v) * cells_per_metre
    i, j = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    s, t = (x - i).astype(np.float32), (y - j).astype(np.float32)
    i0, j0, i1, j1 = i & mask, j & mask, (i + 1) & mask, (j + 1) & mask
    low = smooth[j0, i0] * (1 - s) + smooth[j0, i1] * s
    return low * (1 - t) + (smooth[j1, i0] * (1 - s) + smooth[j1, i1] * s) * t
