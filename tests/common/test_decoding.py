"""Image files of every mode as 8-bit RGB, turned or not, and what is refused in one line."""

import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distilplace.common.decoding import ORIENTATION, decode_rgb, described_depth, image_size, image_suffixes
from distilplace.common.errors import UserError

GREY = np.random.default_rng(0).integers(0, 256, (12, 16), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8)
AS_RGB = np.repeat(GREY[..., None], 3, axis=2)


def saved(path: Path, image: Image.Image, **settings: object) -> np.ndarray:
    image.save(path, **settings)
    return np.asarray(decode_rgb(path))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm", ".jp2"])
def test_sixteen_bits_are_scaled_by_their_white(tmp_path, suffix):
    """255 -> 65535: every level comes back, where Pillow's own conversion makes all of them white."""
    image = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert (np.asarray(image.convert("RGB")) == 255).mean() > 0.9  # Pillow's: the fault
    assert np.array_equal(saved(tmp_path / f"i{suffix}", image), AS_RGB)


def test_sixteen_bits_are_rounded_to_the_nearest_level(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = saved(tmp_path / "i.png", Image.fromarray(values))[..., 0]
    assert np.array_equal(found, np.rint(values / 257.0))


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (GREY.astype(np.int32), 255),
        (GREY.astype(np.int32) * 257, 65535),
        (GREY.astype(np.float32), 255),
        (GREY.astype(np.float32) * 257, 65535),
        (GREY.astype(np.float32) / 255, 1),
        (np.clip(GREY / 255.0 * 1.06 - 0.03, -0.03, 1.03).astype(np.float32), 1),  # resampled: beyond black and white
    ],
)
def test_numbers_without_a_stated_white_take_the_least_that_holds_them(tmp_path, values, white):
    found = saved(tmp_path / "i.tif", Image.fromarray(values))[..., 0]
    assert np.abs(found - np.clip(np.rint(values * (255.0 / white)), 0, 255)).max() == 0


@pytest.mark.parametrize("values", [[0, 70000], [-9000, 60000], [0.0, 1e6], [np.nan, 1.0], [np.inf, 0.0]])
def test_numbers_that_fit_no_white_are_refused(tmp_path, values):
    kind = np.int32 if isinstance(values[1], int) else np.float32
    Image.fromarray(np.array([values], dtype=kind)).save(tmp_path / "i.tif")
    with pytest.raises(UserError, match=r"image .*i\.tif holds (numbers|values).*write it as 8 or 16 bits"):
        decode_rgb(tmp_path / "i.tif")


def test_colours_survive_every_mode(tmp_path):
    colour = Image.fromarray(COLOUR)
    with_alpha = Image.fromarray(np.dstack([COLOUR, GREY]))  # alpha 0 too: as ROS writes bgra8
    assert np.array_equal(saved(tmp_path / "rgba.png", with_alpha), COLOUR)
    assert np.array_equal(saved(tmp_path / "la.png", Image.fromarray(np.dstack([GREY, GREY]), "LA")), AS_RGB)
    assert np.array_equal(saved(tmp_path / "cmyk.tif", colour.convert("CMYK")), COLOUR)
    found = saved(tmp_path / "cmyk.jpg", Image.new("CMYK", (8, 8), (200, 20, 10, 0)), quality=95)
    assert np.abs(found.astype(int) - (55, 235, 245)).max() < 6
    bits = Image.fromarray(GREY > 127)
    assert np.array_equal(saved(tmp_path / "bits.png", bits), np.where(AS_RGB > 127, 255, 0))
    assert np.array_equal(saved(tmp_path / "bits.tif", bits), np.where(AS_RGB > 127, 255, 0))
    palette = colour.quantize(64)
    expected = np.asarray(palette.convert("RGB"))
    assert np.array_equal(saved(tmp_path / "p.png", palette), expected)
    assert np.array_equal(saved(tmp_path / "pt.png", palette, transparency=bytes(range(64))), expected)
    assert np.array_equal(saved(tmp_path / "p1.png", palette, transparency=3), expected)
    for suffix in (".bmp", ".tif", ".ppm", ".JPG", ".PNG"):
        found = saved(tmp_path / f"c{suffix}", colour, **({"quality": 100} if suffix == ".JPG" else {}))
        assert np.array_equal(found, COLOUR) or suffix == ".JPG"
    assert np.array_equal(saved(tmp_path / "c.webp", colour, lossless=True), COLOUR)


