"""NumPy files: what is whole reads as NumPy reads it, everything else is one line and takes no memory."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest

from distilplace.common.npy import load_npy, load_npz

HUGE = 10**12


def with_header(text: str, body: bytes = b"") -> bytes:
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def declared(shape: object, kind: str = "<f4") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}"


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(4, 3),
        np.asfortranarray(np.arange(12.0).reshape(4, 3)),
        np.arange(6, dtype=">i2"),
        np.array(["a.png", "b.png"]),
        np.float64(3.5),
        np.zeros((0, 3)),
        np.arange(8).reshape(2, 2, 2),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_whole_files_read_as_numpy_reads_them(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    found = load_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert found.flags.writeable


@pytest.mark.parametrize(
    "content",
    [
        with_header(declared((HUGE, 3)), bytes(1200)),
        with_header(declared((HUGE, 3), "<U0"), b""),
        with_header(declared((HUGE, 0)), b""),
        with_header(declared((0, HUGE)), b""),
        with_header(declared((-1, -300)), bytes(1200)),
        with_header(declared((100, 3)), bytes(1199)),
        with_header(declared((100, 3)), bytes(1201)),
        with_header(declared((100, 3), "|O"), bytes(2400)),
        with_header("(" * 100, b""),
        with_header("{'descr': __import__('os').mkdir('touched')}", b""),
        b"",
        b"words in a file",
        b"\x93NUMPY\x09\x00" + bytes(200),
    ],
    ids=range(13),
)
def test_a_header_that_does_not_fit_the_file_is_one_line(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"header|objects") as caught:
        load_npy(tmp_path / "a.npy")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "touched").exists()


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(ValueError, match="no regular file"):
        load_npy(tmp_path / "pipe.npy")


def test_archives_give_the_named_arrays(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", one=np.arange(3), other=np.zeros((2, 2)))
    other, one = load_npz(tmp_path / "a.npz", ("other", "one"))
    np.testing.assert_array_equal(one, np.arange(3))
    assert other.shape == (2, 2)
    with pytest.raises(KeyError, match="no array more"):
        load_npz(tmp_path / "a.npz", ("more",))


def test_an_archive_that_would_expand_without_end_is_refused(tmp_path):
    content = io.BytesIO()
    np.save(content, np.zeros(40 << 20, dtype=np.uint8))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.npy", content.getvalue())
    with pytest.raises(ValueError, match=r"bomb would take 41943\d+ bytes"):
        load_npz(tmp_path / "a.npz", ("bomb",))
