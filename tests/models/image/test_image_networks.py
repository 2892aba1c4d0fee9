"""VGGs and MobileNets as image networks, the head without parameters, whole ResNets, trunk files as checkpoints."""

import math

import pytest
import torch
from torchvision.models import get_model

from distilplace.common.errors import UserError
from distilplace.common.outputs import layer_maps
from distilplace.common.randomness import forked_random_state
from distilplace.models import create_model
from distilplace.models.architecture import describe
from distilplace.models.checkpoints import load_weights, save_weights
from distilplace.models.image.backbones import NETWORKS, WHOLE_FAMILIES, trunk_width

WHOLE = [name for name, facts in NETWORKS.items() if facts.family in WHOLE_FAMILIES and facts.imagenet]
MOBILE = [name for name in WHOLE if "mobilenet" in name]
# Channels of the last map at each resolution, from a half down to a thirty-second of the image's side.
WIDTHS = {
    "vgg16": (128, 256, 512, 512, 512),
    "vgg19": (128, 256, 512, 512, 512),
    "mobilenet_v2": (16, 24, 32, 96, 1280),
    "mobilenetv3_large": (16, 24, 40, 112, 960),
    "mobilenetv3_small": (16, 16, 24, 48, 576),
}
MAPS = ("stem", "layer1", "layer2", "layer3", "layer4")


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """A MobileNetV2 under torchvision's names as files of trunks have it: no classifier, no batch-norm counters."""
    with forked_random_state("trunk"):
        state = get_model("mobilenet_v2", weights=None).state_dict()
    kept = {k: v for k, v in state.items() if k.startswith("features.") and not k.endswith("num_batches_tracked")}
    path = tmp_path_factory.mktemp("trunk") / "mobilenet_v2_features.pth"
    torch.save(kept, path)
    return path


def torchvision_features(network):
    """torchvision's own layers, VGGs without their classifier being filled."""
    name = NETWORKS[network].torchvision or network
    if not network.startswith("vgg"):
        return get_model(name, weights=None).eval().features
    with torch.device("meta"):
        features = get_model(name, weights=None, init_weights=False).features
    return features.to_empty(device="cpu").eval()


@pytest.mark.parametrize("network", WHOLE)
def test_the_whole_trunk_and_its_resolutions(network):
    """Every map is the last of torchvision's own layers at its resolution; every parameter is used."""
    torch.manual_seed(0)
    model = create_model(network, output_dim=12).train()  # at random, eval mode would let the maps fade to 0
    features = torchvision_features(network).train()
    features.load_state_dict(model.model.features.state_dict())
    images = torch.randn(2, 3, 64, 96)
    output = model({"images": images}, feature_maps=(*MAPS, "map"))
    by_height, x = {}, images
    with torch.no_grad():
        for layer in features:
            x = layer(x)
            by_height[x.shape[2]] = x
    maps = layer_maps(output)
    for name, height, width in zip(MAPS, (32, 16, 8, 4, 2), WIDTHS[network], strict=True):
        assert maps[name].shape == (2, width, height, height * 3 // 2)
        assert maps[name].std() > 0.01
        torch.testing.assert_close(maps[name], by_height[height])
    torch.testing.assert_close(maps["layer4"], x)
    assert maps["map"].shape == (2, 12, 2, 3)
    assert output["embedding"].shape == (2, 12)
    assert model.level_maps == MAPS[1:]
    assert trunk_width(network, 4) == WIDTHS[network][-1]
    output["embedding"].square().sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("network", WHOLE)
def test_names_are_torchvisions_and_settings_are_read_off_them(network):
    model = create_model(network, output_dim=12, useallstages=False)
    features = {f"model.features.{key}" for key in torchvision_features(network).state_dict()}
    assert model.state_dict().keys() == features | {"conv1x1.weight", "conv1x1.bias", "image_gem.p"}
    expected = {"kind": "image only", "network": network, "output_dim": 12, "pool": "GeM"}
    assert describe(model.state_dict()) == expected
    bare = create_model(network, pool="mean")
    assert describe(bare.state_dict()) == {"kind": "image only", "network": network, "pool": "mean"}


def test_vggs_start_as_torchvision_starts_them():
    torch.manual_seed(0)
    model = create_model("vgg16", output_dim=8)
    for layer in model.model.features:
        if isinstance(layer, torch.nn.Conv2d):
            wanted = math.sqrt(2 / (layer.out_channels * 9))
            assert layer.weight.std().item() == pytest.approx(wanted, rel=0.1)
            assert not layer.bias.any()


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (61, 90)])
@pytest.mark.parametrize("network", ["vgg16", *MOBILE])
def test_odd_image_sizes(network, size):
    model = create_model(network, pool="mean").eval()
    with torch.no_grad():
        output = model({"images": torch.randn(1, 3, *size)}, feature_maps=MAPS)
    assert torch.isfinite(output["embedding"]).all()
    assert output["embedding"].shape == (1, model.output_dim)


@pytest.mark.parametrize("network", ["resnet18", "mobilenetv3_small", "swin_t"])
def test_mean_pooling_is_the_unit_mean_of_the_trunks_map(network):
    torch.manual_seed(0)
    model = create_model(network, pool="mean", output_dim=7).eval()
    assert all(key.startswith("model.") for key in model.state_dict())
    assert model.output_dim == trunk_width(network, 4 if network == "mobilenetv3_small" else 3)
    with torch.no_grad():
        output = model({"images": torch.randn(2, 3, 64, 96)}, feature_maps=(model.level_maps[-1], "map"))
    last, seen = layer_maps(output).values()
    assert torch.equal(last, seen)
    for features, embedding in zip(last, output["embedding"], strict=True):
        means = [float(channel.double().mean()) for channel in features]
        length = math.sqrt(sum(mean**2 for mean in means))
        torch.testing.assert_close(embedding, torch.tensor([mean / length for mean in means]), rtol=1e-4, atol=1e-6)


