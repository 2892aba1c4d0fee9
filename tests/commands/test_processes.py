"""Runs as processes: signals from outside, kill -9 and its orphans, two at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from distilplace import train

pytestmark = pytest.mark.slow
LONG = ["--distil_method", "nokd", "--val_fraction", "0", "--epochs", "3", "--save_every", "1"]


def start(root: Path, flags: list[str], **rest) -> subprocess.Popen:
    command = [sys.executable, str(root / "train.py"), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **rest)


def wait_for(path: Path, process: subprocess.Popen, lines: int = 1) -> None:
    deadline = time.monotonic() + 120
    while not path.is_file() or len(path.read_text().splitlines()) < lines:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def flags_of(oxford, logs: Path, name: str, *more: str) -> list[str]:
    where = ["--logdir", str(logs), "--exp_name", name, "--resume", "auto"]
    return [*oxford.flags, *LONG, *where, *more]


def children_of(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == parent:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def same_weights(one: Path, other: Path) -> bool:
    mine, theirs = (load_file(folder / "models" / "last.safetensors") for folder in (one, other))
    return all(bool((value == theirs[name]).all()) for name, value in mine.items())


def test_killed_outright_its_workers_die_too_and_the_run_goes_on(root, oxford, tmp_path):
    assert train.main(flags_of(oxford, tmp_path, "straight")) == 0
    process = start(root, flags_of(oxford, tmp_path, "killed", "--num_workers", "2"))
    wait_for(tmp_path / "killed" / "metrics.jsonl", process, 3)
    workers = children_of(process.pid)
    assert len(workers) >= 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 3
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (tmp_path / "killed" / ".last.ckpt.abcdefgh.ckpt").write_text("half")
    assert train.main(flags_of(oxford, tmp_path, "killed", "--num_workers", "2")) == 0
    assert not list((tmp_path / "killed").rglob(".*"))
    assert same_weights(tmp_path / "straight", tmp_path / "killed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_saves_first(root, oxford, tmp_path, number):
    """As a terminal sends it: the workers get it too."""
    flags = flags_of(oxford, tmp_path, "stopped", "--num_workers", "2", "--save_every", "0")
    process = start(root, flags, start_new_session=True)
    wait_for(tmp_path / "stopped" / "metrics.jsonl", process, 2)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "--resume auto" in output
    assert train.main(flags) == 0
    assert "resumed at epoch 1, step" in (tmp_path / "stopped" / "log.txt").read_text()


def test_two_runs_of_one_name_at_once(root, oxford, tmp_path):
    first = start(root, flags_of(oxford, tmp_path, "one", "--epochs", "50"))
    wait_for(tmp_path / "one" / "metrics.jsonl", first)
    second = start(root, flags_of(oxford, tmp_path, "one", "--epochs", "50"))
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 2
    assert f"is in use by process {first.pid} on" in output.splitlines()[-1]
    assert "Traceback" not in output
    first.send_signal(signal.SIGINT)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 130, output
    assert "Traceback" not in output


def test_a_full_disk_is_one_line(root, oxford, tmp_path):
    """Files may not exceed 2 MB here, and the checkpoint does."""
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    process = start(root, flags_of(oxford, tmp_path, "full"), preexec_fn=limit)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert "error: cannot write" in output.splitlines()[-1]
    assert "File too large" in output.splitlines()[-1]
    assert "Traceback" not in output
    assert not list((tmp_path / "full").rglob(".*"))
    assert (tmp_path / "full" / "metrics.jsonl").is_file()


def test_a_process_that_ends_with_idle_workers_does_not_wait_for_them(root):
    program = (
        "import sys; from distilplace.datasets.workers import start_worker; from torch.utils.data import DataLoader\n"
        "loader = DataLoader(range(100), num_workers=2, worker_init_fn=start_worker, persistent_workers=True)\n"
        "batches = iter(loader); next(batches); sys.modules['kept'] = batches; print('ends')"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=root, timeout=60, capture_output=True, text=True, check=True)
    assert done.stdout == "ends\n"
