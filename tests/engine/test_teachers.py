"""Teachers stay frozen; shuffling is a permutation without fixed points."""

from pathlib import Path

import pytest
import torch
from torch import nn

from distilplace.engine.teachers.sources import LiveTeacher, StoredTeacher


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


@pytest.mark.parametrize("count", [2, 3, 50])
def test_the_shuffled_control_hands_every_place_another_places_output(count):
    table = torch.arange(float(count))[:, None]
    keys = [f"k{i}" for i in range(count)]
    shuffled = StoredTeacher({"embedding": table}, keys, Path("x")).shuffled(3).outputs({"keys": keys})["embedding"]
    assert sorted(shuffled[:, 0].tolist()) == table[:, 0].tolist()
    assert (shuffled != table).all()
