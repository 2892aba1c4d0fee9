"""Networks of timm: maps of CNNs and of transformers at any size, weights from a file, every refusal in one line."""

import sys

import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.common.outputs import layer_maps
from distilplace.models import create_model, model_settings
from distilplace.models.checkpoints import load_weights, save_weights

timm = pytest.importorskip("timm")

CNN, CONVNEXT, VIT, VIT_AVERAGE = "resnet10t", "test_convnext", "test_vit", "test_vit4"
# Network -> channels of the levels and their strides.
LEVELS = {
    CNN: ((64, 128, 256, 512), (4, 8, 16, 32)),
    CONVNEXT: ((24, 32, 48, 64), (4, 8, 16, 32)),
    VIT: ((64,) * 4, (16,) * 4),
    VIT_AVERAGE: ((96,) * 4, (16,) * 4),
}


def images(count, height, width, seed=1):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def awake(model):
    """timm starts a residual branch's last scale at 0, where no gradient passes: set such scales to 1."""
    with torch.no_grad():
        for value in model.parameters():
            if not value.any() and value.ndim == 1:
                value += 1.0
    return model


def build(network, **given):
    torch.manual_seed(0)
    return awake(create_model(f"timm:{network}", **({"output_dim": 16} | given))).eval()


@pytest.mark.parametrize("network", LEVELS)
@pytest.mark.parametrize("pool", ["GeM", "mean"])
def test_maps_at_every_size(network, pool):
    model = build(network, pool=pool)
    channels, strides = LEVELS[network]
    width = channels[-1] if pool == "mean" else 16
    assert model.level_maps == ("layer1", "layer2", "layer3", "layer4")
    assert model.output_dim == width
    assert any(key.startswith("conv1x1.") for key in model.state_dict()) == (pool != "mean")
    for height, columns in ((64, 96), (32, 32), (96, 80)):
        with torch.no_grad():
            output = model({"images": images(2, height, columns)}, feature_maps=(*model.level_maps, "map"))
        maps = layer_maps(output)
        assert output["embedding"].shape == (2, width)
        for name, depth, stride in zip(model.level_maps, channels, strides, strict=True):
            # A ConvNeXt drops a last row that fills no cell; everything else rounds up.
            rounded = [size // stride if network == CONVNEXT else -(-size // stride) for size in (height, columns)]
            assert maps[name].shape == (2, depth, *rounded)
        assert maps["map"].shape == (2, width, *maps["layer4"].shape[2:])
        if pool == "mean":
            assert maps["map"] is maps["layer4"]
            torch.testing.assert_close(output["embedding"].norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("network", LEVELS)
def test_gradient_reaches_every_parameter_and_images_stay_apart(network):
    model = build(network)
    batch = images(3, 64, 75)
    embedding = model({"images": batch})["embedding"]
    (embedding * images(1, 3, 16)[0, 0]).sum().backward()
    assert [key for key, value in model.named_parameters() if not value.grad.abs().sum() > 0] == []
    with torch.no_grad():
        alone = torch.cat([model({"images": image[None]})["embedding"] for image in batch])
    torch.testing.assert_close(embedding, alone, atol=1e-5, rtol=1e-3)
    assert len(model.branch_parameters()["image"]) == len(list(model.parameters()))


def test_transformer_levels_are_the_quarters_of_its_depth_behind_the_final_norm():
    model = build(VIT)  # 6 blocks: quarters end behind blocks 2, 3, 5 and 6
    assert isinstance(model.model.norm, torch.nn.LayerNorm)
    batch = images(2, 64, 48)
    found = {}
    hooks = [
        block.register_forward_hook(lambda _block, _inputs, output, number=number: found.update({number: output}))
        for number, block in enumerate(model.model.blocks, start=1)
    ]
    with torch.no_grad():
        maps = layer_maps(model({"images": batch}, feature_maps=model.level_maps))
        for name, number in zip(model.level_maps, (2, 3, 5, 6), strict=True):
            tokens = model.model.norm(found[number])[:, model.model.num_prefix_tokens :]
            for row in range(4):
                for column in range(3):
                    torch.testing.assert_close(maps[name][:, :, row, column], tokens[:, row * 3 + column])
    for hook in hooks:
        hook.remove()


def test_a_size_that_is_no_multiple_of_the_patch_is_padded_with_zeros():
    model = build(VIT)
    small = images(1, 50, 33)
    padded = torch.zeros(1, 3, 64, 48)
    padded[:, :, :50, :33] = small
    with torch.no_grad():
        assert torch.equal(model({"images": small})["embedding"], model({"images": padded})["embedding"])


def test_a_network_of_one_size_only():
    model = build("test_vit_relpos")
    with torch.no_grad():
        assert model({"images": images(1, 160, 160)})["embedding"].shape == (1, 16)
    with pytest.raises(UserError, match=r"cannot take images of 64 x 96 pixels.*its own size, 160 x 160") as caught:
        model({"images": images(1, 64, 96)})
    assert "\n" not in str(caught.value)


def test_a_failure_that_is_not_the_sizes_fault_stays_what_it_is():
    model = build(CONVNEXT)
    with pytest.raises(RuntimeError):
        model({"images": images(1, 64, 64).double()})


@pytest.mark.parametrize("network", [CNN, CONVNEXT, VIT_AVERAGE])
def test_a_file_under_timms_names(tmp_path, network):
    torch.manual_seed(7)
    whole = timm.create_model(network)
    torch.save(whole.state_dict(), tmp_path / "own.pth")
    model = create_model(f"timm:{network}", output_dim=8, pretrained=str(tmp_path / "own.pth"))
    ours, theirs = model.model.state_dict(), whole.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    left = {f"model.{key}" for key in theirs.keys() - ours.keys()}
    assert left == {key for key in model.unused_checkpoint_prefixes if key.startswith("model.")} != set()


def test_a_file_of_another_network_is_refused(tmp_path):
    torch.save(timm.create_model(VIT).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth for test_convnext is of another architecture"):
        create_model(f"timm:{CONVNEXT}", pretrained=str(tmp_path / "other.pth"))
    with pytest.raises(UserError, match=r"--pretrained nowhere\.pth: no such file; give imagenet, none or a test_vit"):
        create_model(f"timm:{VIT}", pretrained="nowhere.pth")


def test_imagenet_is_timms_own_and_a_failed_download_says_what_to_do(monkeypatch):
    asked, create = [], timm.create_model

    def without_network(name, pretrained=False, **given):
        if pretrained:
            asked.append((name, given))
            raise OSError("no route to the hub\nsecond line")
        return create(name, pretrained=pretrained, **given)

    monkeypatch.setattr(timm, "create_model", without_network)
    with pytest.raises(UserError, match=r"\(no route to the hub\).*--pretrained none, or give a state dict") as caught:
        create_model(f"timm:{CNN}", pretrained="imagenet")
    assert "second" not in str(caught.value)
    assert [name for name, _ in asked] == [CNN]


def test_imagenet_weights_that_arrive_are_used(tmp_path, monkeypatch):
    torch.manual_seed(8)
    whole, create = timm.create_model(CONVNEXT), timm.create_model
    torch.save(whole.state_dict(), tmp_path / "hub.pth")

    def with_cache(name, pretrained=False, **given):
        overlay = {"pretrained_cfg_overlay": {"file": str(tmp_path / "hub.pth")}} if pretrained else {}
        return create(name, pretrained=pretrained, **overlay, **given)

    monkeypatch.setattr(timm, "create_model", with_cache)
    ours = create_model(f"timm:{CONVNEXT}", pretrained="imagenet").model.state_dict()
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in ours.items())


def test_checkpoint_round_trip(tmp_path):
    model, other = build(VIT), create_model(f"timm:{VIT}", output_dim=16).eval()
    path = save_weights(model, tmp_path / "vit.safetensors")
    load_weights(other, path)
    batch = {"images": images(2, 48, 64)}
    with torch.no_grad():
        assert torch.equal(model(batch)["embedding"], other(batch)["embedding"])
    assert {key.split(".")[0] for key in model.state_dict()} == {"model", "conv1x1", "image_gem"}


def test_dinov2_by_its_own_name():
    assert model_settings("dinov2_vits14") == ("output_dim", "pool", "pretrained", "gem_p")
    with torch.device("meta"):  # 22 million parameters, none of them needed here
        model = create_model("dinov2_vits14", pool="mean")
        output = model({"images": torch.empty(2, 3, 64, 90)}, feature_maps=("layer1", "map"))
    assert output["embedding"].shape == (2, 384)
    assert output["maps.layer1"].shape == output["maps.map"].shape == (2, 384, 5, 7)
    assert model.indices == [2, 5, 8, 11]


def test_mistakes(monkeypatch):
    with pytest.raises(UserError, match="unknown timm network 'resnet10': did you mean resnet10t"):
        create_model("timm:resnet10")
    with pytest.raises(UserError, match="unknown weights of timm network resnet10t 'c3_in2k': did you mean 'c3_in1k'"):
        create_model("timm:resnet10t.c3_in2k")
    with pytest.raises(UserError, match="unknown pooling 'gem'"):
        create_model(f"timm:{VIT}", pool="gem")
    with pytest.raises(UserError, match="output_dim of image network test_vit is 0"):
        create_model(f"timm:{VIT}", output_dim=0)
    model = build(VIT)
    with pytest.raises(UserError, match="unknown feature map of test_vit 'layer5'"):
        model({"images": images(1, 32, 32)}, feature_maps=("layer5",))
    with pytest.raises(UserError, match="31 x 40 pixels are too small"):
        model({"images": images(1, 31, 40)})
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="pip install timm"):
        create_model(f"timm:{VIT}")
