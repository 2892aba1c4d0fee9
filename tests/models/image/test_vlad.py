"""NetVLAD networks: residual sums and regions by explicit loops, where the trunks are cut, keys, frozen layers."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import get_model

from distilplace.common.errors import UserError
from distilplace.common.outputs import layer_maps
from distilplace.models import create_model
from distilplace.models.architecture import describe
from distilplace.models.checkpoints import load_weights
from distilplace.models.image.pooling import NetVLAD
from distilplace.models.image.vlad import VLADNetwork, region_vectors

SMALL = "mobilenetv3_smallnetvlad"


def unit(vector):
    length = math.sqrt(sum(float(v) ** 2 for v in vector))
    return [float(v) / length for v in vector]


def slow_sums(features, head, rows=None, columns=None):
    """Residual sums K x C of one map [C, h, w], over the locations in ``rows`` x ``columns``, one by one."""
    clusters, channels = head.centroids.shape
    weight, centroids = head.conv.weight[:, :, 0, 0].tolist(), head.centroids.tolist()
    sums = [[0.0] * channels for _ in range(clusters)]
    for i in rows if rows is not None else range(features.shape[1]):
        for j in columns if columns is not None else range(features.shape[2]):
            x = unit(features[:, i, j])
            scores = [math.exp(sum(a * b for a, b in zip(row, x, strict=True))) for row in weight]
            for k in range(clusters):
                for c in range(channels):
                    sums[k][c] += scores[k] / sum(scores) * (x[c] - centroids[k][c])
    return sums


def slow_vector(sums):
    return unit([v for row in sums for v in unit(row)])


def head_and_maps(shape, clusters=3, seed=0):
    torch.manual_seed(seed)
    head = NetVLAD(shape[1], clusters).double()
    return head, torch.randn(shape, dtype=torch.float64)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.tuples(*(st.integers(1, 3) for _ in range(4))), st.integers(1, 3))
def test_residual_sums(seed, shape, clusters):
    head, maps = head_and_maps(shape, clusters, seed)
    sums = head.residual_sums(*head.assign(maps))
    expected = torch.tensor([slow_sums(features, head) for features in maps], dtype=torch.float64)
    torch.testing.assert_close(sums, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [
        ((3, 6), [1, 1, 1], [2, 2, 2]),
        ((4, 5), [1, 2, 1], [2, 1, 2]),
        ((7, 8), [2, 3, 2], [3, 2, 3]),
    ],
)
def test_each_region_is_made_of_its_cells(size, rows, columns):
    head, maps = head_and_maps((2, 4, *size))
    local, assignment = head.assign(maps)
    vectors = region_vectors(head, local, assignment, head(maps))
    assert vectors.shape == (2, 7, 12)
    bands = [list(range(size[0])), *(list(range(sum(rows[:i]), sum(rows[: i + 1]))) for i in range(3))]
    strips = [list(range(size[1])), *(list(range(sum(columns[:i]), sum(columns[: i + 1]))) for i in range(3))]
    windows = [(bands[0], strips[0]), *((band, strips[0]) for band in bands[1:]), *((bands[0], s) for s in strips[1:])]
    for features, found in zip(maps, vectors, strict=True):
        for (band, strip), vector in zip(windows, found, strict=True):
            expected = torch.tensor(slow_vector(slow_sums(features, head, band, strip)), dtype=torch.float64)
            torch.testing.assert_close(vector, expected, rtol=1e-9, atol=1e-12)


def test_a_network_returns_what_its_head_makes():
    torch.manual_seed(0)
    network = create_model(SMALL, clusters=2).eval().double()
    names = ("stem", "layer1", "layer4", "map", "vlad", "regions")
    with torch.no_grad():
        output = network({"images": torch.randn(2, 3, 96, 128, dtype=torch.float64)}, feature_maps=names)
    maps = layer_maps(output)
    assert list(maps) == list(names)
    assert maps["map"].shape == (2, 512, 3, 4)
    assert maps["vlad"].shape == (2, 2, 512)
    assert maps["regions"].shape == (2, 7, 1024)
    assert output["embedding"].shape == (2, network.output_dim)
    for i in range(2):
        sums = slow_sums(maps["map"][i], network.net_vlad)
        torch.testing.assert_close(maps["vlad"][i], torch.tensor(sums, dtype=torch.float64), rtol=1e-9, atol=1e-12)
        expected = torch.tensor(slow_vector(sums), dtype=torch.float64)
        torch.testing.assert_close(output["embedding"][i], expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(maps["regions"][:, 0], output["embedding"])
    torch.testing.assert_close(maps["regions"].norm(dim=2), torch.ones(2, 7, dtype=torch.float64))


def test_gradients_reach_the_image_through_every_output():
    network = create_model(SMALL, clusters=2).eval()
    for name in ("map", "vlad", "regions"):
        images = torch.randn(1, 3, 96, 96, requires_grad=True)
        maps = layer_maps(network({"images": images}, feature_maps=(name,)))[name]
        (maps * torch.randn_like(maps)).sum().backward()
        assert torch.isfinite(images.grad).all()
        assert images.grad.abs().sum() > 0


def test_no_tensor_of_single_residuals_is_made(monkeypatch):
    """Of B x K x C x H W numbers there is none, in the residual sums as in the regions."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    head, maps = head_and_maps((2, 16, 12, 15), clusters=8)
    with Watch():
        local, assignment = head.assign(maps)
        region_vectors(head, local, assignment, head(maps)).sum().backward()
    assert 0 < largest <= maps.numel() + 2 * 9 * 8 * 16
    assert largest < 2 * 8 * 16 * 12 * 15 / 4