TURNS = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
RGB_MODES = ("RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "YCbCr")


def of_mode(mode: str) -> Image.Image:
    if mode in RGB_MODES:
        return Image.fromarray(COLOUR).convert(mode)
    deep = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4", "F": "<f4"}[mode]
    return Image.frombytes(mode, (16, 12), (GREY.astype(deep) * 257).astype(deep).tobytes())


@pytest.mark.parametrize(
    ("suffix", "modes", "settings"),
    [
        (".png", ("RGB", "L", "P", "1", "RGBA", "LA", "I;16"), {}),
        (".jpg", ("RGB", "L", "CMYK"), {}),
        (".webp", ("RGB", "RGBA"), {"lossless": True}),
        (".avif", ("RGB",), {}),
        (".tif", (*RGB_MODES, "I;16", "I;16B", "I", "F"), {}),
        (".tif", (*RGB_MODES, "I;16", "I", "F"), {"compression": "tiff_lzw"}),
    ],
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_only_when_asked(tmp_path, suffix, modes, settings, orientation):
    """Pillow turns TIFFs by itself, but not those that it maps into memory: grey ones without compression."""
    if suffix not in image_suffixes():
        pytest.skip(f"this Pillow has no {suffix}")
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for mode in modes:
        plain, path = tmp_path / f"plain{suffix}", tmp_path / f"{mode[0]}{len(mode)}{suffix}"
        of_mode(mode).save(plain, **settings)
        of_mode(mode).save(path, exif=exif, **settings)
        stored = np.asarray(decode_rgb(plain))
        shown = TURNS[orientation](stored)
        assert np.array_equal(np.asarray(decode_rgb(path, upright=True)), shown), mode
        assert image_size(path, upright=True) == shown.shape[1::-1], mode
        if suffix != ".avif":  # its rotation belongs to the container
            assert np.array_equal(np.asarray(decode_rgb(path)), stored), mode
            assert image_size(path) == (16, 12), mode


def _tiff(values: np.ndarray, photometric: int) -> bytes:
    """The smallest baseline TIFF of uint16 greyscale, in the byte order of ``values``."""
    height, width = values.shape
    order = ">" if values.dtype.byteorder == ">" else "<"
    tags = [(256, width), (257, height), (258, 16), (259, 1), (262, photometric), (273, 0), (277, 1), (278, height)]
    tags += [(279, values.nbytes)]
    start = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack(f"{order}HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags]
    head = struct.pack(f"{order}HIH", 42, 8, len(tags))
    return (b"MM" if order == ">" else b"II") + head + b"".join(entries) + b"\0" * 4 + values.tobytes()


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bits_whose_white_is_zero_are_inverted(tmp_path, photometric, order):
    values = (GREY.astype(np.uint16) * 257).astype(order)
    content = values if photometric else (65535 - values).astype(order)
    (tmp_path / "i.tif").write_bytes(_tiff(content, photometric))
    assert np.array_equal(np.asarray(decode_rgb(tmp_path / "i.tif")), AS_RGB)
    said = f"values ({content.min():g} to {content.max():g}) are scaled to 8 bits by their kind's white"
    assert described_depth(tmp_path / "i.tif").text.startswith(said)


@pytest.mark.parametrize(("bits", "factor"), [(10, 64), (12, 16), (16, None)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_numbers_of_fewer_bits_than_their_file_are_told_with_the_remedy(tmp_path, bits, factor, suffix):
    values = np.linspace(0, 2**bits - 1, 192).astype(np.uint16).reshape(12, 16)
    Image.fromarray(values).save(tmp_path / f"i{suffix}")
    said, dark = described_depth(tmp_path / f"i{suffix}")
    assert dark == bool(factor)
    assert (f"nearly black: if they are numbers of {bits} bits, multiply them by {factor} or" in said) == bool(factor)


def test_deep_colours_of_fewer_bits_than_their_file_are_told(tmp_path):
    for high, said in ((65535, None), (4095, "which makes them nearly black")):
        values = np.linspace(0, high, 12 * 16 * 3).astype(">u2").reshape(12, 16, 3)
        (tmp_path / "i.png").write_bytes(_png(16, 12, 16, b"".join(b"\0" + row.tobytes() for row in values)))
        lost = described_depth(tmp_path / "i.png")
        assert (lost is None) == (said is None)
        assert lost is None or (lost.dark and lost.text.startswith(said))


def test_a_damaged_exif_block_leaves_the_picture(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "i.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f", quality=95)
    assert decode_rgb(tmp_path / "i.jpg", upright=True).size == (16, 12)


def _png(width: int, height: int, bits: int, rows: bytes) -> bytes:
    """An RGB PNG of the least chunks; ``rows`` need not be as many as it claims."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _photo() -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(COLOUR).resize((160, 120)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"a text called image\n" * 20, "no known image format"),
        (_photo()[:600], "cannot be decoded"),
        (_photo()[:-900], "truncated"),
        (_png(12000, 12000, 8, bytes(100)), "more than 89,478,485 pixels"),
        (_png(60000, 60000, 8, bytes(100)), "more than 89,478,485 pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "no known image format"),
        (b"II*\0\x08\0\0\0\xff\xff" + bytes(range(256)), "cannot be decoded"),
    ],
)
def test_what_is_no_image_is_refused_by_name(tmp_path, content, said, recwarn):
    """EPS among them: Pillow would start Ghostscript for it."""
    path = tmp_path / "frame.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        decode_rgb(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not recwarn.list


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["FIFO", "socket", "folder", "device", "does not exist", "link to nothing"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path, kind):
    path = tmp_path / "frame.jpg"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        address = tmp_path / "s"
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(os.path.relpath(address))
        address.rename(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "link to nothing":
        path.symlink_to(tmp_path / "absent")
    with pytest.raises(UserError, match=kind if not kind.startswith("link") else "does not exist"):
        decode_rgb(path)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_end_in_one_line_or_a_picture(tmp_path, seed):
    """Bytes changed and cut: never another error (AVIF's plugin raises RuntimeError)."""
    random = np.random.default_rng(seed)
    for suffix in sorted({".jpg", ".png", ".webp", ".bmp", ".tif", ".pgm", ".gif", ".avif"} & set(image_suffixes())):
        whole = tmp_path / f"whole{suffix}"
        Image.fromarray(GREY if suffix == ".pgm" else COLOUR).save(whole)
        for _ in range(25):
            content = bytearray(whole.read_bytes())
            for place in random.integers(0, min(len(content), 200), random.integers(1, 6)):
                content[place] = random.integers(256)
            path = tmp_path / f"mutated{suffix}"
            path.write_bytes(content[: random.integers(1, len(content) + 1)] if random.random() < 0.3 else content)
            said = _outcome(path)
            assert said == "RGB" or (str(path) in said and "\n" not in said)


def _outcome(path: Path) -> str:
    """The mode of the picture, or the line of its refusal."""
    try:
        return decode_rgb(path, upright=True).mode
    except UserError as error:
        return str(error)
