"""Users' mistakes: one clear line, exit code 2, nothing half-written. And what looks like a mistake but works."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from distilplace import evaluate, train
from distilplace.engine.options import TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.engine.runs.folder import RunFolder
from distilplace.models import create_model
from distilplace.tools import whiten
from tests.commands.conftest import make_oxford


@pytest.fixture
def data(oxford, tmp_path):
    """A copy of the miniature data set that a test may damage."""
    folder, images = tmp_path / "data", tmp_path / "images"
    shutil.copytree(oxford.folder, folder)
    shutil.copytree(oxford.images, images)
    flags = [*oxford.flags, "--dataset_folder", str(folder), "--image_path", str(images)]
    return flags, folder, images


def refused(flags, tmp_path, capsys, *parts, program=train):
    logs = tmp_path / "logs"
    where = ["--logdir", str(logs)] if program is train else []
    assert program.main([*flags, *where]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    line = error[-1]
    assert line.startswith("error: ")
    assert not any("Traceback" in text for text in error)
    for part in parts:
        assert str(part) in line
    assert [path for path in logs.rglob("*") if path.is_file()] == []


TEACHER = ["--train_mode", "train_teacher"]
ALONE = ["--distil_method", "nokd"]


def test_missing_folder(oxford, tmp_path, capsys):
    refused([*oxford.flags, "--dataset_folder", "/no/such"], tmp_path, capsys, "/no/such", "--dataset_folder")


def test_no_folder_at_all(tmp_path, capsys):
    refused(["--dataset", "oxford"], tmp_path, capsys, "--dataset_folder", "paths.yaml")


def test_a_pickle_with_a_foreign_class_is_named_and_not_run(data, tmp_path, capsys):
    flags, folder, _ = data

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "trapped",))

    (folder / "training_queries_baseline.pickle").write_bytes(pickle.dumps({0: Trap()}))
    refused([*flags, *ALONE], tmp_path, capsys, "training_queries_baseline.pickle", "pathlib")
    assert not (tmp_path / "trapped").exists()


def test_truncated_cloud(data, tmp_path, capsys):
    flags, folder, _ = data
    for cloud in folder.rglob("*.bin"):
        cloud.write_bytes(cloud.read_bytes()[:1000])
    refused([*flags, *TEACHER], tmp_path, capsys, ".bin", "1000 bytes", "98304")


def test_undecodable_image(data, tmp_path, capsys):
    flags, _, images = data
    for image in images.rglob("*.png"):
        image.write_bytes(image.read_bytes()[:60])
    refused([*flags, *ALONE], tmp_path, capsys, ".png", "decode")


def test_no_run_with_any_database_item(data, tmp_path, capsys):
    flags, folder, _ = data
    for name in ("database", "query"):
        path = folder / f"oxford_evaluation_{name}.pickle"
        path.write_bytes(pickle.dumps([{}, {}, {}]))
    refused([*flags, *ALONE], tmp_path, capsys, "no run has any database item")


UNKNOWN = "error: unknown option 'rkdgloss_wieght' in the command line; did you mean 'rkdgloss_weight'?\n"


def test_unknown_flag(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--rkdgloss_wieght", "1"]) == 2
    assert capsys.readouterr() == ("", UNKNOWN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # 5 s: all of the trainer is imported
def test_unknown_flag_as_a_user_sees_it(root, tmp_path):
    done = subprocess.run(
        [sys.executable, str(root / "train.py"), "--rkdgloss_wieght", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, UNKNOWN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"image_fe": "resnet34"}, ("architecture",)),
        ({"cloud_fe_dim": 64}, ("64", "128")),
        ({"cloud_planes": (32, 64, 128), "cloud_topdown": 0}, ("architecture",)),
    ],
)
def test_teacher_checkpoint_of_another_architecture(oxford, tmp_path, capsys, settings, parts):
    weights = tmp_path / "other.pth"
    torch.save(create_model("minklocmmcat", pretrained="none", **settings).state_dict(), weights)
    flags = [*oxford.flags, "--teacher_weights_path", str(weights), "--rkdgloss_weight", "1"]
    refused(flags, tmp_path, capsys, "other.pth", *parts)


def test_missing_and_malicious_teacher(oxford, tmp_path, capsys):
    flags = [*oxford.flags, "--rkdgloss_weight", "1", "--teacher_weights_path"]
    refused([*flags, "gone.pth"], tmp_path, capsys, "gone.pth", "--train_mode train_teacher")

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "trapped",))

    torch.save({"x": Trap()}, tmp_path / "evil.pth")
    refused([*flags, str(tmp_path / "evil.pth")], tmp_path, capsys, "evil.pth")
    assert not (tmp_path / "trapped").exists()


def test_unknown_names_offer_the_nearest(oxford, tmp_path, capsys):
    refused([*oxford.flags, *ALONE, "--student_model", "resnet81"], tmp_path, capsys, "resnet18")
    refused([*oxford.flags, "--distil_method", "our_rkdg"], tmp_path, capsys, "ours_rkdg")
    refused([*oxford.flags, *ALONE, "--loss", "Triplet"], tmp_path, capsys, "TripletMarginLoss")
    refused(["--dataset", "oxfrod"], tmp_path, capsys, "oxford")


def test_meaningless_distillation_is_refused_with_a_reason(oxford, tmp_path, capsys):
    refused(oxford.flags, tmp_path, capsys, "nokd")
    flags = [*oxford.flags, "--crosslogitsimloss_weight_st2ss", "0.1", "--crosslogitsimloss_type", "KLDiv"]
    refused(flags, tmp_path, capsys, "KLDiv")


def test_pretrained_weights_that_cannot_be_had_are_no_silent_random_start(oxford, tmp_path, capsys):
    refused([*oxford.flags, *ALONE, "--pretrained", "gone.pth"], tmp_path, capsys, "gone.pth")


@pytest.mark.slow
def test_a_foreign_checkpoint_is_not_resumed(oxford, tmp_path, capsys):
    run = tmp_path / "r"
    flags = [*oxford.flags, *ALONE, "--logdir", str(tmp_path), "--exp_name", "r", "--resume", "auto"]
    assert train.main([*flags, "--epochs", "0"]) == 0
    (run / "last.ckpt").write_bytes(b"not a checkpoint")
    assert train.main(flags) == 2
    assert "damaged" in capsys.readouterr().err
    assert (run / "last.ckpt").read_bytes() == b"not a checkpoint"


def test_a_rehearsal_is_refused_as_the_run_would_be(oxford, tmp_path, capsys):
    flags = [*oxford.flags, *ALONE, "--logdir", str(tmp_path), "--exp_name", "r", "--resume", "auto"]
    with RunFolder(tmp_path / "r") as run:
        run.begin(parse(TrainOptions, flags, home=tmp_path, environment={}), "cpu")
    for more in ([], ["--dry_run"]):
        assert train.main([*flags, "--margin", "0.4", *more]) == 2
        assert "was run with --margin" in capsys.readouterr().err
    assert train.main([*flags[:-2], "--dry_run"]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_what_several_processes_cannot_do_is_refused(oxford, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    refused([*oxford.flags, *ALONE, "--student_model", "x"], tmp_path, capsys, "unknown model 'x'")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused([*oxford.flags, *ALONE], tmp_path, capsys, "2 processes", "torchrun has not started them")
    refused([*oxford.flags, *ALONE, "--dry_run"], tmp_path, capsys, "--dry_run", "one process")
    refused(["--seed", "1"], tmp_path, capsys, "one of 2 processes", "without torchrun", program=whiten)


def test_evaluate_says_what_is_missing(oxford, tmp_path, capsys):
    torch.save(create_model("resnet18", pretrained="none").state_dict(), tmp_path / "w.pth")
    refused(
        ["--weights", "gone.pth", "--role", "student", *oxford.flags[:6]],
        tmp_path,
        capsys,
        "gone.pth",
        program=evaluate,
    )
    refused(
        ["--weights", str(tmp_path / "w.pth"), *oxford.flags[:6]], tmp_path, capsys, "--student_model", program=evaluate
    )
    refused([], tmp_path, capsys, "--weights", program=evaluate)


@pytest.mark.slow
def test_small_databases_and_pairs_without_questions_work(tmp_path, capsys):
    """Oddity 10. Databases of 12: k is 12, said once; pairs without an evaluated query are skipped and counted."""
    world = make_oxford(tmp_path, submaps=12)
    flags = [*world.flags, *ALONE, "--epochs", "0", "--logdir", str(tmp_path), "--exp_name", "small"]
    path = world.folder / "oxford_evaluation_query.pickle"
    from distilplace.datasets.io.pickles import load_pickle

    queries = load_pickle(path)
    for entry in queries[0].values():
        entry[1] = []
    path.write_bytes(pickle.dumps(queries))
    assert train.main(flags) == 0
    text = capsys.readouterr().out
    assert text.count("smaller than k = 25") == 1
    assert "1 run pairs skipped" in text
    assert np.isfinite(float(text.split("student resnet18 (nokd)")[1].split()[0]))