def test_wrong_requests_are_one_line():
    network = create_model(SMALL, clusters=2).eval()
    with pytest.raises(UserError, match="at least, not 2 x 3"):
        network({"images": torch.randn(1, 3, 64, 96)}, feature_maps=("regions",))
    with pytest.raises(UserError, match=r"feature map of mobilenetv3_smallnetvlad 'region': did you mean 'regions'"):
        network({"images": torch.randn(1, 3, 96, 96)}, feature_maps=("region",))
    with pytest.raises(UserError, match="unknown trainable_from 'conv4': did you mean 'conv5'"):
        create_model(SMALL, trainable_from="conv4")
    with pytest.raises(UserError, match="must be at least 1"):
        create_model(SMALL, clusters=0)
    with pytest.raises(UserError, match="no NetVLAD network on swin_t: take one on a vgg, mobilenet, resnet"):
        VLADNetwork("swin_t")
    with pytest.raises(UserError, match="31 x 64 pixels are too small"):
        network({"images": torch.zeros(1, 3, 31, 64)})


@pytest.mark.parametrize(("name", "last"), [("vgg16", 28), ("vgg19", 34)])
def test_a_vgg_ends_with_its_last_convolution(name, last):
    torch.manual_seed(0)
    network = create_model(f"{name}netvlad").eval()
    with torch.device("meta"):
        theirs = get_model(name, weights=None, init_weights=False).features[: last + 1]
    assert isinstance(theirs[last], nn.Conv2d)
    theirs = theirs.to_empty(device="cpu")
    base = network.base_model.base
    assert [str(layer) for layer in base] == [str(layer) for layer in theirs]
    theirs.load_state_dict(base.state_dict())
    images = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        ours = layer_maps(network({"images": images}, feature_maps=("map", "layer3")))
        torch.testing.assert_close(ours["map"], theirs(images))
    assert ours["map"].shape == (1, 512, 3, 4)
    assert (ours["map"] < 0).any()
    assert network.level_maps == ("layer1", "layer2", "layer3")
    assert torch.equal(ours["layer3"], ours["map"])


@pytest.mark.parametrize(("name", "wide", "layers"), [("large", 960, 17), ("small", 576, 13)])
def test_the_mobilenets_tail(name, wide, layers):
    torch.manual_seed(0)
    network = create_model(f"mobilenetv3_{name}netvlad").train()  # at random, eval mode would let the maps fade to 0
    base = network.base_model.base
    assert len(base) == layers + 1
    whole = get_model(f"mobilenet_v3_{name}", weights=None).train()
    whole.features.load_state_dict({k: v for k, v in base.state_dict().items() if int(k.split(".")[0]) < layers})
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        narrow = whole.features[: layers - 1](images)
        assert narrow.shape[1] == (160 if name == "large" else 96)
        first, its_norm, _ = whole.features[layers - 1]
        widened = nn.functional.hardswish(its_norm(first(narrow)))
        torch.testing.assert_close(
            widened, whole.features(images)
        )  # torchvision's own widening is the first of the two
        convolution, norm, _ = base[layers]
        assert convolution.weight.shape == (512, wide, 1, 1)
        assert convolution.bias is None
        expected = nn.functional.hardswish(norm(nn.functional.conv2d(widened, convolution.weight)))
        ours = network({"images": images}, feature_maps=("map",))["maps.map"]
    assert ours.shape == (2, 512, 2, 3)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, expected)


def test_a_resnet_is_reduced_to_512_channels():
    torch.manual_seed(0)
    network = create_model("resnet18netvlad").eval()
    with torch.no_grad():
        maps = layer_maps(network({"images": torch.randn(1, 3, 64, 96)}, feature_maps=("layer4", "map")))
        weight = network.base_model.reduction.weight[:, :, 0, 0]
        expected = torch.einsum("dc,bchw->bdhw", weight, maps["layer4"])
        expected += network.base_model.reduction.bias[:, None, None]
    torch.testing.assert_close(maps["map"], expected)
    assert network.level_maps == ("layer1", "layer2", "layer3", "layer4")


def test_keys_and_sizes_are_openibls():
    keys = {key: tuple(value.shape) for key, value in create_model("vgg16netvlad").state_dict().items()}
    layers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    expected = {f"base_model.base.{i}.{part}" for i in layers for part in ("weight", "bias")}
    assert keys.keys() == expected | {"net_vlad.conv.weight", "net_vlad.centroids"}
    assert keys["net_vlad.conv.weight"] == (64, 512, 1, 1)
    assert keys["net_vlad.centroids"] == (64, 512)
    assert keys["base_model.base.28.weight"] == (512, 512, 3, 3)


