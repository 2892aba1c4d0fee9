"""Stores in whole runs: filled once, used again and said, filled again or refused when an input changed."""

import json
import shutil
from pathlib import Path

import pytest

from distilplace import train
from distilplace.common.randomness import forked_random_state
from distilplace.models import create_model
from distilplace.models.checkpoints import save_weights
from tests.miniature_images import numbered, write_images, write_picture

SMALL = ["--pretrained", "none", "--image_size", "48x64", "--train_batch_size", "8", "--epochs", "0"]


@pytest.fixture
def world(tmp_path) -> Path:
    """An image set of 24 places and a teacher of 16 numbers."""
    write_images(tmp_path / "images", numbered(range(24)), numbered(range(24)))
    with forked_random_state("teacher"):
        teacher = create_model("mobilenetv3_small", output_dim=16, pretrained="none")
    save_weights(teacher, tmp_path / "teacher.safetensors", {})
    return tmp_path


def run(world: Path, name: str, *flags: str) -> int:
    where = ["--dataset", "images", "--dataset_folder", str(world / "images"), "--frame_tolerance", "0", *SMALL]
    teacher = ["--model", "mobilenetv3_small", "--teacher_weights_path", str(world / "teacher.safetensors")]
    student = ["--student_model", "mobilenetv3_small", "--student_output_dim", "16", "--train_fraction", "0.5"]
    student += ["--distil_method", "rkdg", "--rkdgloss_weight", "1", "--logdir", str(world / "logs")]
    return train.main([*where, *teacher, *student, "--exp_name", name, *flags])


def stores(world: Path) -> list[Path]:
    return sorted((world / "logs" / "teacher_stores").iterdir())


@pytest.mark.slow
def test_stores_are_used_again_exactly_where_nothing_changed(world, capsys):
    assert run(world, "first") == 0
    (store,) = stores(world)
    shutil.move(world / "images", world / "elsewhere")
    assert run(world, "same", "--dataset_folder", str(world / "elsewhere"), "--val_batch_size", "7") == 0
    assert f"outputs read from {store}" in capsys.readouterr().out
    shutil.move(world / "elsewhere", world / "images")
    write_picture(world / "images" / "database" / "0003.png", 77)
    assert run(world, "changed") == 0
    assert f"{store} is of other 1 of " in capsys.readouterr().out
    assert len(stores(world)) == 2
    assert run(world, "raw", "--normalisation", "raw") == 0
    assert "normalisation (test frames), normalisation (training frames)" in capsys.readouterr().out
    assert len(stores(world)) == 3
    assert run(world, "named", "--teacher_store", str(store)) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: teacher store {store} was made from other 1 of ")
    assert "--rebuild_store" in error
    (store / "manifest.json").write_text("[]")
    assert run(world, "broken", "--teacher_store", str(store)) == 2
    assert "is damaged" in capsys.readouterr().err
    assert run(world, "rebuilt", "--teacher_store", str(store), "--rebuild_store") == 0
    assert isinstance(json.loads((store / "manifest.json").read_text()), dict)
