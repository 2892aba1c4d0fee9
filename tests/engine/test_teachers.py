"""Teachers stay frozen; stores are refused when they do not fit; shuffling is a permutation without fixed points."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from common.errors import UserError
from datasets.records import PlaceRecord
from engine.store import MANIFEST, OUTPUTS, has_store, identify, read_store, write_store
from engine.teachers import LiveTeacher, StoredTeacher


class Net(nn.Module):
    requires = ("images",)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))

    def forward(self, batch):
        return {"embedding": self.layers(batch["images"])}


def test_a_live_teacher_is_frozen_whatever_train_is_called():
    teacher = LiveTeacher(Net())
    parent = nn.ModuleList([teacher.network])
    before = {name: value.clone() for name, value in parent.state_dict().items()}
    parent.train()
    batch = {"images": torch.randn(6, 4, requires_grad=True)}
    outputs = teacher.outputs(batch)["embedding"]
    assert not outputs.requires_grad
    assert not any(p.requires_grad for p in parent.parameters())
    assert torch.equal(outputs, teacher.outputs(batch)["embedding"])
    assert all(torch.equal(before[name], value) for name, value in parent.state_dict().items())


def make_store(tmp_path: Path):
    records = [PlaceRecord(f"run/{i}", "run", None, (), float(i), 0.0) for i in range(5)]
    weights = tmp_path / "teacher.safetensors"
    weights.write_bytes(b"weights")
    identity = identify("net", {"a": 1}, weights, "demo", records[:3], records[3:], preprocessing={"size": 1})
    train = ([r.key for r in records[:3]], {"embedding": torch.randn(3, 4)})
    test = ([r.key for r in records[3:]], {"embedding": torch.randn(2, 4)})
    write_store(tmp_path / "store", identity, train, test, {"parameters": "1"})
    return tmp_path / "store", identity, train, test, records, weights


def test_a_store_gives_back_what_was_written_by_key(tmp_path):
    folder, identity, train, test, *_ = make_store(tmp_path)
    assert has_store(folder)
    training, testing = read_store(folder, identity)
    found = training.outputs({"keys": ["run/2", "run/0"]})["embedding"]
    assert torch.equal(found, train[1]["embedding"][[2, 0]])
    assert torch.equal(testing.outputs({"keys": ["run/4"]})["embedding"], test[1]["embedding"][[1]])
    assert testing.facts == {"parameters": "1"}
    with pytest.raises(UserError, match="rebuild_store"):
        training.outputs({"keys": ["run/4"]})


@pytest.mark.parametrize("change", ["model", "settings", "weights", "places", "preprocessing"])
def test_a_store_of_something_else_is_refused_with_the_remedy(tmp_path, change):
    folder, _, _, _, records, weights = make_store(tmp_path)
    given = {"model": "net", "settings": {"a": 1}, "training": records[:3], "preprocessing": {"size": 1}}
    if change == "weights":
        weights.write_bytes(b"other")
    if change == "places":
        given["training"] = records[:2]
    if change == "model":
        given["model"] = "other"
    if change in ("settings", "preprocessing"):
        given[change] = {"a": 2}
    other = identify(
        given["model"],
        given["settings"],
        weights,
        "demo",
        given["training"],
        records[3:],
        preprocessing=given["preprocessing"],
    )
    with pytest.raises(UserError, match=f"{change}.*--rebuild_store"):
        read_store(folder, other)


def test_a_store_is_usable_where_the_teachers_weights_are_absent(tmp_path):
    folder, _, _, _, records, weights = make_store(tmp_path)
    weights.unlink()
    identity = identify("net", {"a": 1}, weights, "demo", records[:3], records[3:], preprocessing={"size": 1})
    assert identity.weights is None
    read_store(folder, identity)


def test_a_damaged_or_incomplete_store_is_refused(tmp_path):
    folder, identity, *_ = make_store(tmp_path)
    content = bytearray((folder / OUTPUTS).read_bytes())
    content[-1] ^= 1
    (folder / OUTPUTS).write_bytes(bytes(content))
    with pytest.raises(UserError, match="damaged"):
        read_store(folder, identity)
    (folder / MANIFEST).write_text("{")
    with pytest.raises(UserError, match="incomplete"):
        read_store(folder, identity)
    (folder / MANIFEST).unlink()
    assert not has_store(folder)


def test_the_manifest_holds_no_pickle_and_names_the_teacher(tmp_path):
    folder, *_ = make_store(tmp_path)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert (manifest["model"], manifest["train_keys"]) == ("net", ["run/0", "run/1", "run/2"])


@pytest.mark.parametrize("count", [2, 3, 50])
def test_the_shuffled_control_hands_every_place_another_places_output(count):
    table = torch.arange(float(count))[:, None]
    keys = [f"k{i}" for i in range(count)]
    shuffled = StoredTeacher({"embedding": table}, keys, Path("x")).shuffled(3).outputs({"keys": keys})["embedding"]
    assert sorted(shuffled[:, 0].tolist()) == table[:, 0].tolist()
    assert (shuffled != table).all()
