"""The retrieval teachers of Whiten-MTD: what they compute, against the formulas written out with loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from distilplace.common.errors import UserError
from distilplace.common.outputs import layer_maps
from distilplace.models.image.second_order import SecondOrderAttention
from distilplace.models.landmark.networks import FAMILIES, RetrievalNetwork

TRUNKS = {family: "resnet50" if family in ("mocov3", "barlowtwins") else "resnet101" for family in FAMILIES}
WIDTHS = {"gem": 2048, "ap_gem": 2048, "solar": 2048, "delg": 512, "dolg": 1024, "mocov3": 2048, "barlowtwins": 2048}
HEADS = {"gem": "whiten", "ap_gem": "fc", "solar": "whiten", "delg": "head_fc", "dolg": "fc_t"}
MAPS = ("stem", "layer1", "layer2", "layer3", "layer4", "pooled")


@pytest.fixture(scope="module")
def networks():
    """Every family on a small trunk, in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):  # torchvision's own initialisation takes seconds
        built = {family: RetrievalNetwork(family, "resnet18").eval() for family in FAMILIES}
    for network in built.values():
        network.to_empty(device="cpu")
        for key, value in network.state_dict().items():
            if value.ndim > 1:
                value.normal_(std=value[0].numel() ** -0.5, generator=generator)
            else:
                value.copy_(torch.full_like(value, 0.0 if key.endswith(("bias", "running_mean")) else 1.0))
    return built


def slow_gem(channel, p):
    values = [float(v) if p == 1 else max(float(v), 1e-6) ** p for v in channel.flatten()]
    return (sum(values) / len(values)) ** (1 / p)


def run(network, images, maps=MAPS):
    with torch.no_grad():
        return network({"images": images}, feature_maps=maps)


