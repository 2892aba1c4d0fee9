"""The mean of all training images, which PoseNet's view subtracts: read where it is stored, else computed and stored.

Source: spec 5.4, the published SCKD code's ``mean_image.npy`` (256 x 455 x 3, pixels 0..255). A file that was
computed here also says what it was made from, so that it is not used for other images.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distilplace.common.contents import content_hashes
from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path
from distilplace.common.npy import load_npy

if TYPE_CHECKING:
    from PIL.Image import Image

STANDARD = (256, 455)
MARK = b"\nDistilPlace made this from "


def mean_image_file(folder: Path, size: tuple[int, int]) -> Path:
    """Where the mean image of ``size`` (height, width) lies: mean_image.npy for the published size alone."""
    return folder / ("mean_image.npy" if size == STANDARD else f"mean_image_{size[0]}x{size[1]}.npy")


def given_mean_image(path: Path) -> Path:
    """``path``, a file or folder that is there.

    Raises:
        UserError: it does not exist: a slip of the pen must not have a mean image written somewhere.

    """
    if not path.exists():
        raise UserError(
            f"--mean_image_path {path} does not exist: omit it to have one computed, or give a folder to keep that in"
        )
    return path


def read_mean_image(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Float32 [h, w, 3] in 0..255; :class:`UserError` for a file that is unreadable or not of ``size`` (h, w)."""
    try:
        array, note = _split(path)
        mean = load_npy(path) if note is None else np.load(io.BytesIO(array), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"mean image {path} is no plain .npy array: {error}") from error
    if not isinstance(mean, np.ndarray) or mean.dtype.kind not in "fui" or mean.shape != (*size, 3):
        found = f"{mean.dtype} {mean.shape}" if isinstance(mean, np.ndarray) else "several arrays"
        raise UserError(
            f"mean image {path} holds {found}, but images are {size[0]}x{size[1]} (height x width): give another "
            "--mean_image_path, or none to have it computed"
        )
    if not np.isfinite(mean).all() or mean.min() < 0 or mean.max() > 255:
        raise UserError(f"mean image {path} has values outside 0..255: give another, or none to have it computed")
    return mean.astype(np.float32)


def compute_mean_image(paths: Sequence[Path], read: Callable[[Path], "Image"]) -> np.ndarray:
    """Float32 [h, w, 3]: the mean (float64 sum) of the images at ``paths`` as ``read`` gives them, RGB in 0..255.

    Raises:
        UserError: an image cannot be read, or they are not of one size.

    """
    from tqdm import tqdm

    total: np.ndarray | None = None
    for path in tqdm(paths, desc="mean image", leave=False, delay=1, disable=None):
        pixels = np.asarray(read(path), dtype=np.float64)
        if total is None:
            total = np.zeros_like(pixels)
        if pixels.shape != total.shape:
            raise UserError(
                f"image {path} is {pixels.shape[1]}x{pixels.shape[0]} (width x height), those before it "
                f"{total.shape[1]}x{total.shape[0]}: a mean image needs one size, set --image_size 256x455"
            )
        total += pixels
    if total is None:
        raise ValueError("no image to take the mean of")
    mean: np.ndarray = (total / len(paths)).astype(np.float32)
    return mean


def made_from(names: Sequence[str], paths: Sequence[Path], size: object) -> dict[str, object] | None:
    """What the mean of these images depends on, as JSON has it; None where one of them is not on this machine."""
    hashes = content_hashes(paths)
    if "" in hashes:
        return None
    lines = [f"{name} {digest}" for name, digest in zip(names, hashes, strict=True)]
    return {"version": 1, "size": str(size), "images": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


def origin(path: Path) -> dict[str, object] | None:
    """What the mean image in ``path`` was made from; None for one that was not computed here."""
    note = _split(path)[1]
    source = None if note is None else note["made_from"]
    return source if isinstance(source, dict) else None


def _split(path: Path) -> tuple[bytes, dict[str, object] | None]:
    """The array's bytes and the note behind them; :class:`UserError` where they do not belong together."""
    content = path.read_bytes()
    array, mark, text = content.rpartition(MARK)
    if not mark:
        return content, None
    try:
        note = json.loads(text)
    except (ValueError, RecursionError):
        note = None
    if not isinstance(note, dict) or note.get("sha256") != hashlib.sha256(array).hexdigest() or "made_from" not in note:
        raise UserError(f"mean image {path} is damaged: remove it to have it computed again")
    return array, note


def store_mean_image(path: Path, mean: np.ndarray, source: Mapping[str, object] | None) -> str | None:
    """Write ``mean`` and its ``source`` to ``path``, whole or not at all; words for the log when that is not possible.

    The source stands behind the array, where NumPy does not look.
    """
    stream = io.BytesIO()
    np.save(stream, mean, allow_pickle=False)
    array = stream.getvalue()
    note = {"made_from": source, "sha256": hashlib.sha256(array).hexdigest()}
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(array + MARK + json.dumps(note).encode())
    except UserError as error:
        return f"kept in memory: {path} cannot be written ({error})"
    return None
