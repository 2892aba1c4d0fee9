"""Camera poses, landmarks and videos as whole runs of the one trainer, on miniature sets."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from distilplace import evaluate, train
from distilplace.engine.trainer import Trainer
from distilplace.models.checkpoints import read_state
from tests.miniature_landmarks import write_gldv2, write_revisited, write_svd
from tests.miniature_poses import write_cambridge

SHORT = ["--pretrained", "none", "--epochs", "1", "--train_batch_size", "4", "--erasing_aug_rate", "0"]
POSES = ["--image_size", "48x86", "--crop_size", "40", "--loss", "pose", "--dropout", "0"]


def run(logs: Path, name: str, *flags: str) -> Path:
    """Train; the run's folder."""
    assert train.main([*SHORT, "--logdir", str(logs), "--exp_name", name, *flags]) == 0
    return logs / name


def weights(folder: Path) -> str:
    return str(folder / "models" / "best.safetensors")


def logged(folder: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {name: value for line in lines for name, value in line.items()}


def numbers(folder: Path) -> dict[str, dict]:
    return json.loads((folder / "test.json").read_text())


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> list[str]:
    """Flags of a scene of twelve training and six test images."""
    folder = tmp_path_factory.mktemp("scenes") / "Square"
    write_cambridge(folder)
    return ["--dataset", "cambridge", "--dataset_folder", str(folder), *POSES]


@pytest.fixture(scope="module")
def pose_teacher(scene, tmp_path_factory) -> Iterator[Path]:
    """There is no smaller pose network: its files are removed where nobody reads them any more."""
    teach = ["--train_mode", "train_teacher", "--model", "resnet18pose", "--val_fraction", "0.3"]
    folder = run(tmp_path_factory.mktemp("pose_teacher"), "t", *scene, *teach)
    for path in (folder / "last.ckpt", folder / "models" / "last.safetensors"):
        path.unlink()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_pose_network_is_chosen_by_held_out_images_and_measured_in_metres(pose_teacher, scene):
    found = logged(pose_teacher)
    assert {"train/loss_position", "train/loss_orientation", "validation/median_metres"} <= set(found)
    (result,) = numbers(pose_teacher).values()
    assert result["images"] == 6
    assert 0 < result["median_metres"] < 1e4
    page = (pose_teacher / "report" / "index.html").read_text()
    assert "median m" in page
    assert "<img" in page


@pytest.mark.slow
def test_sckd_distils_as_its_readme_writes_it(scene, pose_teacher, tmp_path):
    flags = ["--T_model", "resnet18", "--T_path", weights(pose_teacher), "--student_model", "resnet18pose"]
    flags += ["-SCmodule", "3", "4", "-hintmodule", "5", "--SCKL", "--distil_method", "sckd", "--val_fraction", "0"]
    flags += ["--pretrained", "none", "--erasing_aug_rate", "0", "--niter", "1", "--batchSize", "6", "--lr", "0.002"]
    assert train.main([*scene, *flags, "--sc_pose_norm", "--logdir", str(tmp_path), "--name", "r18/Square"]) == 0
    folder = tmp_path / "r18" / "Square"
    found = logged(folder)
    assert {"train/loss_sckd_hint", "train/loss_sckd_sc"} <= set(found)
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert (saved["SCmodule"], saved["model"], saved["image_lr"]) == (["3", "4"], ["resnet18pose"], 0.002)
    assert evaluate.main(["--weights", weights(folder)]) == 0


def test_poses_ask_for_pose_networks_and_pose_sets(scene, tmp_path, capsys):
    for flags, part in (
        ([*scene, "--distil_method", "nokd", "--student_model", "resnet18"], "pose"),
        ([*scene, "--distil_method", "nokd", "--student_model", "resnet18pose", "--batches", "pairs"], "positive"),
        ([*scene, "--distil_method", "sckd", "--SCmodule", "9"], "9"),
    ):
        assert train.main([*SHORT, *flags, "--logdir", str(tmp_path)]) == 2
        assert part in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def landmarks(tmp_path_factory) -> list[str]:
    """Flags of landmarks to train on and of others that are tested."""
    folder = tmp_path_factory.mktemp("landmarks")
    write_gldv2(folder / "gldv2")
    write_revisited(folder)
    tested = ["--test_dataset", "roxford5k", "--test_folder", str(folder)]
    return ["--dataset", "gldv2", "--dataset_folder", str(folder / "gldv2"), *tested, "--crop_size", "40"]


@pytest.fixture(scope="module")
def landmark_teachers(landmarks, tmp_path_factory) -> list[str]:
    logs = tmp_path_factory.mktemp("landmark_teachers")
    teach = ["--train_mode", "train_teacher", "--teacher_output_dim", "16", "--batches", "groups", "--dry_run", "False"]
    return [weights(run(logs, name, *landmarks, *teach, "--model", name)) for name in ("resnet18_gem", "resnet18_dolg")]


PLAIN = ["--student_model", "resnet18_full", "--pool", "GeMFC", "--student_output_dim", "6", "--loss", "none"]
PLAIN += ["--distil_method", "whiten_mtd", "--teacher_output_dim", "16"]
WHITEN = [*PLAIN, "--whiten_dim", "6"]


@pytest.mark.slow
def test_whitened_teachers_teach_a_student_without_labels(landmarks, landmark_teachers, tmp_path):
    taught = ["--model", "resnet18_gem", "resnet18_dolg", "--teacher_weights_path", *landmark_teachers]
    folder = run(tmp_path, "s", *landmarks, *WHITEN, *taught)
    found = logged(folder)
    assert "train/loss_whiten_mtd" in found
    assert found["step"] == 2  # one pair of each of five landmarks, two a batch, no batch of one
    assert found["train/whiten_win_1"] + found["train/whiten_win_2"] == pytest.approx(1.0)
    assert len(list((tmp_path / "teacher_stores").glob("whitening-*.safetensors"))) == 2
    result = next(iter(numbers(folder).values()))
    assert {"easy", "medium", "hard"} <= set(result)
    assert set(result["asymmetric"]) == {"resnet18_gem", "resnet18_dolg"}
    for each in result["asymmetric"].values():
        assert each["absent"] == {}
        assert "mAP_medium" in each["centred"]["directions"]["student -> teacher"]
    assert (
        evaluate.main(["--weights", weights(folder), "--scales", "1", "0.7", "--query_crop", "--image_size", "64"]) == 0
    )
    again = run(tmp_path, "again", *landmarks, *WHITEN, *taught)
    plain = run(tmp_path, "plain", *landmarks, *PLAIN, *taught)
    one, other, raw = (read_state(Path(weights(each))) for each in (folder, again, plain))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert not all(torch.equal(value, raw[name]) for name, value in one.items())


@pytest.mark.slow
def test_a_store_cannot_stand_in_for_a_teacher_of_crops(landmarks, landmark_teachers, tmp_path, capsys):
    taught = ["--model", "resnet18_gem", "--teacher_weights_path", landmark_teachers[0], "--teacher_outputs", "store"]
    assert train.main([*SHORT, *landmarks, *WHITEN, *taught, "--logdir", str(tmp_path)]) == 2
    assert "--teacher_outputs" in capsys.readouterr().err


def test_landmarks_need_a_test_set_of_their_own(landmarks, tmp_path, capsys):
    alone = landmarks[:4]
    assert train.main([*SHORT, *alone, "--distil_method", "nokd", "--logdir", str(tmp_path)]) == 2
    assert "--test_dataset" in capsys.readouterr().err


@pytest.mark.slow
def test_videos_show_two_views_of_a_frame(tmp_path, monkeypatch):
    seen = []
    step = Trainer.forward

    def watch(self, batch):
        seen.append(batch)
        return step(self, batch)

    monkeypatch.setattr(Trainer, "forward", watch)
    videos = ["--dataset", "svd", "--dataset_folder", str(write_svd(tmp_path / "svd")), "--crop_size", "32"]
    teach = ["--train_mode", "train_teacher", "--model", "resnet18_gem", "--batches", "views", "--views", "landmarks"]
    teach += ["--image_size", "36x48"]
    folder = run(tmp_path, "t", *videos, *teach, "--teacher_output_dim", "16")
    for batch in seen:
        first, second = batch["pairs"].T
        assert torch.equal(batch["indices"][first], batch["indices"][second])
        assert not torch.equal(batch["images"][first], batch["images"][second])
    (result,) = numbers(folder).values()
    assert result["queries"] == 3
    assert 0 <= result["mAP"] <= 100
