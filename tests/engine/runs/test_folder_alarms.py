"""A disk that is nearly full is said once, before it is full; what made a step not finite is kept."""

import json
import shutil

import torch

from distilplace.common.console import start_console_log
from distilplace.common.tensor_files import read_tensors
from distilplace.engine.runs.folder_alarms import FolderAlarms


def test_a_disk_with_room_for_less_than_two_checkpoints_is_said_once(tmp_path, capsys):
    """A sparse file is as large as half of what is free, or a little less."""
    start_console_log()
    checkpoint = tmp_path / "last.ckpt"
    alarms = FolderAlarms(tmp_path)
    alarms.disk(checkpoint)  # there is none yet
    with checkpoint.open("wb") as stream:
        stream.truncate(shutil.disk_usage(tmp_path).free // 4)
    alarms.disk(checkpoint)
    assert capsys.readouterr().out == ""
    with checkpoint.open("wb") as stream:
        stream.truncate(shutil.disk_usage(tmp_path).free)
    alarms.disk(checkpoint)
    alarms.disk(checkpoint)
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith("warning: the disk is nearly full: ")
    assert f"MB are free at {tmp_path}, a checkpoint takes" in said


def test_the_first_batch_that_is_not_finite_is_kept_with_its_keys(tmp_path):
    rows = torch.arange(6)
    batch = {"keys": ["a", "b"], "images": torch.rand(2, 3, 4, 4), "one": rows[:3], "two": rows[3:], "previous": None}
    alarms, path = FolderAlarms(tmp_path), tmp_path / "nonfinite.safetensors"
    assert alarms.nonfinite(batch, 7, "loss_task") == f" (its batch is kept: {path})"
    assert alarms.nonfinite({"keys": ["c"]}, 8, "loss_task") == ""
    tensors, text = read_tensors(path)
    assert set(tensors) == {"images", "one", "two"}
    assert torch.equal(tensors["images"], batch["images"])
    assert (text["step"], text["not_finite"], json.loads(text["keys"])) == ("7", "loss_task", ["a", "b"])