def test_whole_resnets_by_name():
    model = create_model("resnet18_full", output_dim=8)
    assert model.level_maps == ("layer1", "layer2", "layer3", "layer4")
    assert model.state_dict().keys() == create_model("resnet18", output_dim=8, useallstages=True).state_dict().keys()
    assert create_model("resnet18").level_maps == ("layer1", "layer2", "layer3")
    with pytest.raises(UserError, match="unknown setting of model resnet18_full 'useallstages'"):
        create_model("resnet18_full", useallstages=False)


def test_the_teachers_levels_are_its_image_branchs():
    assert create_model("minklocmmcat").level_maps == ("layer1", "layer2", "layer3")
    whole = create_model("minklocmmcat", image_useallstages=True)
    assert whole.level_maps == ("layer1", "layer2", "layer3", "layer4")
    bare = create_model("minklocmmcat", image_fe="mobilenetv3_small", image_pool="mean")
    assert bare.output_dim == 128 + 576


def test_only_what_learns_is_listed():
    for name, branch in (("resnet18", ""), ("minklocmmcat", "image_fe.")):
        model = create_model(name)
        for part in ("model.conv1", "model.layer1"):
            model.get_submodule(branch + part).requires_grad_(False)
        if branch:
            model.cloud_fe.requires_grad_(False)
        branches = model.branch_parameters()
        listed = {id(p) for parameters in branches.values() for p in parameters}
        assert listed == {id(p) for p in model.parameters() if p.requires_grad}
        assert branches["cloud"] == []


def test_a_trunk_is_a_checkpoint_of_a_model_that_is_nothing_more(trunk):
    state = torch.load(trunk, weights_only=True)
    loaded = create_model("mobilenet_v2", pool="mean")
    report = load_weights(loaded, trunk)
    assert len(report.loaded) == len(state) == 260
    assert report.skipped == ()
    assert all(key.endswith("num_batches_tracked") for key in report.absent_counters)
    ours = loaded.state_dict()
    assert all(torch.equal(ours[f"model.{key}"], value) for key, value in state.items())
    started = create_model("mobilenet_v2", pool="mean", pretrained=str(trunk)).state_dict()
    assert all(torch.equal(started[key], value) for key, value in ours.items())
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    theirs = get_model("mobilenet_v2", weights=None)
    theirs.features.load_state_dict({key.removeprefix("features."): v for key, v in state.items()}, strict=False)
    with torch.no_grad():
        expected = theirs.eval().features(images).mean(dim=(2, 3))
        found = loaded.eval()({"images": images})["embedding"]
    torch.testing.assert_close(found, expected / expected.norm())


def test_a_trunk_is_no_checkpoint_of_a_model_that_is_more(trunk):
    model = create_model("mobilenet_v2", output_dim=8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match=r"also has conv1x1\.weight.*: give the file as --pretrained instead") as error:
        load_weights(model, trunk)
    assert str(trunk) in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    create_model("mobilenet_v2", output_dim=8, pretrained=str(trunk))


def test_trunk_files_of_a_cut_network_with_the_classifier(tmp_path):
    whole = get_model("resnet18", weights=None).state_dict()
    torch.save(whole, tmp_path / "resnet18.pth")
    model = create_model("resnet18", pool="mean")
    report = load_weights(model, tmp_path / "resnet18.pth")
    assert all(key.startswith(("model.layer4.", "model.fc.")) for key in report.skipped)
    assert all(torch.equal(value, whole[key.removeprefix("model.")]) for key, value in model.state_dict().items())
    with pytest.raises(UserError, match=r"also has cloud_fe.*give the file as --pretrained instead"):
        load_weights(create_model("minklocmmcat"), tmp_path / "resnet18.pth")


def test_a_trunk_file_must_fit(tmp_path):
    trunk = {f"features.{k}": v for k, v in create_model("mobilenetv3_small").model.features.state_dict().items()}
    torch.save(trunk, tmp_path / "small.pth")
    with pytest.raises(UserError, match="network is mobilenetv3_small in the file, mobilenetv3_large in the model"):
        load_weights(create_model("mobilenetv3_large", pool="mean"), tmp_path / "small.pth")
    del trunk["features.0.0.weight"]
    torch.save(trunk, tmp_path / "short.pth")
    with pytest.raises(UserError, match=r"lacks model\.features\.0\.0\.weight"):
        load_weights(create_model("mobilenetv3_small", pool="mean"), tmp_path / "short.pth")
    torch.save(create_model("mobilenetv3_small", output_dim=8).state_dict(), tmp_path / "student.pth")
    with pytest.raises(UserError, match=r"pool is GeM in the file, mean in the model"):
        load_weights(create_model("mobilenetv3_small", pool="mean"), tmp_path / "student.pth")


def test_what_is_saved_of_a_bare_trunk_comes_back(tmp_path):
    source, target = create_model("mobilenetv3_small", pool="mean"), create_model("mobilenetv3_small", pool="mean")
    load_weights(target, save_weights(source, tmp_path / "a.safetensors"))
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in target.state_dict().items())
