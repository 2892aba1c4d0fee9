"""Three hundred damaged files over all readers: each is refused in one line, or read as what it is."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from tests.robustness import own_specimens, specimens

GROUPS = specimens.GROUPS | own_specimens.GROUPS

GIGABYTE = 2**20  # kilobytes
SLOW = 15.0  # seconds


def results(group, folder, root):
    """The outcome of every file, in order; a file that was begun and has none ended the process."""
    command = [sys.executable, "-m", "tests.robustness.reading", group, str(folder)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=500)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    ended = [line for line in lines if line["outcome"] != "begun"]
    begun = [line for line in lines if line["outcome"] == "begun"]
    assert done.returncode == 0, (begun[-1:], done.stderr[-3000:])
    assert len(begun) == len(ended)
    return ended


def faults(line, specimen):
    """What is wrong with one outcome, in words."""
    if line["outcome"] in ("traceback", "hang"):
        yield line["outcome"]
    if line["kilobytes"] > GIGABYTE / 2:
        yield "took half a gigabyte"
    if line["seconds"] > SLOW:
        yield "took long"
    if line["outcome"] == "refused" and ("\n" in line["message"] or len(line["message"]) > 700):
        yield "no one clear line"
    if line["outcome"] == "refused" and line["file"] not in line["message"]:
        yield "does not name the file"
    if line["outcome"] == "read" and (specimen.checked or line["mutation"] not in specimen.tolerates):
        yield "accepted silently"


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_damaged_files_are_refused_in_one_line(group, tmp_path, root):
    lines = results(group, tmp_path, root)
    bad = [(fault, line) for line in lines for fault in faults(line, GROUPS[group][line["file"]])]
    assert not bad, "\n".join(f"{fault}: {line}" for fault, line in bad)
    told = Counter(line["outcome"] for line in lines)
    assert told["refused"] > len(lines) / 3, told


def test_three_hundred_files():
    from tests.robustness.mutations import MUTATIONS, REPEATED

    count = sum(len(group) for group in GROUPS.values()) * (len(MUTATIONS) + len(REPEATED))
    assert count >= 300
