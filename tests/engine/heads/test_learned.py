"""``--embedding_head linear``: the layer that a run puts behind its network."""

from types import SimpleNamespace

import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.engine.heads.learned import add_learned_head
from distilplace.engine.teachers.aligned import AlignedTeacher
from distilplace.engine.teachers.sources import LiveTeacher
from distilplace.engine.teachers.space import Space
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


def aligned(width):
    return AlignedTeacher(LiveTeacher(ToyNet()), Space("raw", torch.zeros(width)), None)


def test_its_width_is_that_of_the_teachers_space_unless_it_is_named():
    for changes, width in (({}, 5), ({"embedding_head_dim": 3}, 3)):
        add_learned_head(options(**changes), network := ToyNet(), [aligned(5), aligned(5)])
        assert network.output_dim == width
    with pytest.raises(UserError, match="have 4 and 5 numbers: say with --embedding_head_dim"):
        add_learned_head(options(), ToyNet(), [aligned(5), aligned(4)])


def test_a_head_that_came_with_the_network_is_kept_and_not_resized():
    network = ToyNet()
    head = network.add_embedding_head(["linear:4", "unit"])
    add_learned_head(options(embedding_head_dim=4), network, [])
    assert network.embedding_head is head
    assert head.names == ("linear:4", "unit")
    with pytest.raises(UserError, match="--embedding_head_dim 5: the network in --pretrained a has a head of 4"):
        add_learned_head(options(embedding_head_dim=5), network, [])
