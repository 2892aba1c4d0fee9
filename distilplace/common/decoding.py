"""Decoding image files of any mode to 8-bit RGB, and refusing what is no image, in one line that names the file.

Pillow decodes. Its own conversion cuts values above 255 to white and leaves the EXIF orientation to the caller.
Only the photographic formats below are tried, whatever a file is called: others (EPS) start foreign programs.
"""

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.inputs.folder_flags import flag_of

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "TIFF", "PPM", "GIF", "JPEG2000", "AVIF", "HEIF")
ORIENTATION = 0x0112  # EXIF, and TIFF
USUAL = ".jpg, .jpeg, .png, .webp, .bmp, .tif, ..."  # in messages: all suffixes are some thirty
TURNED = (5, 6, 7, 8)  # orientations that swap width and height
BACK = {6: 8, 8: 6}  # the orientations whose turn another one undoes
WHITES = (1.0, 255.0, 65535.0)
OVERSHOOT = 1.1  # resampling leaves floats a little above white
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@lru_cache(maxsize=1)
def image_suffixes() -> tuple[str, ...]:
    """Suffixes (lower case, with their dot) of the images that this machine's Pillow reads.

    HEIC is among them where ``pillow-heif`` is installed.
    """
    readable = _formats()
    from PIL import Image

    return tuple(sorted(suffix for suffix, kind in Image.registered_extensions().items() if kind in readable))


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    from PIL import Image, TiffImagePlugin

    Image.init()
    known = TiffImagePlugin.OPEN_INFO  # Pillow reads 16 bits whose white is zero in the other byte order alone
    known.setdefault((TiffImagePlugin.MM, 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def decode_rgb(path: Path, *, upright: bool = False) -> "Image":
    """The image as 8-bit RGB.

    Transparency is dropped (pixels keep their colour), more than 8 bits are scaled by the format's white: 65535 of
    16 bits; 32-bit numbers, which state none, by the least of 1 (floats), 255 and 65535 that holds them.

    Args:
        path: the file.
        upright: turn and mirror it as its EXIF orientation says; otherwise pixels stay as they are stored.

    Raises:
        UserError: no regular file, empty, damaged, no image, of more pixels than Pillow's limit, or without a white.

    """
    with _opened(path) as opened:
        return as_rgb(opened, path, upright=upright)


def as_rgb(opened: "Image", path: Path | str, *, upright: bool = False) -> "Image":
    """As :func:`decode_rgb`, of an image that Pillow has opened; ``path``: what it is called in messages."""
    tiff = opened.format == "TIFF"
    before = _orientation(opened) if tiff else None  # asked of a PNG it would load it, and hide what is damaged
    opened.load()
    stored = before if before is not None else _orientation(opened)
    shown = tiff and _orientation(opened) != stored  # Pillow turns TIFFs while it loads them
    image = _eight_bits(opened, path)
    if shown == upright:
        return image
    turn = _turns().get(stored if upright else BACK.get(stored, stored))
    return image if turn is None else image.transpose(turn)


def image_size(path: Path, *, upright: bool = False) -> tuple[int, int]:
    """Width and height that :func:`decode_rgb` gives, from the file's header; raises as it does."""
    with _opened(path) as opened:
        width, height = _tiff_tag(opened, 256, opened.width), _tiff_tag(opened, 257, opened.height)
        return (height, width) if upright and _orientation(opened) in TURNED else (width, height)


class Loss(NamedTuple):
    """What :func:`decode_rgb` loses of an image; ``dark``: its values are so small that it becomes nearly black."""

    text: str
    dark: bool


def described_depth(path: Path) -> Loss | None:
    """What is lost of an image in :func:`decode_rgb`: levels of more than 8 bits, further pictures; None: nothing."""
    dark: list[str] = []
    with _opened(path) as opened:
        frames = 1 if opened.format == "MPO" else int(getattr(opened, "n_frames", 1))
        lost = [f"of {frames} pictures the first is read"] if frames > 1 else []
        deep_colour = opened.mode in ("RGB", "RGBA", "LA") and any(
            ";16" in str(tile[3]) for tile in getattr(opened, "tile", ())
        )
        if opened.mode.startswith("I") or opened.mode == "F":
            opened.load()
            values = np.asarray(opened)  # Pillow's getextrema knows no big-endian modes
            low, high = values.min(), values.max()
            levels = len(np.unique(np.asarray(_scaled(opened, path))))
            lost.append(
                f"values ({low:g} to {high:g}) are scaled to 8 bits by their kind's white, {levels} grey levels"
            )
            if _white(opened, float(high)) == WHITES[-1]:
                dark = _dark(float(high))
        elif deep_colour:
            opened.load()
            dark = _dark(257.0 * np.asarray(opened.convert("RGB")).max())  # Pillow keeps their upper 8 bits
    return Loss(", ".join([*lost, *dark]), bool(dark)) if lost or dark else None


def _dark(high: float) -> list[str]:
    """A line with the remedy where the largest of 16-bit values, ``high``, is what 12 bits or fewer hold."""
    bits = 10 if high < 2**10 else 12
    if not 0 < high < 2**12:
        return []
    remedy = f"multiply them by {2 ** (16 - bits)} or write 8 bits"
    return [f"which makes them nearly black: if they are numbers of {bits} bits, {remedy}"]


def require_regular_file(path: Path, what: str) -> None:
    """:class:`UserError` when ``path`` is absent, empty, or a folder, pipe, socket or device (opening one may hang)."""
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise UserError(f"{what} {path} does not exist: check {flag_of(path)}, --image_path and the lists") from error
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "no regular file")
        raise UserError(f"{what} {path} is {kind}, not a file: remove or rename it")
    if found.st_size == 0:
        raise UserError(f"{what} {path} cannot be decoded: it is empty (0 bytes); copy it again or remove it")


@contextmanager
def _opened(path: Path) -> Iterator["Image"]:
    from PIL import Image, UnidentifiedImageError

    require_regular_file(path, "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warnings name no file; what matters becomes an error below
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # A stream, not the path: Pillow maps files of a path into memory, and TIFFs with their sides swapped then.
            with path.open("rb") as stream, Image.open(stream, formats=_formats()) as opened:
                yield opened
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"image {path} cannot be decoded: its content is no known image format; replace it") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = f"{Image.MAX_IMAGE_PIXELS or 0:,}"
        raise UserError(f"image {path} has more than {limit} pixels by its header: shrink or remove it") from error
    except PermissionError as error:
        raise UserError(f"image {path} cannot be read ({error.strerror})") from error
    except Exception as error:  # on damaged bytes Pillow's plugins raise all kinds: KeyError, struct.error, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"image {path} cannot be decoded: {reason}; copy it again or remove it") from error


def _eight_bits(image: "Image", path: Path | str) -> "Image":
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled(image, path).convert("RGB")
    if image.mode in ("RGBa", "La"):  # premultiplied
        image = image.convert(image.mode.upper())
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _scaled(image: "Image", path: Path | str) -> "Image":
    """An image of 16-bit, 32-bit or float values as 8-bit greyscale."""
    from PIL import Image

    values = np.asarray(image)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"image {path} holds values that are not finite: write it as 8 or 16 bits")
    white = _white(image, high)
    if white is None or low < white - OVERSHOOT * white:
        raise UserError(
            f"image {path} holds numbers from {low:g} to {high:g}, of which none is known to be white: write it as 8 "
            "or 16 bits"
        )
    if _tiff_tag(image, 262, 1) == 0:  # WhiteIsZero, which Pillow inverts for 8 bits alone
        values = values.dtype.type(white) - values
    if values.dtype.kind == "u" and white == 65535:
        table = ((np.arange(65536, dtype=np.int64) + 128) // 257).astype(np.uint8)
        return Image.fromarray(table[values])
    scaled = np.multiply(values, np.float32(255.0 / white), dtype=np.float32)
    return Image.fromarray(np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8))


def _white(image: "Image", high: float) -> float | None:
    """The value that is white: the format's where it has one, else the least usual one that ``high`` fits; or None."""
    if image.mode.startswith("I;") or (image.mode == "I" and image.format in ("PNG", "PPM", "JPEG2000")):
        return 2.0 ** min(16, _tiff_tag(image, 258, 16)) - 1
    if image.mode == "I" and _tiff_tag(image, 258, 32) == 16:  # signed 16 bits
        return 32767.0
    whites = WHITES if image.mode == "F" else WHITES[1:]
    return next((white for white in whites if high <= white * (OVERSHOOT if image.mode == "F" else 1.0)), None)


def _tiff_tag(image: "Image", tag: int, default: int) -> int:
    tags: Any = getattr(image, "tag_v2", None)
    value = default if tags is None else tags.get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _orientation(image: "Image") -> int:
    """EXIF orientation 1-8; 1, as stored, where the EXIF data are absent or cannot be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a damaged EXIF block leaves the picture whole
        return 1


def _turns() -> dict[int, Any]:
    """EXIF orientation -> the transposition that shows the image upright."""
    from PIL.Image import Transpose

    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
