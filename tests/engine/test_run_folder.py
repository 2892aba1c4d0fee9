"""Run folders: free names, same options on resume, nothing left of a run that never learnt anything."""

from pathlib import Path

import pytest

from common.errors import UserError
from engine.command_line import parse
from engine.options import TrainOptions
from engine.run_folder import RunFolder


def options(folder: Path, *flags: str) -> TrainOptions:
    return parse(TrainOptions, ["--logdir", str(folder), *flags], home=folder, environment={})


def used(folder: RunFolder) -> RunFolder:
    folder.path.mkdir(parents=True)
    (folder.path / "last.ckpt").touch()
    return folder


def fail_in(chosen: TrainOptions) -> None:
    with RunFolder.open(chosen) as folder:
        folder.begin(chosen, "cpu")
        raise UserError("too bad")


def test_automatic_names_are_numbered_and_given_names_must_be_free(tmp_path):
    first = used(RunFolder.open(options(tmp_path)))
    second = used(RunFolder.open(options(tmp_path)))
    assert second.path.name == f"{first.path.name}-2"
    assert RunFolder.open(options(tmp_path)).path.name == f"{first.path.name}-3"
    assert RunFolder.open(options(tmp_path, "--resume", "auto")).path == first.path
    used(RunFolder.open(options(tmp_path, "--exp_name", "mine")))
    with pytest.raises(UserError, match="--resume auto"):
        RunFolder.open(options(tmp_path, "--exp_name", "mine"))


def test_a_mistake_before_the_first_checkpoint_leaves_nothing(tmp_path):
    chosen = options(tmp_path, "--exp_name", "mine")
    with pytest.raises(UserError, match="too bad"):
        fail_in(chosen)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_never_removes_what_was_there(tmp_path):
    chosen = options(tmp_path, "--exp_name", "mine", "--resume", "auto")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("keep me")
    with pytest.raises(UserError, match="too bad"):
        fail_in(chosen)
    assert (tmp_path / "mine" / "note.txt").read_text() == "keep me"