@pytest.mark.parametrize("family", FAMILIES)
def test_pooling_and_linear_layer_are_those_of_the_paper(networks, family):
    network = networks[family]
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    last = "soa5" if family == "solar" else "layer4"
    output = run(network, images, (last, "pooled"))
    power = 1 if family in ("mocov3", "barlowtwins") else 3
    linear = getattr(network, HEADS[family]) if family in HEADS else None
    for features, embedding in zip(output[f"maps.{last}"].double(), output["embedding"], strict=True):
        vector = [slow_gem(channel, power) for channel in features]
        if family in ("gem", "solar"):
            length = math.sqrt(sum(v**2 for v in vector))
            vector = [v / length for v in vector]
        expected = torch.tensor(vector, dtype=torch.float64)
        if linear is not None:
            expected = linear.weight.double() @ expected + linear.bias.double()
        torch.testing.assert_close(embedding.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_delg_and_dolg_swap_the_colours(networks, family):
    network = networks[family]
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    before = images.clone()
    seen = images[:, [2, 1, 0]] if family in ("delg", "dolg") else images
    trunk = network.get_submodule({"mocov3": "base_encoder", "barlowtwins": "backbone"}.get(family, "model"))
    with torch.no_grad():
        stem = trunk.maxpool(torch.relu(trunk.bn1(trunk.conv1(seen))))
        other = trunk.maxpool(torch.relu(trunk.bn1(trunk.conv1(seen.flip(1)))))
    found = run(network, images)["maps.stem"]
    torch.testing.assert_close(found, stem)
    assert not torch.allclose(found, other, atol=1e-3)
    assert torch.equal(images, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_size_names_have_the_published_width(family):
    with torch.device("meta"):
        network = RetrievalNetwork(family, TRUNKS[family])
        output = network({"images": torch.empty(2, 3, 64, 96)}, feature_maps=MAPS)
    assert output["embedding"].shape == (2, WIDTHS[family]) == (2, network.output_dim)
    assert list(layer_maps(output)) == list(MAPS)
    assert output["maps.layer4"].shape == (2, 2048, 2, 3)
    assert output["maps.pooled"].shape == (2, 2048)


def test_second_order_attention_written_out():
    torch.manual_seed(0)
    block = SecondOrderAttention(8, 4).double().eval()
    nn.init.normal_(block.v.weight)
    nn.init.normal_(block.v.bias)
    nn.init.normal_(block.h.bias)
    for part in (block.f, block.g):
        nn.init.normal_(part[1].running_mean, std=0.1)
    features = torch.randn(2, 8, 3, 2, dtype=torch.float64)
    with torch.no_grad():
        found = block(features)
        query, key, value = block.f(features), block.g(features), block.h(features)
        for b in range(2):
            places = [(i, j) for i in range(3) for j in range(2)]
            for i, j in places:
                scores = [(query[b, :, i, j] @ key[b, :, k, n]).item() / math.sqrt(2) for k, n in places]
                weights = [math.exp(score) for score in scores]
                mixed = sum(w / sum(weights) * value[b, :, k, n] for w, (k, n) in zip(weights, places, strict=True))
                expected = features[b, :, i, j] + block.v.weight[:, :, 0, 0] @ mixed + block.v.bias
                torch.testing.assert_close(found[b, :, i, j], expected)


def test_new_attention_changes_nothing():
    features = torch.randn(1, 16, 4, 5)
    torch.testing.assert_close(SecondOrderAttention(16, 2)(features), features, rtol=0, atol=0)


def test_solar_attends_behind_its_last_two_stages(networks):
    network = networks["solar"]
    assert network.model.soa4.f[0].weight.shape == (64, 256, 1, 1)  # k = 4
    assert network.model.soa5.f[0].weight.shape == (256, 512, 1, 1)  # k = 2
    maps = layer_maps(run(network, torch.randn(1, 3, 64, 64), ("layer3", "soa4", "layer4", "soa5")))
    with torch.no_grad():
        torch.testing.assert_close(maps["soa4"], network.model.soa4(maps["layer3"]))
        torch.testing.assert_close(maps["layer4"], network.model.layer4(maps["soa4"]))
        torch.testing.assert_close(maps["soa5"], network.model.soa5(maps["layer4"]))
    assert not torch.allclose(maps["soa4"], maps["layer3"])


@settings(max_examples=10, deadline=None)
@given(st.integers(32, 80), st.integers(32, 80))
def test_odd_image_sizes(networks, height, width):
    for family in ("gem", "solar"):
        output = run(networks[family], torch.randn(1, 3, height, width), ())
        assert output.keys() == {"embedding"}
        assert torch.isfinite(output["embedding"]).all()


def test_settings_reach_the_network():
    with torch.device("meta"):
        network = RetrievalNetwork("delg", "resnet34", output_dim=128, gem_p=2.5)
        assert network.output_dim == 128
        assert network.head_fc.weight.shape == (128, 512)
        assert network.pooling.p == 2.5
        assert RetrievalNetwork("dolg", "resnet18").output_dim == 256
        assert RetrievalNetwork("gem", "resnet18").output_dim == 512
        assert RetrievalNetwork("mocov3", "resnet18", output_dim=7).output_dim == 512


def test_the_exponent_does_not_learn_and_is_not_stored(networks):
    for network in networks.values():
        assert not any(key.startswith("pooling") for key in network.state_dict())
        listed = {id(p) for p in network.branch_parameters()["image"]}
        assert listed == {id(p) for p in network.parameters()}
        assert network.requires == ("images",)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "gen"}, "unknown retrieval teacher 'gen'.*gem"),
        ({"family": "gem", "network": "vgg16"}, "no retrieval teacher gem on vgg16"),
        ({"family": "gem", "network": "resnet19"}, "unknown image network 'resnet19'"),
        ({"family": "dolg", "network": "resnet18", "output_dim": 0}, "output_dim of resnet18_dolg is 0"),
        ({"family": "gem", "network": "resnet18", "gem_p": 0.0}, "gem_p is 0.0"),
    ],
)
def test_impossible_settings_are_one_line(settings, message):
    with pytest.raises(UserError, match=message) as error, torch.device("meta"):
        RetrievalNetwork(**settings)
    assert "\n" not in str(error.value)


def test_an_unknown_map_is_refused(networks):
    with pytest.raises(UserError, match="unknown feature map of gem network 'soa4'"):
        run(networks["gem"], torch.randn(1, 3, 32, 32), ("soa4",))


def test_the_trunk_starts_from_a_file(tmp_path):
    from torchvision.models import get_model

    with torch.device("meta"):
        shapes = get_model("resnet18", weights=None).state_dict()
    whole = {key: torch.tensor(n, dtype=v.dtype).expand(v.shape) for n, (key, v) in enumerate(shapes.items())}
    torch.save(whole, tmp_path / "resnet18.pth")
    state = RetrievalNetwork("solar", "resnet18", pretrained=str(tmp_path / "resnet18.pth")).state_dict()
    trunk = {f"model.{key}": value for key, value in whole.items() if not key.startswith("fc.")}
    assert all(torch.equal(state[key], value) for key, value in trunk.items())
    assert {key.split(".")[1] for key in state.keys() - trunk.keys()} == {"soa4", "soa5", "weight", "bias"}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_full_size_forward_and_backward(family):
    torch.manual_seed(0)
    network = RetrievalNetwork(family, TRUNKS[family])
    embedding = network({"images": torch.randn(2, 3, 224, 224)})["embedding"]
    assert embedding.shape == (2, WIDTHS[family])
    nn.functional.normalize(embedding, dim=1).sum(dim=0).square().sum().backward()
    unused = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert unused == []
