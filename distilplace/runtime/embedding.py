"""Embedding many images: read and brought to size by threads while the network works, in batches of one size."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from distilplace.runtime.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN_AFTER = 3
"""Seconds after which a progress bar shows."""


def embed_images(
    images: "Path | str | Image | np.ndarray | Iterable[Any]",
    preprocessing: Preprocessing,
    described: Callable[[np.ndarray], np.ndarray],
    width: int,
    batch_size: int = 32,
    *,
    threads: int = 2,
    as_query: bool = False,
) -> np.ndarray:
    """Float32 [n, D] of images, in their order.

    Args:
        images: files, PIL images or uint8 RGB arrays [H, W, 3]; or one of them.
        preprocessing: of the network.
        described: uint8 [B, H, W, 3] -> float32 [B, D].
        width: D, for no image at all.
        batch_size: images that the network sees at once; those of other sizes go by themselves.
        threads: that read images.
        as_query: are images brought to the size of queries?

    Raises:
        UserError: something is no image.

    """
    if batch_size < 1:
        raise ValueError(f"a batch has 1 image or more, not {batch_size}")
    every = _listed(images)
    rows: list[np.ndarray] = []
    with (
        ThreadPoolExecutor(max_workers=threads) as pool,
        tqdm(total=len(every), desc="embedding", unit="image", delay=SHOWN_AFTER, leave=False, disable=None) as bar,
    ):
        for start in range(0, len(every), batch_size):
            batch = every[start : start + batch_size]
            pixels = list(pool.map(lambda image: preprocessing.apply(image, as_query=as_query), batch))
            for together in _of_one_size(pixels):
                rows.append(np.asarray(described(np.stack(together)), dtype=np.float32))
            bar.update(len(batch))
    return np.concatenate(rows) if rows else np.zeros((0, width), np.float32)


def _listed(images: Any) -> list[Any]:
    if isinstance(images, str | Path) or hasattr(images, "convert"):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim == 3:
        return [images]
    return list(images)


def _of_one_size(pixels: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Neighbours of one shape together."""
    start = 0
    for position in range(1, len(pixels) + 1):
        if position == len(pixels) or pixels[position].shape != pixels[start].shape:
            yield pixels[start:position]
            start = position
