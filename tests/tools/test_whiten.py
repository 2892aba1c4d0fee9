"""Whitening ahead of training: the command fits, finds what it fitted, and refuses what cannot be."""

import pytest

from distilplace.common.randomness import forked_random_state
from distilplace.models import create_model
from distilplace.models.checkpoints import save_weights
from distilplace.tools import whiten
from tests.miniature_images import numbered, write_images

PLACES = 24


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> list[str]:
    """An image set of 24 places, and a teacher of 16 numbers."""
    home = tmp_path_factory.mktemp("whiten")
    folder = write_images(home / "images", numbered(range(PLACES)), numbered(range(PLACES)))
    with forked_random_state("teacher"):
        teacher = create_model("mobilenetv3_small", output_dim=16, pretrained="none")
    save_weights(teacher, home / "teacher.safetensors", {})
    where = ["--dataset", "images", "--dataset_folder", str(folder), "--frame_tolerance", "0", "--logdir", str(home)]
    small = ["--image_size", "48x64", "--pretrained", "none", "--teacher_output_dim", "16", "--train_fraction", "0.5"]
    return [*where, *small, "--model", "mobilenetv3_small", "--teacher_weights_path", str(home / "teacher.safetensors")]


def test_it_fits_once_says_what_is_kept_and_finds_it_again(flags, capsys):
    for _ in range(2):
        assert whiten.main([*flags, "--whiten_dim", "4"]) == 0
        said = capsys.readouterr().out.splitlines()
        assert "mobilenetv3_small: 4 of 16 numbers keep " in said[-1]
        assert float(said[-1].split("keep ")[1].split(" %")[0]) <= 100
    assert not any("->" in line for line in said)  # read, not fitted


def test_what_cannot_be_whitened_is_one_line(flags, capsys):
    assert whiten.main(flags) == 2
    assert "give --whiten_dim" in capsys.readouterr().err
    assert whiten.main([*flags, "--whiten_dim", "17"]) == 2
    assert "--whiten_dim 17: the teacher's embeddings have 16 numbers" in capsys.readouterr().err
    assert whiten.main([*flags, "--whiten_dim", "4", "--model", "resnet18", "resnet34"]) == 2
    assert "1 files for 2 teachers" in capsys.readouterr().err
