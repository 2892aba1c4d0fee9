"""Generations: which epoch belongs to which, what begins again, what is kept, and that all of it is resumed."""

import copy

import pytest
import torch
from torch import nn

from distilplace.engine.generations import Generations


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, batch):
        return {"embedding": self.layer(batch["images"])}


def begun(count: int, epochs: int = 3) -> tuple[Generations, Toy, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = Toy()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    parts = {"network": network, "optimizer": optimizer}
    return Generations(count, epochs, network, parts, ()), network, optimizer


def step(network: Toy, optimizer: torch.optim.Optimizer) -> None:
    network({"images": torch.ones(1, 2)})["embedding"].sum().backward()
    optimizer.step()


@pytest.mark.parametrize(("count", "total"), [(1, 3), (2, 4), (4, 10)])
def test_epochs_of_generations(count, total):
    generations, *_ = begun(count)
    assert generations.total == total
    numbers = [generations.number(epoch) for epoch in range(total)]
    assert numbers == ([0] * 3 if count == 1 else [0, *(1 + g for g in range(count - 1) for _ in range(3))])


def test_one_generation_never_begins_anew():
    generations, network, optimizer = begun(1)
    step(network, optimizer)
    before = copy.deepcopy(network.state_dict())
    assert not any(generations.begin_epoch(epoch) for epoch in range(3))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert generations.entries(0, {"images": torch.ones(1, 2)}) == {"generation": 0, "previous": None}
    assert generations.state_dict() == {}


def test_a_generation_starts_anew_beside_the_network_of_the_one_before():
    generations, network, optimizer = begun(3)
    start = copy.deepcopy(network.state_dict())
    batch = {"images": torch.tensor([[1.0, 2.0]])}
    step(network, optimizer)
    trained = network(batch)["embedding"].detach()
    assert generations.begin_epoch(1)
    assert all(torch.equal(value, start[name]) for name, value in network.state_dict().items())
    assert optimizer.state_dict()["state"] == {}
    entries = generations.entries(1, batch)
    assert entries["generation"] == 1
    assert torch.equal(entries["previous"]["embedding"], trained)
    assert not entries["previous"]["embedding"].requires_grad
    step(network, optimizer)
    assert torch.equal(generations.entries(2, batch)["previous"]["embedding"], trained)  # it stays as it was
    assert not generations.begin_epoch(2)


def test_generations_go_on():
    generations, network, optimizer = begun(3)
    step(network, optimizer)
    generations.begin_epoch(1)
    step(network, optimizer)
    other, other_network, other_optimizer = begun(3)
    other_network.load_state_dict(network.state_dict())
    other_optimizer.load_state_dict(optimizer.state_dict())
    other.load_state_dict(copy.deepcopy(generations.state_dict()))
    batch = {"images": torch.tensor([[1.0, 2.0]])}
    for each in (generations, other):
        assert each.entries(2, batch)["generation"] == 1
    one, two = (each.entries(2, batch)["previous"]["embedding"] for each in (generations, other))
    assert torch.equal(one, two)
    generations.begin_epoch(4)
    other.begin_epoch(4)
    assert all(torch.equal(value, other_network.state_dict()[name]) for name, value in network.state_dict().items())
