"""Runs of several processes end as those of one: every method's losses and weights, evaluations, a lost process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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
from tests.miniature_images import numbered, write_images
from tests.miniature_landmarks import write_gldv2, write_revisited
from tests.miniature_poses import write_cambridge
from tests.processes.forked import in_processes

pytestmark = pytest.mark.slow
Flags = list[str]
STEPS = 20
SHORT = ["--pretrained", "none", "--val_fraction", "0"]


def weights_of(folder: Path, name: str, **settings: object) -> str:
    """A checkpoint of a network with random weights, float32."""
    torch.manual_seed(len(name))
    return str(save_weights(create_model(name, pretrained="none", **settings), folder / f"{name}.safetensors"))


def oxford(folder: Path) -> Flags:
    world = make_oxford(folder / "oxford", submaps=8)
    teacher = weights_of(folder, "minklocmmcat")
    weights = [flag for kind in ("dist", "sim", "geodist") for flag in (f"--crosslogit{kind}loss_weight_st2ss", "0.1")]
    flags = [*world.flags, "--model", "minklocmmcat", "--teacher_weights_path", teacher, "--rkdgloss_weight", "1"]
    return [*flags, *weights, "--distil_method", "ours_rkdg", "--epochs", "10"]


def pictures(folder: Path) -> Flags:
    write_images(folder / "images", numbered(range(24)), numbered(range(24)))
    where = ["--dataset", "images", "--dataset_folder", str(folder / "images"), "--frame_tolerance", "0"]
    return [*where, "--train_fraction", "0.5", "--image_size", "48x64", "--pretrained", "none"]


def asht(folder: Path) -> Flags:
    teacher = weights_of(folder, "dsformer", output_dim=16)
    flags = [*pictures(folder), "--train_batch_size", "10", "--student_model", "dsformer", "--student_output_dim", "16"]
    flags += ["--teacher_output_dim", "16", "--loss", "RankingCrossEntropy", "--distil_method", "asht", "--epochs", "7"]
    return [*flags, "--model", "dsformer", "dsformer", "--teacher_weights_path", teacher, teacher]


def wakd(folder: Path) -> Flags:
    teacher = weights_of(folder, "resnet18netvlad", clusters=4)
    tuples = ["--tuple_size", "2", "--pos_num", "1", "--neg_num", "2", "--cache_size", "4", "--clusters", "4"]
    flags = [*pictures(folder), "--image_size", "96x96", *tuples, "--loss", "sare_joint", "--distil_method", "wakd"]
    flags += ["--model", "resnet18netvlad", "--teacher_weights_path", teacher, "--epochs", "4"]
    return [*flags, "--student_model", "mobilenetv3_smallnetvlad"]


def sckd(folder: Path) -> Flags:
    write_cambridge(folder / "Square")
    flags = ["--dataset", "cambridge", "--dataset_folder", str(folder / "Square"), "--image_size", "48x86"]
    flags += ["--crop_size", "40", "--loss", "pose", "--SCmodule", "3", "4", "--hintmodule", "5", "--SCKL"]
    flags += ["--distil_method", "sckd", "--train_batch_size", "5", "--epochs", "7", "--student_model", "resnet18pose"]
    return [*flags, "--model", "resnet18pose", "--teacher_weights_path", weights_of(folder, "resnet18pose")]


def whiten(folder: Path) -> Flags:
    write_gldv2(folder / "gldv2")
    write_revisited(folder)
    teacher = weights_of(folder, "resnet18_gem", output_dim=16)
    flags = ["--dataset", "gldv2", "--dataset_folder", str(folder / "gldv2"), "--test_dataset", "roxford5k"]
    flags += ["--test_folder", str(folder), "--crop_size", "40", "--loss", "none", "--distil_method", "whiten_mtd"]
    flags += ["--student_model", "resnet18_full", "--pool", "GeMFC", "--student_output_dim", "6", "--epochs", "10"]
    flags += ["--teacher_output_dim", "16", "--whiten_dim", "6", "--train_batch_size", "6"]
    return [*flags, "--model", "resnet18_gem", "--teacher_weights_path", teacher]


def crd(folder: Path) -> Flags:
    teacher = weights_of(folder, "mobilenet_v2", output_dim=16)
    flags = [*pictures(folder), "--train_batch_size", "10", "--student_model", "resnet18", "--student_output_dim", "16"]
    flags += ["--teacher_output_dim", "16", "--distil_method", "crd", "--crd_negatives", "8", "--epochs", "7"]
    return [*flags, "--model", "mobilenet_v2", "--teacher_weights_path", teacher]


METHODS: dict[str, Callable[[Path], Flags]] = {
    "ours_rkdg": oxford,
    "asht": asht,
    "wakd": wakd,
    "sckd": sckd,
    "whiten_mtd": whiten,
    "crd": crd,
}


def trained(flags: Flags, dtype: torch.dtype = torch.float64) -> int:
    """A run whose networks compute in ``dtype``: in float32, 20 steps of batch norm and Adam multiply roundings."""
    torch.set_default_dtype(dtype)
    return train.main(flags)


def logged(folder: Path, name: str = "train/loss") -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "models" / "last.safetensors")


@pytest.mark.parametrize("method", METHODS)
def test_one_two_and_four_processes_end_alike(method, tmp_path):
    flags = [*METHODS[method](tmp_path), *SHORT, "--erasing_aug_rate", "0"]
    for count in (1, 2, 4):
        where = ["--logdir", str(tmp_path / f"logs{count}"), "--exp_name", "run"]
        work = partial(trained, [*flags, *where])
        assert in_processes(count, work, tmp_path / f"{count}", connected=False) == [0] * count
    one, *others = (tmp_path / f"logs{count}" / "run" for count in (1, 2, 4))
    assert len(logged(one)) >= STEPS
    for other in others:
        torch.testing.assert_close(logged(other), logged(one), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(weights(other), weights(one), rtol=1e-5, atol=1e-5)


def test_evaluation_gives_the_same_digits(tmp_path):
    flags = pictures(tmp_path)
    student = weights_of(tmp_path, "resnet18", output_dim=16)
    flags += ["--weights", student, "--student_model", "resnet18", "--student_output_dim", "16"]
    for count in (1, 2, 3):
        where = ["--val_batch_size", "5", "--report", str(tmp_path / f"report{count}")]
        work = partial(evaluate.main, [*flags, *where])
        assert in_processes(count, work, tmp_path / f"{count}", connected=False) == [0] * count
    one, *others = (json.loads((tmp_path / f"report{count}" / "test.json").read_text()) for count in (1, 2, 3))
    for each in (one, *others):
        for row in each.values():
            del row["facts"]  # times
    assert all(other == one for other in others)


def torchrun(root: Path, flags: Flags) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["--max-restarts", "3", str(root / "train.py"), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ})


def test_a_lost_process_is_started_again_and_the_run_ends_alike(root, tmp_path):
    flags = [*oxford(tmp_path), *SHORT, "--save_every", "1", "--resume", "auto"]
    straight, killed = ([*flags, "--logdir", str(tmp_path / name), "--exp_name", "run"] for name in ("a", "b"))
    work = partial(trained, straight, torch.float32)
    assert in_processes(2, work, tmp_path / "work", connected=False) == [0, 0]
    process = torchrun(root, killed)
    metrics = tmp_path / "b" / "run" / "metrics.jsonl"
    while not metrics.is_file() or len(metrics.read_text().splitlines()) < 5:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    os.kill(children_of(process.pid)[-1], signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "resumed at epoch" in (tmp_path / "b" / "run" / "log.txt").read_text()
    assert logged(tmp_path / "b" / "run") == logged(tmp_path / "a" / "run")
    for name, value in weights(tmp_path / "a" / "run").items():
        assert torch.equal(weights(tmp_path / "b" / "run")[name], value), name


def test_a_mistake_is_one_line_of_all_processes(tmp_path):
    flags = [*oxford(tmp_path), *SHORT, "--logdir", str(tmp_path / "logs"), "--exp_name", "run"]
    images = sorted((tmp_path / "oxford").rglob("*.png"))
    for path in images[len(images) // 2 :]:
        path.write_bytes(b"no image")

    def work() -> object:
        try:
            return train.main(flags)
        except SystemExit as ended:
            return ended.code

    assert in_processes(2, work, tmp_path / "work", connected=False) == [2, 2]
    told = "".join((tmp_path / "work" / f"{rank}.txt").read_text() for rank in (0, 1))
    assert told.count("error: ") == 1
    assert "Traceback" not in told
    assert not (tmp_path / "logs" / "run").exists()
