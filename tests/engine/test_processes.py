"""Shares of a batch in several processes: values and gradients of one process, and mistakes that end all of them."""

from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import distributed as dist
from torch import nn

from distilplace.common.errors import UserError
from distilplace.common.shares import Share
from distilplace.engine import processes
from distilplace.engine.program import ToldElsewhere
from distilplace.engine.step import Forward, split_batch
from distilplace.models.sparse.normalisation import VoxelBatchNorm1d
from tests.processes.forked import in_processes

ROWS = 9


class Net(nn.Module):
    """All that looks beyond a row or draws numbers; ``plain``: nothing of it."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = nn.Identity() if plain else nn.BatchNorm2d(4)
        self.voxels = nn.Identity() if plain else VoxelBatchNorm1d(4)
        self.dropout = nn.Dropout(0.0 if plain else 0.4)
        self.linear = nn.Linear(4, 5)
        self.double()

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        maps = self.norm(self.convolution(batch["images"])).relu()
        embedding = self.linear(self.dropout(self.voxels(maps.mean(dim=(2, 3)))))
        if self.training and not isinstance(self.norm, nn.Identity):
            embedding = embedding * torch.empty(len(embedding), 1, dtype=embedding.dtype).bernoulli_(0.8)
        return {"embedding": embedding, "maps.layer": maps}


class Loss(nn.Module):
    """Every row against every other, with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, outputs: dict[str, torch.Tensor]) -> torch.Tensor:
        distances = torch.cdist(outputs["embedding"].double(), outputs["embedding"].double())
        return (distances * self.power).exp().mean() + outputs["maps.layer"].double().square().sum()


def step(rows: int, split: int, plain: bool) -> dict[str, torch.Tensor]:
    """A training step on a batch of ``rows`` places: the loss, all gradients, the running statistics."""
    network, loss = Net(plain), Loss()
    images = torch.rand(rows, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch: dict[str, Any] = {"keys": [str(row) for row in range(rows)], "images": images}
    if (share_of := processes.share_of()) is not None:
        own = share_of(rows).rows
        batch = {name: value[own.start : own.stop] for name, value in batch.items()} | {"share": share_of(rows)}
    forward = Forward(network, batch, split_size=split, key=(7, 3), fabric=Fabric(accelerator="cpu", devices=1))
    value = loss(forward.outputs)
    forward.backward(value)
    learning = [*network.parameters(), *loss.parameters()]
    processes.mean_gradients(learning)
    gradients = {f"gradient {number}": each.grad for number, each in enumerate(learning)}
    return {"loss": value.detach(), **gradients, **dict(network.named_buffers())}


STEPS = [(ROWS, 16, False), (ROWS, 2, True), (1, 16, False)]
"""With batch norm and dropout; in stages; a batch that every process computes whole."""


def test_two_processes_take_the_step_of_one(tmp_path):
    found = in_processes(2, lambda: [step(*each) for each in STEPS], tmp_path)
    for number, each in enumerate(STEPS):
        expected = step(*each)
        for mine in found:
            torch.testing.assert_close(mine[number], expected, rtol=1e-6, atol=1e-7)


def test_records_are_shared_by_whole_batches_and_joined_in_order(tmp_path):
    def work() -> dict[str, torch.Tensor]:
        sizes = ((7, 3), (2, 4), (0, 4))
        own = [(f"{total}", processes.own_records(range(total), size)) for total, size in sizes]
        tables = [{name: torch.tensor([[float(row)] for row in rows])} if rows else {} for name, rows in own]
        return {name: value for table in tables for name, value in processes.joined(table).items()}

    for found in in_processes(2, work, tmp_path):
        assert {name: value.flatten().tolist() for name, value in found.items()} == {
            "7": [0, 1, 2, 3, 4, 5, 6],
            "2": [0, 1],
        }


def test_a_mistake_of_one_process_is_told_once_and_known_to_all(tmp_path):
    def work() -> tuple[bool, str]:
        with pytest.raises(UserError) as caught, processes.together():
            processes.require_same(torch.arange(3) + processes.rank(), "frames")
        dist.barrier()
        return isinstance(caught.value, ToldElsewhere), str(caught.value)

    found = in_processes(2, work, tmp_path)
    assert sorted(elsewhere for elsewhere, _ in found) == [False, True]
    assert all("different frames" in message for _, message in found)


def test_whoever_waits_for_a_process_that_ends_learns_why(tmp_path):
    def step() -> None:
        if processes.rank() == 1:
            raise UserError("image x is damaged")
        dist.all_reduce(torch.zeros(1))

    def work() -> str:
        with pytest.raises(UserError) as caught, processes.together():
            step()
        return f"{type(caught.value).__name__}: {caught.value}"

    assert in_processes(2, work, tmp_path) == ["ToldElsewhere: image x is damaged", "UserError: image x is damaged"]


@pytest.mark.parametrize(("total", "count"), [(9, 2), (10, 4), (3, 4), (4, 4), (1, 2)])
def test_shares_cover_a_batch_and_make_equally_many_passes(total, count):
    shares = [Share.of(total, rank, count) for rank in range(count)]
    if total < count:
        assert all(share.is_whole and list(share.rows) == list(range(total)) for share in shares)
        return
    assert [row for share in shares for row in share.rows] == list(range(total))
    for size in (1, 2, 3, 100):
        passes = [share.parts(size) for share in shares]
        assert len({len(each) for each in passes}) == 1
        for share, parts in zip(shares, passes, strict=True):
            assert [row for rows, _ in parts for row in rows] == list(range(len(share.rows)))
            assert all(len(rows) == len(part.rows) > 0 for rows, part in parts)
        for each in zip(*passes, strict=True):
            assert [row for _, part in each for row in part.rows] == list(range(each[0][1].total))


def test_parts_of_a_share_know_their_own():
    share = Share.of(9, 1, 2)
    batch = {"keys": list("5678"), "images": torch.arange(4.0), "share": share}
    parts = list(split_batch(batch, 2))
    assert [part["keys"] for part in parts] == [["5", "6"], ["7"], ["8"]]
    assert [list(part["share"].rows) for part in parts] == [[2, 3], [2], [1]]
    assert [part["images"].tolist() for part in parts] == [[0.0, 1.0], [2.0], [3.0]]
