"""Staged steps give the gradients of whole steps, and record batch statistics once."""

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from distilplace.engine.step import Forward, split_batch


class Toy(nn.Module):
    """An image branch and a cloud branch small enough to reason about; dropout and batch norm where asked."""

    def __init__(self, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.image = nn.Linear(12, 5)
        self.norm = nn.BatchNorm1d(5) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)

    def forward(self, batch):
        image = self.drop(self.norm(self.image(batch["images"].flatten(1))))
        rows = batch["coords"][:, 0].long()
        points = batch["coords"][:, 1:] * batch["features"]
        cloud = points.new_zeros(len(image), 3).index_add_(0, rows, points)
        return {"embedding": torch.cat([image, cloud * self.image.weight[:3, 0]], 1), "image_embedding": image}


@pytest.fixture(scope="module")
def fabric():
    return Fabric(accelerator="cpu", devices=1)


def make_batch(count=8, dtype=torch.float32):
    torch.manual_seed(0)
    coords = torch.randint(-4, 4, (40, 4), dtype=torch.int32)
    coords[:, 0] = torch.arange(40) % count
    coords = coords[coords[:, 0].argsort(stable=True)]
    keys = [f"k{i}" for i in range(count)]
    images = torch.randn(count, 3, 2, 2, dtype=dtype)
    return {"keys": keys, "images": images, "coords": coords, "features": torch.ones(40, 1, dtype=dtype)}


def relational(outputs):
    return torch.cdist(outputs["embedding"], outputs["embedding"]).sum() + outputs["image_embedding"].square().sum()


def gradients(network, batch, split_size, fabric, key=(7, 1)):
    network.zero_grad()
    forward = Forward(network, batch, split_size=split_size, key=key, fabric=fabric)
    loss = relational(forward.outputs)
    forward.backward(loss)
    outputs = {name: value.detach() for name, value in forward.outputs.items()}
    return loss.detach(), outputs, {name: p.grad.clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize("split_size", [1, 3, 4, 7])
def test_staged_gradients_equal_whole_gradients(fabric, split_size):
    network, batch = Toy().double(), make_batch(dtype=torch.float64)
    loss, outputs, whole = gradients(network, batch, 8, fabric)
    staged_loss, staged_outputs, staged = gradients(network, batch, split_size, fabric)
    torch.testing.assert_close(staged_loss, loss)
    torch.testing.assert_close(staged_outputs["embedding"], outputs["embedding"])
    for name, gradient in whole.items():
        torch.testing.assert_close(staged[name], gradient, rtol=1e-10, atol=1e-12)


def test_both_passes_drop_the_same_units(fabric):
    network, batch = Toy(dropout=0.5), make_batch()
    _, outputs, staged = gradients(network, batch, 4, fabric)
    dropped = outputs["image_embedding"] == 0
    assert dropped.any()
    slow = torch.zeros_like(network.image.bias)
    embedding = outputs["embedding"].clone().requires_grad_()
    image = outputs["image_embedding"].clone().requires_grad_()
    relational({"embedding": embedding, "image_embedding": image}).backward()
    slow = ((embedding.grad[:, :5] + image.grad) * 2 * ~dropped).sum(0)
    torch.testing.assert_close(staged["image.bias"], slow, rtol=1e-4, atol=1e-5)


def test_dropout_is_counted_and_leaves_the_callers_random_state_alone(fabric):
    network, batch = Toy(dropout=0.5), make_batch()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = gradients(network, batch, 8, fabric)[1]["embedding"]
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    assert torch.equal(first, gradients(network, batch, 8, fabric)[1]["embedding"])
    assert not torch.equal(first, gradients(network, batch, 8, fabric, key=(7, 2))[1]["embedding"])


def test_the_first_pass_of_a_staged_step_records_no_batch_statistics(fabric):
    network, batch = Toy(norm=True).train(), make_batch()
    gradients(network, batch, 4, fabric)
    reference = nn.BatchNorm1d(5)
    for part in split_batch(batch, 4):
        reference(network.image(part["images"].flatten(1)))
    torch.testing.assert_close(network.norm.running_mean, reference.running_mean)
    torch.testing.assert_close(network.norm.running_var, reference.running_var)
    assert network.norm.num_batches_tracked == 2
    assert network.norm.momentum == 0.1


def test_a_loss_without_gradient_leaves_no_gradient(fabric):
    network = Toy()
    forward = Forward(network, make_batch(), split_size=4, key=(1, 1), fabric=fabric)
    forward.backward(torch.zeros(()))
    assert all(p.grad is None for p in network.parameters())


def test_parts_start_their_batch_index_at_zero_and_cover_everything():
    batch = make_batch()
    parts = list(split_batch(batch, 3))
    assert [len(part["keys"]) for part in parts] == [3, 3, 2]
    assert all(int(part["coords"][:, 0].min()) == 0 for part in parts)
    assert [key for part in parts for key in part["keys"]] == batch["keys"]
    assert sum(len(part["coords"]) for part in parts) == 40
    assert torch.equal(torch.cat([part["coords"][:, 1:] for part in parts]), batch["coords"][:, 1:])
