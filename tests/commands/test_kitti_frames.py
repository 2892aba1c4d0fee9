"""The real KITTI frames beside the repository: teacher trained, student distilled and tested on unseen sections."""

import json

import pytest

from distilplace import train

RADII = ["--positive_radius", "3", "--negative_radius", "10", "--eval_radius", "5"]


@pytest.mark.slow
def test_teacher_and_student_on_real_drives(real_data, tmp_path, capsys):
    flags = ["--dataset", "frames", "--dataset_folder", str(real_data("kitti_frames")), *RADII]
    flags += ["--pretrained", "none", "--train_batch_size", "16", "--image_lr", "0.001", "--logdir", str(tmp_path)]
    assert train.main([*flags, "--train_mode", "train_teacher", "--exp_name", "t", "--epochs", "3"]) == 0
    weights = str(tmp_path / "t" / "models" / "best.safetensors")
    taught = ["--teacher_weights_path", weights, "--rkdgloss_weight", "1", "--crosslogitsimloss_weight_tt2st", "1"]
    assert train.main([*flags, *taught, "--exp_name", "s", "--epochs", "5"]) == 0
    text = capsys.readouterr().out
    assert "training frames keep" in text
    assert "chance" in text
    student, teacher = json.loads((tmp_path / "s" / "test.json").read_text()).values()
    assert student["recall"]["1"] > 2 * student["chance"]["1"]
    assert teacher["recall"]["1"] > 2 * teacher["chance"]["1"]
