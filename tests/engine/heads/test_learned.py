"""``--embedding_head linear``: the layer that a run puts behind its network."""

from types import SimpleNamespace

import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.engine.heads.learned import add_learned_head
from tests.engine.toy_run import ToyNet


def options(**changes):
    return SimpleNamespace(
        **{"embedding_head": "linear", "embedding_head_dim": None, "seed": 1, "pretrained": "a", **changes}
    )


def test_its_start_depends_on_the_seed_alone():
    found = []
    for draws in (0, 3):
        torch.randn(draws)
        network = ToyNet()
        add_learned_head(options(), network, [])
        found.append(network.embedding_head[1].weight)
    assert torch.equal(*found)
    assert found[0].shape == (8, 8)
    add_learned_head(options(seed=2), other := ToyNet(), [])
    assert not torch.equal(other.embedding_head[1].weight, found[0])
    add_learned_head(options(embedding_head="none"), plain := ToyNet(), [])
    assert plain.embedding_head is None


def test_a_head_that_came_with_the_network_is_kept_and_not_resized():
    network = ToyNet()
    head = network.add_embedding_head(["linear:4", "unit"])
    add_learned_head(options(embedding_head_dim=4), network, [])
    assert network.embedding_head is head
    assert head.names == ("linear:4", "unit")
    with pytest.raises(UserError, match="--embedding_head_dim 5: the network in --pretrained a has a head of 4"):
        add_learned_head(options(embedding_head_dim=5), network, [])
