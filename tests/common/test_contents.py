"""Hashes of files' contents: equal for equal content, read once, and read again whenever a file may have changed."""

import hashlib
import os
import sqlite3
from pathlib import Path

import pytest

from distilplace.common import contents
from distilplace.common.contents import content_hashes
from distilplace.common.errors import UserError

HOUR_AGO = 1_700_000_000_000_000_000


@pytest.fixture
def memory(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DISTILPLACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "YOUNG", -(10**18))  # so that files of this second are remembered, too
    return tmp_path / "cache" / "contents.sqlite"


def expected(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def test_each_file_is_read_once_and_copies_are_equal(memory, tmp_path, monkeypatch):
    for name, content in (("a", b"one"), ("b", b"two"), ("copy", b"one")):
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in ("a", "b", "copy", "absent", "a")]
    found = content_hashes(paths)
    assert found == [expected(b"one"), expected(b"two"), expected(b"one"), "", expected(b"one")]
    monkeypatch.setattr(contents, "_digest", lambda path: pytest.fail(f"{path} was read again"))
    assert content_hashes(paths) == found


def test_other_content_of_the_same_size_and_time_is_seen(memory, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    os.utime(path, ns=(HOUR_AGO, HOUR_AGO))
    assert content_hashes([path]) == [expected(b"one")]
    path.write_bytes(b"two")
    os.utime(path, ns=(HOUR_AGO, HOUR_AGO))
    assert content_hashes([path]) == [expected(b"two")]
    other = tmp_path / "other"
    other.write_bytes(b"new")
    os.utime(other, ns=(HOUR_AGO, HOUR_AGO))
    other.replace(path)
    assert content_hashes([path]) == [expected(b"new")]


def test_a_file_of_this_very_moment_is_not_remembered(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "YOUNG", 2_000_000_000)
    (tmp_path / "a").write_bytes(b"one")
    content_hashes([tmp_path / "a"])
    with sqlite3.connect(memory) as table:
        assert table.execute("SELECT count(*) FROM contents").fetchone() == (0,)


@pytest.mark.parametrize("state", ["damaged", "folder", "nowhere"])
def test_without_a_usable_memory_it_works_all_the_same(memory, tmp_path, monkeypatch, state):
    (tmp_path / "a").write_bytes(b"one")
    if state == "nowhere":
        (tmp_path / "file").write_bytes(b"")
        monkeypatch.setenv("DISTILPLACE_CACHE", str(tmp_path / "file" / "cache"))
    else:
        memory.parent.mkdir()
        memory.mkdir() if state == "folder" else memory.write_bytes(b"no database" * 100)
    assert content_hashes([tmp_path / "a"]) == [expected(b"one")]


def test_what_is_no_regular_file_is_refused_and_not_waited_for(memory, tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UserError, match=r"pipe\.jpg is no regular file"):
        content_hashes([tmp_path / "pipe.jpg"])
    with pytest.raises(UserError, match="is no regular file"):
        content_hashes([tmp_path])
