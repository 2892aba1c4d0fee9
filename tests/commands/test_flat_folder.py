"""ASHT-KD's ``--data_dir D`` with a flat folder of images: teacher and student by the recipes."""

import json

import pytest

from distilplace import train
from tests.miniature_images import numbered, write_picture


@pytest.mark.slow
def test_teacher_and_student_on_a_flat_folder(tmp_path, capsys):
    for name, place in numbered(list(range(60)), "{:06d}.jpg").items():
        write_picture(tmp_path / "D" / name, place, size=(64, 48))
    own = ["--data_dir", str(tmp_path / "D"), "--frame_tolerance", "2", "--logdir", str(tmp_path / "logs")]
    short = ["--image_size", "48x64", "--epochs", "1", "--train_batch_size", "8", "--val_batch_size", "8"]
    widths = ["--teacher_output_dim", "16"]
    teacher = [
        "--config",
        "asht_teacher_sequences",
        "--model",
        "dsformer",
        *widths,
        "--exp_name",
        "t",
    ]
    assert train.main([*teacher, *own, *short]) == 0
    weights = str(tmp_path / "logs" / "t" / "models" / "best.safetensors")
    student = ["--config", "recipes/asht_kd/asht_sequences.yaml", "--model", "dsformer", "dsformer", *widths]
    student += ["--student_output_dim", "16", "--teacher_weights_path", weights, weights, "--exp_name", "s"]
    assert train.main([*student, *own, *short]) == 0
    text = capsys.readouterr().out
    assert "flat folder: the first 30 train" in text
    assert "(buffer 2.9 frames)" in text
    assert len(json.loads((tmp_path / "logs" / "s" / "test.json").read_text())) == 3
