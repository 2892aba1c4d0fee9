"""Layers behind an embedding: what they compute, and that a weights file brings them along everywhere."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import distilplace
from distilplace.common.errors import UserError
from distilplace.engine.building import build_network
from distilplace.models import create_model
from distilplace.models.checkpoints import load_weights, save_weights
from distilplace.models.head import EmbeddingHead
from distilplace.runtime.model_card import ModelCard
from distilplace.runtime.preprocessing import Preprocessing
from distilplace.runtime.resizing import Step

NAME, SETTINGS = "mobilenetv3_small", {"output_dim": 8}
LAYERS = ("linear:5", "unit", "centre", "unit")
CARD = ModelCard(
    role="student",
    model=NAME,
    settings={**SETTINGS, "embedding_head": list(LAYERS)},
    preprocessing=Preprocessing(steps=(Step("resize", (48, 64)),)).to_dict(),
    embedding={"width": 5, "metric": "cosine", "unit": True},
    dataset="demo",
)


def fill(head: EmbeddingHead) -> EmbeddingHead:
    """Numbers that no layer has by itself."""
    torch.nn.init.normal_(head[0].bias)
    torch.nn.init.uniform_(head[2].mean, -0.2, 0.2)
    return head


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = create_model(NAME, embedding_head=LAYERS, **SETTINGS).eval()
    fill(network.embedding_head)
    return network


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    return save_weights(network, tmp_path_factory.mktemp("head") / "best.safetensors", CARD)


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(1)
    return torch.randn(3, 3, 48, 64)


@torch.no_grad()
def test_the_layers_compute_what_their_table_says(network, images):
    plain = create_model(NAME, **SETTINGS).eval()
    kept = {key: value for key, value in network.state_dict().items() if not key.startswith("embedding_head")}
    plain.load_state_dict(kept)  # strict: a network without a head has the keys that it always had
    before = plain({"images": images})["embedding"].double().numpy()
    head = {name: value.double().numpy() for name, value in network.embedding_head.state_dict().items()}
    rows = []
    for row in before:
        row = head["0.weight"] @ row + head["0.bias"]
        row = row / np.sqrt((row**2).sum()) - head["2.mean"]
        rows.append(row / np.sqrt((row**2).sum()))
    found = network({"images": images}, feature_maps=("layer3",))
    np.testing.assert_allclose(found["embedding"].numpy(), np.array(rows), atol=1e-5)
    assert set(found) == {"embedding", "maps.layer3"}
    assert network.output_dim == 5


def test_a_linear_layer_learns_and_a_mean_does_not(network):
    parameters = dict(network.named_parameters())
    assert [key for key in parameters if key.startswith("embedding_head")] == [
        "embedding_head.0.weight",
        "embedding_head.0.bias",
    ]
    assert any(each is parameters["embedding_head.0.weight"] for each in network.branch_parameters()["image"])


def test_a_head_begins_as_a_turn_and_leaves_the_network_s_own_start_alone():
    torch.manual_seed(7)
    plain = create_model(NAME, **SETTINGS).state_dict()
    torch.manual_seed(7)
    headed = create_model(NAME, embedding_head=("linear:5",), **SETTINGS)
    assert all(torch.equal(headed.state_dict()[key], value) for key, value in plain.items())
    weight = headed.embedding_head[0].weight.detach().double()
    torch.testing.assert_close(weight @ weight.T, torch.eye(5).double(), rtol=0, atol=1e-5)


def test_norm_takes_the_batch_s_mean_and_spread_and_then_those_of_training():
    head = EmbeddingHead(4, ("norm", "unit")).train()
    torch.manual_seed(3)
    batches = [torch.rand(6, 4) * 0.1 + 5 for _ in range(200)]
    for rows in batches:
        found = head(rows)
    expected = (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True), rtol=0, atol=1e-4)
    assert not list(head.parameters())
    together = torch.cat(batches)
    cosines = head.eval()(together[:50]) @ head(together[50:100]).T
    assert (together[:50] / together[:50].norm(dim=1, keepdim=True)).mean(0).norm() > 0.99  # collinear before
    assert abs(float(cosines.mean())) < 0.1
    with pytest.raises(UserError, match="--train_batch_split_size 2 or more"):
        head.train()(together[:1])


@torch.no_grad()
def test_a_copy_has_a_head_of_its_own(network, images):
    twin = copy.deepcopy(network)
    twin.embedding_head[2].mean.add_(0.3)
    one, two = (each({"images": images})["embedding"] for each in (network, twin))
    assert not torch.allclose(one, two, atol=1e-3)


@torch.no_grad()
def test_every_way_to_a_weights_file_builds_its_head(network, path, images):
    expected = network({"images": images})["embedding"]
    engine = build_network(NAME, {**SETTINGS, "pretrained": "imagenet"}, seed=0, weights=str(path)).eval()
    started = create_model(NAME, pretrained=str(path), **SETTINGS).eval()
    loaded = distilplace.load(path, "cpu").network
    for each in (engine, started, loaded):
        assert each.output_dim == 5
        torch.testing.assert_close(each({"images": images})["embedding"], expected, rtol=0, atol=0)
    hub = torch.hub.load(str(distilplace.common.home.home()), "student", weights=path, device="cpu", source="local")
    torch.testing.assert_close(hub(images), expected, rtol=0, atol=0)


def test_a_file_without_a_head_starts_a_network_with_one(tmp_path, path):
    plain = create_model(NAME, **SETTINGS)
    card = replace(CARD, settings=SETTINGS, embedding={"width": 8, "metric": "cosine", "unit": False})
    source = str(save_weights(plain, tmp_path / "plain.safetensors", card))
    started = create_model(NAME, pretrained=source, embedding_head=("linear:3",), **SETTINGS)
    assert (started.output_dim, started.embedding_head.names) == (3, ("linear:3",))
    assert all(torch.equal(started.state_dict()[key], value) for key, value in plain.state_dict().items())
    with pytest.raises(UserError, match=r"has the embedding head linear:5, unit, centre, unit, wanted is linear:3"):
        create_model(NAME, pretrained=str(path), embedding_head=("linear:3",), **SETTINGS)


def test_a_network_without_the_head_does_not_take_its_file(path):
    with pytest.raises(UserError, match=r"it has the unknown embedding_head\.0\.bias"):
        load_weights(create_model(NAME, **SETTINGS), path)


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        (["linear:99999999"], "is no layer of an embedding head"),
        (["linear:999999"], "its tensors do not fit"),
        (["linear:0"], "is no layer of an embedding head"),
        (["os.system"], "is no layer of an embedding head"),
        (["unit"] * 10**4, "its tensors do not fit"),
        ("unit", "is no layer of an embedding head"),
    ],
)
def test_malicious_heads_are_refused_in_one_line(tmp_path, layers, told):
    card = replace(CARD, settings={**SETTINGS, "embedding_head": layers})
    with pytest.raises(UserError, match=told):
        distilplace.load(save_weights(torch.nn.Linear(3, 3), tmp_path / "a.safetensors", card))


def test_networks_of_clouds_and_of_both_take_one_and_pose_networks_refuse():
    for name, settings in (("minklocmmcat", {"image_fe_dim": 8, "cloud_fe_dim": 8}), ("resnet18_gem", {})):
        network = create_model(name, embedding_head=("linear:4", "unit"), **settings)
        weight = network.embedding_head[0].weight
        assert any(weight is each for group in network.branch_parameters().values() for each in group)
        assert network.output_dim == 4
    with pytest.raises(UserError, match="PoseNetwork compares no embeddings"):
        create_model("resnet18pose", embedding_head=("unit",))
