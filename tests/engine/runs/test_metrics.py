"""``metrics.jsonl`` goes on where the checkpoint knew it; a flipped bit in it is one line, said once."""

import json
from pathlib import Path

import pytest

from distilplace.common.console import start_console_log
from distilplace.engine.runs.metrics import Metrics


@pytest.fixture(autouse=True)
def without_tensorboard(monkeypatch):
    """Its events are tried in tests/engine/test_resume.py."""
    monkeypatch.setattr(Metrics, "_add", lambda *_: None)


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def written(folder: Path) -> dict:
    """Three steps, of which a checkpoint knows two; its state."""
    metrics = Metrics(folder)
    metrics.write(1, {"train/loss": 0.5})
    metrics.write(2, {"train/loss": float("nan")})
    state = metrics.state_dict()
    metrics.write(2, {"validation/recall@1": 0.25})
    metrics.write(3, {"train/loss": 0.125})
    return state


def resumed(folder: Path, state: dict) -> Metrics:
    start_console_log()
    metrics = Metrics(folder)
    metrics.load_state_dict(state)
    metrics.rewind(2, inside_epoch=True)
    return metrics


def test_what_came_after_the_checkpoint_is_forgotten(tmp_path, capsys):
    before = written(tmp_path)
    metrics = resumed(tmp_path, before)
    assert steps(tmp_path) == [1, 2]
    assert metrics.state_dict() == before
    metrics.write(3, {"train/loss": 0.125})
    resumed(tmp_path, metrics.state_dict())
    assert steps(tmp_path) == [1, 2, 3]
    assert capsys.readouterr().out == ""


def test_every_flipped_bit_that_the_checkpoint_knows_is_said_once(tmp_path, capsys):
    state = written(tmp_path)
    path = tmp_path / "metrics.jsonl"
    content = path.read_bytes()
    for place in range(0, state["size"], 5):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        metrics = resumed(tmp_path, state)
        (said,) = capsys.readouterr().out.splitlines()
        assert f"warning: {path} is damaged" in said
        resumed(tmp_path, metrics.state_dict())
        assert capsys.readouterr().out == ""
    path.write_bytes(content.replace(b"0.5", b"0.5\xff"))
    resumed(tmp_path, state)
    assert "the 1 lines up to step 2" in capsys.readouterr().out
    assert steps(tmp_path) == [2]


@pytest.mark.parametrize("act", [Path.unlink, lambda path: path.write_text("")])
def test_a_file_that_is_gone_is_said_too(tmp_path, capsys, act):
    state = written(tmp_path)
    act(tmp_path / "metrics.jsonl")
    resumed(tmp_path, state)
    assert "metrics.jsonl is gone: the 0 lines" in capsys.readouterr().out


def test_a_run_without_numbers_yet(tmp_path, capsys):
    state = Metrics(tmp_path).state_dict()
    resumed(tmp_path, state)
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
