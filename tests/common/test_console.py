"""Standard output that takes nothing: one line and an error; a reader that left: silence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distilplace.common.console import LOG
from distilplace.engine.program import exit_code


def say() -> None:
    for number in range(3):
        LOG.info("line %d", number)
    print("and more")


@pytest.mark.parametrize("work", [say, lambda: print("a table")])
def test_a_full_disk_under_standard_output_is_one_line(monkeypatch, capsys, work):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert exit_code(work) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: cannot write standard output: No space left on device; ")


def test_a_reader_that_left_is_no_mistake(monkeypatch, capsys):
    done = []
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert exit_code(lambda: done.append(say())) == 0
    assert len(done) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_whole_command_on_a_full_disk(root):
    command = [
        sys.executable,
        str(root / "train.py"),
        "--dataset",
        "demo",
        "--distil_method",
        "nokd",
        "--resume",
        "auto",
    ]
    with Path("/dev/full").open("w") as full:
        flags = ["--dry_run", "--pretrained", "none", "--student_output_dim", "8"]
        done = subprocess.run([*command, *flags], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: cannot write standard output")
