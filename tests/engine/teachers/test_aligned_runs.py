"""Whole runs of the terms that compare embeddings one by one: stored, shuffled and live teachers, resumed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.commands.test_caches import run, world

__all__ = ["world"]
TERMS = ["--kd", "align:1", "--kd", "aml:1", "--kd", "csd_bank:1", "--epochs", "2"]


def weights(world: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(world / "logs" / name / "models" / "last.safetensors")


@pytest.mark.slow  # 60 s
def test_stored_shuffled_and_live_teachers_hand_on_aligned_embeddings(world, capsys):
    assert run(world, "stored", *TERMS) == 0
    said = capsys.readouterr().out
    assert "embeddings are compared in its centred space of 16 numbers" in said
    assert "expect chance" not in said
    numbers = (world / "logs" / "stored" / "metrics.jsonl").read_text()
    assert all(f"train/loss_{name}" in numbers for name in ("align", "aml", "csd_bank"))

    assert run(world, "halves", *TERMS[:-1], "1") == 0
    assert run(world, "halves", *TERMS, "--resume", "auto") == 0
    whole, halves = weights(world, "stored"), weights(world, "halves")
    assert all(torch.equal(whole[name], halves[name]) for name in whole)

    assert run(world, "shuffled", *TERMS, "--shuffle_teacher") == 0
    shuffled = weights(world, "shuffled")
    assert any(not torch.equal(whole[name], shuffled[name]) for name in whole)

    live = ["--teacher_outputs", "live", *TERMS, "--align_space", "whitened", "--align_dim", "8"]
    live += ["--teacher_output_dim", "16", "--student_output_dim", "8"]
    assert run(world, "live", *live) == 0
    assert "training outputs of mobilenetv3_small -> " in capsys.readouterr().out
    assert run(world, "again", *live) == 0
    assert "training outputs of mobilenetv3_small: read from " in capsys.readouterr().out
    first, second = weights(world, "live"), weights(world, "again")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow  # 10 s
def test_relations_alone_are_said_to_leave_the_teachers_map_to_chance(world, capsys):
    assert run(world, "relations") == 0
    assert "only relations are distilled" in capsys.readouterr().out
    assert run(world, "width", "--kd", "align:1", "--teacher_output_dim", "16", "--student_output_dim", "8") == 2
    assert "--student_output_dim 16, or --embedding_head linear" in capsys.readouterr().err
