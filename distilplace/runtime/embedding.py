"""Embedding many images: the next batch is read and brought to size by threads while the network works on one."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from distilplace.common.errors import UserError
from distilplace.runtime.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

READERS = 2
"""Threads that read images."""
SHOWN_AFTER = 3
"""Seconds after which a progress bar shows."""


def embed_images(
    images: "Path | str | Image | np.ndarray | Iterable[Any]",
    preprocessing: Preprocessing,
    described: Callable[[np.ndarray], np.ndarray],
    width: int,
    batch_size: int = 32,
    *,
    as_query: bool = False,
) -> np.ndarray:
    """Float32 [n, D] of images, in their order.

    Args:
        images: files, PIL images or uint8 RGB arrays [H, W, 3]; or one of them.
        preprocessing: of the network.
        described: uint8 [B, H, W, 3] -> float32 [B, D].
        width: D, for no image at all.
        batch_size: images that the network sees at once; those of other sizes go by themselves.
        as_query: are images brought to the size of queries?

    Raises:
        UserError: something is no image, or batches are of none.

    """
    if batch_size < 1:
        raise UserError(f"batches of {batch_size} images: give 1 or more")
    every = _listed(images)
    batches = [every[start : start + batch_size] for start in range(0, len(every), batch_size)]
    rows: list[np.ndarray] = []
    with (
        ThreadPoolExecutor(READERS) as pool,
        tqdm(total=len(every), desc="embedding", unit="image", delay=SHOWN_AFTER, leave=False, disable=None) as bar,
    ):

        def read(batch: list[Any]) -> Iterator[np.ndarray]:
            return pool.map(lambda image: preprocessing.apply(image, as_query=as_query), batch)

        coming = read(batches[0]) if batches else iter(())
        for following in [*batches[1:], []]:
            pixels, coming = list(coming), read(following)
            for together in _of_one_size(pixels):
                rows.append(np.asarray(described(np.stack(together)), dtype=np.float32))
            bar.update(len(pixels))
    return np.concatenate(rows) if rows else np.zeros((0, width), np.float32)


def _listed(images: Any) -> list[Any]:
    several = images.ndim == 4 if isinstance(images, np.ndarray) else isinstance(images, Iterable)
    if not several or isinstance(images, str | Path) or hasattr(images, "convert"):
        return [images]
    return list(images)


def _of_one_size(pixels: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Neighbours of one shape together."""
    start = 0
    for position in range(1, len(pixels) + 1):
        if position == len(pixels) or pixels[position].shape != pixels[start].shape:
            yield pixels[start:position]
            start = position