def test_openibls_file_loads_and_its_pca_layer_is_skipped(tmp_path):
    source, target = create_model("vgg16netvlad", clusters=2), create_model("vgg16netvlad", clusters=2)
    state = {**source.state_dict(), "pca_layer.weight": torch.ones(3, 1024, 1, 1), "pca_layer.bias": torch.ones(3)}
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 4}, tmp_path / "model_best.pth.tar"
    )
    report = load_weights(target, tmp_path / "model_best.pth.tar")
    assert report.skipped == ("pca_layer.weight", "pca_layer.bias")
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in target.state_dict().items())


def test_another_networks_file_is_refused_by_name(tmp_path):
    ours = create_model(SMALL, clusters=2)
    torch.save(create_model("mobilenetv3_largenetvlad", clusters=3).state_dict(), tmp_path / "large.pth")
    torch.save(create_model("resnet18", output_dim=8).state_dict(), tmp_path / "plain.pth")
    torch.save(get_model("mobilenet_v3_small", weights=None).state_dict(), tmp_path / "trunk.pth")
    with pytest.raises(UserError, match=r"network is mobilenetv3_large in the file, mobilenetv3_small.*clusters is 3"):
        load_weights(ours, tmp_path / "large.pth")
    with pytest.raises(UserError, match="kind is image only in the file, NetVLAD network in the model"):
        load_weights(ours, tmp_path / "plain.pth")
    with pytest.raises(UserError, match=r"also has net_vlad\.centroids.*: give the file as --pretrained instead"):
        load_weights(ours, tmp_path / "trunk.pth")


@pytest.mark.parametrize("name", ["vgg16", "vgg19", "mobilenetv3_large", "mobilenetv3_small", "resnet18", "resnet50"])
def test_settings_are_read_off_the_weights(name):
    state = create_model(f"{name}netvlad", clusters=5).state_dict()
    assert describe(state) == {"kind": "NetVLAD network", "network": name, "clusters": 5}


@pytest.mark.parametrize("name", ["mobilenetv3_small", "resnet18"])
def test_the_trunk_starts_from_torchvisions_file(tmp_path, name):
    whole = get_model(name.replace("netv3", "net_v3"), weights=None).state_dict()
    torch.save(whole, tmp_path / "own.pth")
    state = create_model(f"{name}netvlad", pretrained=str(tmp_path / "own.pth")).base_model.base.state_dict()
    front = "" if name == "resnet18" else "features."
    tail = {key for key in state if front + key not in whole}
    assert {key.split(".")[0] for key in tail} == (set() if name == "resnet18" else {"13"})
    assert all(torch.equal(value, whole[front + key]) for key, value in state.items() if key not in tail)


@pytest.mark.parametrize(
    ("name", "first"), [("vgg16", "24."), ("vgg19", "28."), ("mobilenetv3_small", "9."), ("resnet18", "layer4.")]
)
def test_trainable_from_conv5(name, first):
    network = create_model(f"{name}netvlad", trainable_from="conv5")
    parameters = dict(network.named_parameters())
    keys = list(parameters)
    begin = next(i for i, key in enumerate(keys) if key.startswith(f"base_model.base.{first}"))
    assert [p.requires_grad for p in parameters.values()] == [i >= begin for i in range(len(keys))]
    assert [id(p) for p in network.branch_parameters()["image"]] == [id(parameters[key]) for key in keys[begin:]]
    assert network.branch_parameters()["cloud"] == []
    free = create_model(f"{name}netvlad").branch_parameters()["image"]
    assert len(free) == len(keys)


def test_frozen_layers_stay_as_they_are_in_training():
    network = copy.deepcopy(create_model("resnet18netvlad", clusters=2, trainable_from="conv5")).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.branch_parameters()["image"], lr=0.1)
    network({"images": torch.randn(2, 3, 64, 64)})["embedding"].sum().backward()
    optimizer.step()
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.startswith(("base_model.base.layer4.", "base_model.reduction.", "net_vlad.")) for key in changed)
    assert "base_model.base.layer4.0.bn1.running_mean" in changed


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("vgg16netvlad", (30, 40)), ("mobilenetv3_largenetvlad", (15, 20))])
def test_a_full_image_forward_and_backward(name, size):
    torch.manual_seed(0)
    network = create_model(name).train()
    output = network({"images": torch.randn(2, 3, 480, 640)}, feature_maps=("map", "regions"))
    assert output["maps.map"].shape == (2, 512, *size)
    assert output["embedding"].shape == (2, 64 * 512)
    regions = output["maps.regions"]
    (output["embedding"] @ torch.randn(64 * 512)).sum().add((regions[0] * regions[1]).sum()).backward()
    assert [key for key, p in network.named_parameters() if not torch.isfinite(p.grad).all()] == []
    assert [key for key, p in network.named_parameters() if not p.grad.abs().sum() > 0] == []
