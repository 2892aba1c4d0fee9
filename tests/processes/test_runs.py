"""Commands of several processes: a run with clouds and a teacher store, evaluations, a lost process, a mistake."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distilplace import evaluate, train
from distilplace.models import create_model
from distilplace.models.checkpoints import save_weights
from tests.commands.conftest import make_oxford
from tests.commands.test_processes import children_of
from tests.processes.forked import in_processes

pytestmark = pytest.mark.slow
Flags = list[str]
RELATIONS = [flag for kind in ("dist", "sim", "geodist") for flag in (f"--crosslogit{kind}loss_weight_st2ss", "0.1")]


def weights_of(folder: Path, name: str) -> str:
    """A checkpoint of a network with random weights."""
    torch.manual_seed(len(name))
    return str(save_weights(create_model(name, pretrained="none"), folder / f"{name}.safetensors"))


@pytest.fixture(scope="module")
def distilvpr(tmp_path_factory) -> Flags:
    """A short run of the published command; no learning rate at which Adam multiplies roundings of float32."""
    folder = tmp_path_factory.mktemp("distilvpr")
    flags = [
        *make_oxford(folder / "oxford", submaps=8).flags,
        "--teacher_weights_path",
        weights_of(folder, "minklocmmcat"),
    ]
    flags += ["--model", "minklocmmcat", "--distil_method", "ours_rkdg", "--rkdgloss_weight", "1", *RELATIONS]
    return [*flags, "--val_fraction", "0", "--erasing_aug_rate", "0", "--adam_eps", "1"]


def logged(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "models" / "last.safetensors")


def numbers(folder: Path) -> dict[str, dict]:
    """All of ``test.json`` but times."""
    rows = json.loads((folder / "test.json").read_text())
    return {name: {key: value for key, value in row.items() if key != "facts"} for name, row in rows.items()}


def commands(count: int, main, flags: Flags, folder: Path) -> None:
    assert in_processes(count, partial(main, flags), folder, connected=False) == [0] * count


def test_a_run_with_a_teacher_store_ends_as_in_one_process_and_is_evaluated_to_the_digit(distilvpr, tmp_path):
    for count in (1, 2):
        where = ["--logdir", str(tmp_path / f"logs{count}"), "--exp_name", "run"]
        commands(count, train.main, [*distilvpr, *where], tmp_path / f"{count}")
    one, two = tmp_path / "logs1" / "run", tmp_path / "logs2" / "run"
    torch.testing.assert_close(logged(two), logged(one), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weights(two), weights(one), rtol=1e-4, atol=1e-5)
    best = ["--weights", str(one / "models" / "best.safetensors"), "--val_batch_size", "5", "--predictions", "csv"]
    for count in (1, 2):
        report = str(tmp_path / f"report{count}")
        commands(count, evaluate.main, [*best, "--report", report], tmp_path / f"evaluated{count}")
    assert numbers(tmp_path / "report1") == numbers(tmp_path / "report2")
    listed = [(tmp_path / f"report{count}" / "predictions.csv").read_text() for count in (1, 2)]
    assert listed[0] == listed[1]


def torchrun(root: Path, flags: Flags) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["--max-restarts", "3", str(root / "train.py"), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_lost_process_is_started_again_and_the_run_ends_alike(root, distilvpr, tmp_path):
    flags = [*distilvpr, "--save_every", "1", "--resume", "auto", "--exp_name", "run"]
    commands(2, train.main, [*flags, "--logdir", str(tmp_path / "a")], tmp_path / "work")
    process = torchrun(root, [*flags, "--logdir", str(tmp_path / "b")])
    straight, lost = tmp_path / "a" / "run", tmp_path / "b" / "run"
    while not (lost / "metrics.jsonl").is_file() or len(logged(lost)) < 2:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    os.kill(children_of(process.pid)[-1], signal.SIGKILL)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "resumed at epoch" in (lost / "log.txt").read_text()
    assert logged(lost) == logged(straight)
    for name, value in weights(straight).items():
        assert torch.equal(weights(lost)[name], value), name


def test_a_mistake_of_one_process_is_one_line_and_leaves_nothing(distilvpr, tmp_path):
    """Images are damaged, which the process that embeds them for the teacher store meets."""
    world = make_oxford(tmp_path / "oxford", submaps=8)
    for path in sorted(world.images.rglob("*.png"))[::2]:
        path.write_bytes(b"no image")
    where = [
        "--dataset_folder",
        str(world.folder),
        "--image_path",
        str(world.images),
        "--logdir",
        str(tmp_path / "logs"),
    ]

    def work() -> object:
        try:
            return train.main([*distilvpr, *where, "--exp_name", "run"])
        except SystemExit as ended:
            return ended.code

    assert in_processes(2, work, tmp_path / "work", connected=False) == [2, 2]
    told = "".join((tmp_path / "work" / f"{rank}.txt").read_text() for rank in (0, 1))
    assert told.count("error: ") == 1
    assert "Traceback" not in told
    assert not (tmp_path / "logs" / "run").exists()
