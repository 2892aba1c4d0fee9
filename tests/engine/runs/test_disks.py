"""A disk that is full or read-only, or data that are gone, in mid-run: one line, the last checkpoint goes on."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distilplace.common.errors import UserError
from distilplace.engine.trainer import Trainer
from tests.engine.test_resume import same
from tests.engine.toy_run import before_step, options_of, run_toy

RESUMED = ["--resume", "auto", "--save_every", "1"]


def mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount {' '.join(words[:2])} is not allowed here: {done.stderr.strip()}")


@pytest.fixture
def mounted(tmp_path) -> Iterator[Callable[..., Path]]:
    """``mounted("-t", "tmpfs", ...)``: mounts on a folder of its own, or on the one named last; all go at the end."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    places: list[Path] = []

    def add(*words: str, on: Path = tmp_path / "disk") -> Path:
        on.mkdir(exist_ok=True)
        mount(*words, str(on))
        places.append(on)
        return on

    yield add
    for place in reversed(places):
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Trainer:
    folder = tmp_path_factory.mktemp("straight")
    return run_toy(options_of(folder), folder)


def stopped_by(options, folder: Path, step: int, act: Callable[[Trainer], None], capfd) -> str:
    """The one line that ends a run to which ``act`` is done before a step."""
    with pytest.raises(UserError) as caught:
        run_toy(options, folder, before_step(step, act))
    assert "Traceback" not in capfd.readouterr().err
    return str(caught.value)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, mounted, undisturbed, capfd):
    disk = mounted("-t", "tmpfs", "-o", "size=2m", "tmpfs")
    options = options_of(disk, *RESUMED)
    filler, folder = disk / "filler", disk / "logs" / "toy"

    def fill(trainer: Trainer) -> None:
        room = (folder / "last.ckpt").stat().st_size // 2
        filler.write_bytes(b"x" * (shutil.disk_usage(disk).free - room))

    said = stopped_by(options, disk, 5, fill, capfd)
    assert "cannot write" in said
    assert "No space left on device" in said
    assert sorted(path.name for path in folder.glob("*.ckpt")) == ["last.ckpt", "previous.ckpt"]
    filler.unlink()
    trainer = run_toy(options, disk)
    assert same(trainer, undisturbed)
    log = (folder / "log.txt").read_text()
    assert log.count("the disk is nearly full") == 1
    assert "goes on from previous" not in log


@pytest.mark.slow
def test_a_folder_that_becomes_read_only_leaves_the_last_checkpoint(tmp_path, mounted, undisturbed, capfd):
    options = options_of(tmp_path / "run", *RESUMED)
    folder = tmp_path / "run" / "logs" / "toy"

    def lock(_: Trainer) -> None:
        mounted("--bind", str(folder), on=folder)
        mount("-o", "remount,bind,ro", str(folder))

    said = stopped_by(options, tmp_path / "run", 5, lock, capfd)
    assert "Read-only file system; choose a folder that may be written to" in said
    with pytest.raises(UserError, match=r"cannot write .*\.lock: Read-only file system"):
        run_toy(options, tmp_path / "run")
    mount("-o", "remount,bind,rw", str(folder))
    assert same(run_toy(options, tmp_path / "run"), undisturbed)


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_data_that_are_gone_in_mid_epoch_are_one_line(tmp_path, undisturbed, capfd, workers):
    options = options_of(tmp_path / "run", *RESUMED, "--num_workers", workers)
    data, away = tmp_path / "run" / "data", tmp_path / "away"
    said = stopped_by(options, tmp_path / "run", 2, lambda _: data.rename(away), capfd)
    assert "image" in said
    assert f"{data}/" in said
    assert "does not exist" in said
    away.rename(data)
    assert same(run_toy(options, tmp_path / "run"), undisturbed)
