"""``last.ckpt`` is whole, of this run, and what it was when it was written; anything else is one line."""

import pytest
import torch
from torch import nn

from distilplace.common.console import start_console_log
from distilplace.common.errors import UserError
from distilplace.engine.runs.checkpoint import _sign, load_checkpoint, save_checkpoint


def parts() -> dict[str, object]:
    network = nn.Linear(3, 3)
    return {"network": network, "optimizer": torch.optim.Adam(network.parameters())}


def written(folder):
    path = folder / "last.ckpt"
    save_checkpoint(path, parts(), {"epoch": 3})
    return path


def refused(path, match):
    with pytest.raises(UserError, match=match) as caught:
        load_checkpoint(path, parts())
    assert f"remove {path} to start this run over" in str(caught.value)


def test_what_is_written_is_read_and_pytorch_reads_it_too(tmp_path):
    path = written(tmp_path)
    assert load_checkpoint(path, parts()) == {"epoch": 3}
    assert set(torch.load(path, weights_only=True)) == {"version", "progress", "parts"}


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path):
    path = written(tmp_path)
    content = path.read_bytes()
    places = [*range(0, len(content), len(content) // 60), *range(len(content) - 100, len(content))]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        refused(path, "damaged")
    for length in (0, 1, 50, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        refused(path, "damaged")
    path.write_bytes(content + b"x")
    refused(path, "damaged")


def crafted(path, content):
    torch.save(content, path)
    _sign(path)
    return path


KINDS = [
    ([1, 2], "not written by this version"),
    ({"version": 1, "parts": {}, "progress": {}}, "not written by this version"),
    ({"version": 3, "progress": {}}, "incomplete"),
    ({"version": 3, "parts": {}}, "incomplete"),
    ({"version": 3, "parts": [], "progress": {}}, "incomplete"),
    ({"version": 3, "parts": {}, "progress": 3}, "incomplete"),
    ({"version": 3, "parts": {"network": {}}, "progress": {}}, r"other parts .*optimizer"),
    ({"version": 3, "parts": {"network": {}, "optimizer": {}, 5: {}}, "progress": {}}, r"other parts .*5"),
    ({"version": 3, "parts": {"network": {}, "optimizer": {}}, "progress": {}}, r"does not fit this run \(network: "),
    ({"version": 3, "parts": {"network": 7, "optimizer": {}}, "progress": {}}, r"does not fit this run \(network: "),
    ({"version": 3, "parts": {"network": None, "optimizer": {}}, "progress": {}}, r"does not fit this run \(network"),
]


@pytest.mark.parametrize(("content", "match"), KINDS)
def test_parts_that_are_missing_or_of_another_kind(tmp_path, content, match):
    refused(crafted(tmp_path / "last.ckpt", content), match)


@pytest.mark.parametrize("state", [{}, 7, [], {"state": {}, "param_groups": 3}, {"state": 3, "param_groups": []}])
def test_an_optimiser_of_another_kind(tmp_path, state):
    good = {"network": nn.Linear(3, 3).state_dict(), "optimizer": state}
    content = {"version": 3, "parts": good, "progress": {}}
    refused(crafted(tmp_path / "last.ckpt", content), r"does not fit this run \(optimizer")


def test_a_folder_or_a_foreign_object_in_its_place(tmp_path):
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "cannot read")
    refused(crafted(tmp_path / "last.ckpt", nn.Linear(2, 2)), r"not a checkpoint \(UnpicklingError\)")


def flip(path, place=1000):
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.unlink()  # the same bytes may have a second name
    path.write_bytes(content)


def saved(path, *epochs):
    for epoch in epochs:
        save_checkpoint(path, parts(), {"epoch": epoch})


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "none"])
@pytest.mark.parametrize("lost", [flip, lambda path: path.unlink()], ids=["damaged", "gone"])
def test_the_checkpoint_before_is_used_where_the_newest_is_damaged_or_gone(tmp_path, monkeypatch, capsys, links, lost):
    if not links:
        monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no hard links here")))
    path, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    saved(path, 1, 2, 3)
    assert sorted(tmp_path.iterdir()) == [path, previous]
    lost(path)
    start_console_log()
    assert load_checkpoint(path, parts()) == {"epoch": 2}
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert f"warning: {path} is " in said[0]
    assert "goes on from previous.ckpt" in said[0]
    assert sorted(tmp_path.iterdir()) == [previous]
    assert load_checkpoint(path, parts()) == {"epoch": 2}  # killed before the next save
    saved(path, 3)
    flip(path)
    assert load_checkpoint(path, parts()) == {"epoch": 2}  # the damaged file has not replaced the whole one


def test_two_damaged_checkpoints_are_one_line_that_names_both(tmp_path):
    path, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    saved(path, 1, 2)
    flip(path)
    flip(previous)
    with pytest.raises(UserError, match=rf"last\.ckpt is damaged .*remove {path} and {previous} to start"):
        load_checkpoint(path, parts())
    assert sorted(tmp_path.iterdir()) == [path, previous]


def test_a_save_that_was_killed_between_its_two_names_leaves_nothing(tmp_path):
    """Both names are one file then, and renaming one to the other does nothing."""
    path, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    saved(path, 1)
    previous.hardlink_to(path)
    (tmp_path / ".previous.ckpt.new_name.ckpt").hardlink_to(path)
    saved(path, 2)
    assert sorted(tmp_path.iterdir()) == [path, previous]
    assert load_checkpoint(path, parts()) == {"epoch": 2}
    path.unlink()
    assert load_checkpoint(path, parts()) == {"epoch": 1}
