"""``distilplace centre``: what cannot be centred is refused in one line, before any data set is opened.

What it writes is compared with ``train.py --centre`` in ``tests/commands/test_heads.py``.
"""

import pytest
from torch import nn

from distilplace import cli
from distilplace.models.checkpoints import save_weights
from tests.tools.export.conftest import card_of


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_weights(nn.Linear(1, 1), "student.safetensors", card_of("resnet18", {"output_dim": 8}, 8))
    save_weights(nn.Linear(1, 1), "pose.safetensors", card_of("resnet34pose", {}, 2048))
    save_weights(nn.Linear(1, 1), "bare.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(b"no weights at all")
    return tmp_path


@pytest.mark.parametrize(
    ("weights", "output", "told"),
    [
        ("student.safetensors", "centred.onnx", "-o centred.onnx: give another file, called .safetensors"),
        ("student.safetensors", "./student.safetensors", "-o student.safetensors: give another file"),
        ("pose.safetensors", "c.safetensors", "holds resnet34pose, which compares no embeddings: nothing to centre"),
        ("bare.safetensors", "c.safetensors", "does not say what it holds"),
        ("noise.safetensors", "c.safetensors", "noise.safetensors"),
        ("absent.safetensors", "c.safetensors", "weights file absent.safetensors does not exist"),
        (".", "c.safetensors", "weights file . is a folder"),
    ],
)
def test_what_cannot_be_centred_is_one_line(here, capsys, weights, output, told):
    before = sorted(here.iterdir())
    assert cli.main(["centre", weights, "-o", output]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line
    assert sorted(here.iterdir()) == before
