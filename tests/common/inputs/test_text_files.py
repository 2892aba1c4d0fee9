"""Text files: one reader for lists and tables, which names what a file is instead."""

import os

import pytest

from distilplace.common.errors import UserError
from distilplace.common.inputs.image_files import find_images
from distilplace.common.inputs.text_files import read_text
from distilplace.common.inputs.text_tables import read_table
from distilplace.datasets.readers.landmarks.revisited import read_distractors
from distilplace.datasets.readers.poses.lists import read_pose_csv, read_pose_list
from distilplace.datasets.readers.poses.seven_scenes import read_split
from distilplace.datasets.readers.vpr.patch_netvlad import read_names


def test_line_ends_and_a_byte_order_mark_are_passed_over(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffä\r\nb\rc\n\u2028d".encode())
    assert read_text(path) == "ä\nb\nc\n\u2028d"


def no_file(path):
    path.symlink_to("nowhere")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes("a\n".encode("utf-16")), "is UTF-16 text: save it as UTF-8"),
        (lambda path: path.write_bytes(b"caf\xe9"), "is not UTF-8 text"),
        (lambda path: path.write_bytes(b"a\0b"), "holds zero bytes"),
        (no_file, "does not exist"),
        (os.mkfifo, r"is a named pipe \(FIFO\), not a text file"),
        (os.mkdir, "is a folder, not a text file|Is a directory"),
    ],
)
@pytest.mark.parametrize(
    "read",
    [read_text, read_pose_list, read_pose_csv, lambda path: read_table(path, ("a",), ""), read_split, read_names],
)
def test_what_is_no_text_is_named(tmp_path, read, make, said):
    path = tmp_path / "list.txt"
    make(path)
    with pytest.raises(UserError, match=said) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("D_images_paths.txt", lambda folder: find_images(folder / "D").files),
        ("revisitop1m.txt", read_distractors),
    ],
)
def test_lists_beside_images_are_read_alike(tmp_path, name, read):
    (tmp_path / name).write_bytes(b"caf\xe9.jpg")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read(tmp_path)
