"""Writing that fails says so in one line; what a killed writer left goes, what is still being written stays."""

import errno
import os
import resource
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path, remove_leftovers

MANY = {"x": torch.zeros(100_000)}


@pytest.fixture
def small_files():
    """Files of this process may not exceed 10 kB: what a full disk looks like to a writer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def by_torch(path):
    with path.open("wb") as stream:
        torch.save(MANY, stream)


WRITERS = {
    "bytes": lambda path: path.write_bytes(b"x" * 100_000),
    "torch": by_torch,
    "safetensors": lambda path: save_file(MANY, path),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_a_disk_that_is_full_is_one_line_and_nothing_half_written_stays(tmp_path, small_files, write):
    target = tmp_path / "whole.bin"
    target.write_bytes(b"old")
    with (
        pytest.raises(UserError, match=rf"cannot write {target}: File too large; .*ulimit -f"),
        atomic_path(target) as path,
    ):
        write(path)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_other_mistakes_inside_are_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x"):
        (tmp_path / "absent").read_text()
    with pytest.raises(TimeoutError), atomic_path(tmp_path / "x"):
        raise TimeoutError(errno.ETIMEDOUT, "the network")


def test_a_folder_that_cannot_be_made_or_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/x: "), atomic_path(tmp_path / "file" / "x"):
        pass

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(UserError, match=r"Read-only file system; choose a folder"), atomic_path(tmp_path / "x"):
        pass


def test_leftovers_of_dead_writers_go_and_those_of_living_ones_stay(tmp_path):
    program = (
        "import os, sys; from pathlib import Path; from distilplace.common.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as path:\n"
        "    path.write_text('half'); os._exit(9)"
    )
    (tmp_path / "models").mkdir()
    for target in ("last.ckpt", "models/best.safetensors", "no_suffix"):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / target)], check=False)
    users = [tmp_path / name for name in (".gitignore", ".hidden.abcdefgh.txt", ".lock", "last.ckpt.abcdefgh.ckpt")]
    for path in users:
        path.write_text("mine")
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path not in users]
    assert len(left) == 3
    with atomic_path(tmp_path / "config.yaml") as living:
        assert sorted(remove_leftovers(tmp_path)) == sorted(left)
        assert living.exists()
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted([*users, tmp_path / "config.yaml"])
    assert remove_leftovers(tmp_path / "absent") == []
