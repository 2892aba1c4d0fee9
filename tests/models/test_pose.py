"""Pose networks: the published keys, counts and maps; the head by hand; checkpoints and trunks in."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.models import get_model

from distilplace.common.errors import UserError
from distilplace.common.outputs import layer_maps
from distilplace.models import create_model
from distilplace.models.checkpoints import load_weights, save_weights
from distilplace.models.pose import POSE_NETWORKS, PoseHead, PoseNetwork

PARAMETERS = {"resnet18": 11_708_999, "resnet34": 21_817_159, "resnet50": 25_613_383}
RECORDED = tuple(PARAMETERS)
MAPS = ("stem", "layer1", "layer2", "layer3", "layer4", "pooled")


def images(seed: int, count: int = 2, side: tuple[int, int] = (64, 96)) -> torch.Tensor:
    return torch.randn(count, 3, *side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def network() -> PoseNetwork:
    torch.manual_seed(0)
    return PoseNetwork("resnet18").eval()


@pytest.mark.parametrize("name", RECORDED)
def test_keys_shapes_and_counts_are_those_published(golden, name):
    with torch.device("meta"):
        model = PoseNetwork(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    wanted = [(key, list(shape)) for key, shape in golden("m_sckd.pt")["networks"][name]["state_dict_keys"]]
    assert [(key, list(value.shape)) for key, value in model.state_dict().items()] == wanted


def test_resnet101_has_torchvisions_trunk_and_the_same_head():
    assert set(POSE_NETWORKS) == {*RECORDED, "resnet101"}
    with torch.device("meta"):
        model, theirs = create_model("resnet101pose"), get_model("resnet101", weights=None)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    trunk = {key: value.shape for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    head = {"cls_fc_pose.0": (1024, 2048), "cls_fc_xy": (3, 1024), "cls_fc_wpqr": (4, 1024)}
    assert shapes == trunk | {
        f"fc.{layer}.{part}": torch.Size(shape if part == "weight" else shape[:1])
        for layer, shape in head.items()
        for part in ("weight", "bias")
    }
    assert sum(parameter.numel() for parameter in model.parameters()) == 44_605_511
    assert model.output_dim == 2048


def test_maps_are_the_trunks_and_the_rest_by_hand(network):
    x = images(1)
    with torch.no_grad():
        output = network({"images": x}, MAPS)
        theirs = get_model("resnet18", weights=None).eval()
        theirs.load_state_dict(network.state_dict(), strict=False)
        stem = theirs.relu(theirs.bn1(theirs.conv1(x)))
        wanted = {"stem": stem}
        features = theirs.maxpool(stem)
        for level in network.level_maps:
            features = wanted[level] = getattr(theirs, level)(features)
        pooled = features.mean(dim=(2, 3))
    assert list(layer_maps(output)) == list(MAPS)
    for level, value in wanted.items():
        torch.testing.assert_close(output[f"maps.{level}"], value)
        assert output[f"maps.{level}"].min() >= 0
    assert output["maps.stem"].shape == (2, 64, 32, 48)
    torch.testing.assert_close(output["maps.pooled"], pooled)
    torch.testing.assert_close(output["embedding"], pooled)
    state = network.state_dict()
    for row in range(2):
        hidden = (state["fc.cls_fc_pose.0.weight"] @ pooled[row] + state["fc.cls_fc_pose.0.bias"]).clamp(min=0)
        position = state["fc.cls_fc_xy.weight"] @ hidden
        quaternion = state["fc.cls_fc_wpqr.weight"] @ hidden
        expected = torch.cat([position, quaternion / quaternion.square().sum().sqrt()])
        torch.testing.assert_close(output["pose"][row], expected, rtol=1e-4, atol=1e-5)


def test_only_what_is_asked_for_is_given(network):
    with torch.no_grad():
        whole, some = network({"images": images(2)}), network({"images": images(2)}, ("pooled", "layer2"))
        assert set(whole) == {"embedding", "pose"}
        assert list(layer_maps(some)) == ["pooled", "layer2"]
        assert torch.equal(some["pose"], whole["pose"])
        with pytest.raises(UserError, match="unknown feature map of resnet18pose 'layer5': did you mean 'layer"):
            network({"images": images(2)}, ("layer5",))
    with pytest.raises(UserError, match="too small"):
        network({"images": images(2, side=(31, 64))})


def test_what_the_engine_asks_of_a_model(network):
    assert (network.requires, network.output_dim) == (("images",), 512)
    assert network.level_maps == MAPS[1:5]
    assert network.trunk_keys == ("", "")
    branches = network.branch_parameters()
    assert branches["cloud"] == []
    assert {id(p) for p in branches["image"]} == {id(p) for p in network.parameters()}


def test_the_head_starts_as_specified():
    torch.manual_seed(3)
    head = PoseHead(512, 0.5)
    deviations = {"cls_fc_pose.0": 0.01, "cls_fc_xy": 0.5, "cls_fc_wpqr": 0.01}
    for name, deviation in deviations.items():
        layer = head.get_submodule(name)
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.05)
        assert abs(layer.weight.mean().item()) < deviation / 10
        assert (layer.bias == 0).all()


def test_quaternions_have_length_1_and_one_of_length_0_hurts_nothing():
    torch.manual_seed(4)
    head = PoseHead(16, 0.0)
    pooled = torch.rand(3, 16)
    pooled[1] = 0
    pooled.requires_grad_()
    pose = head(pooled)
    assert pose[[0, 2], 3:].norm(dim=1).tolist() == pytest.approx([1, 1])
    assert (pose[1] == 0).all()
    (pose * torch.arange(7.0)).sum().backward()
    gradients = [pooled.grad, *(parameter.grad for parameter in head.parameters())]
    assert all(gradient.isfinite().all() and gradient.abs().max() < 1e4 for gradient in gradients)


def test_dropout_acts_in_training_on_the_hidden_numbers_alone():
    head = PoseHead(8, 0.5)
    with torch.no_grad():
        head.cls_fc_pose[0].bias.fill_(1)
        head.cls_fc_pose[0].weight.zero_()
        head.cls_fc_xy.weight.fill_(1)
        position = head.eval()(torch.rand(2, 8))[:, 0]
        assert position.tolist() == [1024, 1024]
        torch.manual_seed(0)
        dropped = head.train()(torch.rand(2, 8))[:, 0]
        assert dropped[0] != dropped[1]
        assert torch.equal(dropped % 2, torch.zeros(2))
        assert dropped.tolist() == pytest.approx([1024, 1024], rel=0.15)
    assert PoseNetwork("resnet18", dropout=0.25).fc.dropout.p == 0.25


def test_autocast_does_not_round_positions(network):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = network({"images": images(5)})
        assert output["pose"].dtype == torch.float32
        found = network.fc(output["embedding"])
    torch.testing.assert_close(output["pose"], found, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(output["pose"], network.fc(output["embedding"].float()), rtol=0, atol=0)


def test_published_checkpoints_and_our_own_load(tmp_path, network):
    state = {f"module.{key}": value for key, value in network.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "latest_net_G.pth")
    ours = save_weights(network, tmp_path / "own.safetensors")
    for path in (tmp_path / "latest_net_G.pth", ours):
        other = PoseNetwork("resnet18")
        report = load_weights(other, path)
        assert report.skipped == ()
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in other.state_dict().items())


def test_trunks_start_a_network_but_are_none(tmp_path, network):
    whole = get_model("resnet18", weights=None).state_dict()
    torch.save(whole, tmp_path / "resnet18.pth")
    started = PoseNetwork("resnet18", pretrained=str(tmp_path / "resnet18.pth")).state_dict()
    trunk = {key: value for key, value in started.items() if not key.startswith("fc.")}
    assert len(trunk) == 120
    assert all(torch.equal(value, whole[key]) for key, value in trunk.items())
    with pytest.raises(UserError, match=r"lacks fc\.cls_fc_pose\.0\.weight.*has the unknown fc\.weight"):
        load_weights(PoseNetwork("resnet18"), tmp_path / "resnet18.pth")
    torch.save(network.state_dict(), tmp_path / "pose.pth")
    again = PoseNetwork("resnet18", pretrained=str(tmp_path / "pose.pth"))
    assert torch.equal(again.layer4[1].conv2.weight, network.layer4[1].conv2.weight)
    with pytest.raises(UserError, match=r"resnet34.*lacks layer1\.2"):
        PoseNetwork("resnet34", pretrained=str(tmp_path / "pose.pth"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "resnet81"}, "unknown network of a pose network 'resnet81': did you mean 'resnet18'"),
        ({"network": "resnet18", "dropout": 1}, "dropout of pose network resnet18 is 1: give 0 or more and below 1"),
        ({"network": "resnet18", "pretrained": "imagnet"}, "imagnet: no such file; give imagenet, none or a resnet18"),
    ],
)
def test_mistakes_are_one_line(settings, message):
    with pytest.raises(UserError, match=message):
        PoseNetwork(**settings)


def recorded_shapes(golden, name: str) -> dict[str, tuple[int, ...]]:
    shapes = golden("m_sckd.pt")["networks"][name]["feature_shapes"]
    return {level: tuple(shape) for level, shape in zip(MAPS, shapes, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDED)
def test_full_size_forward_and_backward(golden, name):
    recorded = golden("m_sckd.pt")["networks"][name]
    torch.manual_seed(recorded["input_seed"])
    x = torch.randn(2, 3, 224, 224)
    model = PoseNetwork(name).eval()
    with torch.no_grad():
        maps = layer_maps(model({"images": x}, MAPS))
    assert {level: tuple(value.shape) for level, value in maps.items()} == recorded_shapes(golden, name)
    # The recorded weights are not stored: only what hardly depends on the draw can be compared.
    assert float(maps["stem"].mean()) == pytest.approx(recorded["feature_means"][0], rel=0.1)
    assert float(maps["pooled"].mean()) == pytest.approx(float(maps["layer4"].mean()), rel=1e-5)
    output = model.train()({"images": x}, ("stem", "layer3"))
    assert [list(part.shape) for part in output["pose"].split([3, 4], dim=1)] == recorded["output_shapes"]
    loss = F.mse_loss(output["pose"], torch.ones(2, 7)) + output["maps.layer3"].mean()
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max() > 0, key
