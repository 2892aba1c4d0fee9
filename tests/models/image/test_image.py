"""Image networks: the published student's numbers, every network x cut x head, feature maps, image sizes."""

import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.common.outputs import layer_maps
from distilplace.models import create_model, list_models, model_settings
from distilplace.models.image.backbones import NETWORKS, WHOLE_FAMILIES, trunk_width

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
BIG = {"convnext_small", "swin_s", "swin_v2_s", "resnet101", "resnet152"}
CUT = [name for name, facts in NETWORKS.items() if facts.family not in WHOLE_FAMILIES]
EVERY_NETWORK = [pytest.param(name, marks=pytest.mark.slow if name in BIG else ()) for name in CUT]


def normalised(images_u8):
    return (images_u8.float() / 255 - MEAN) / STD


def relative(value, reference):
    return ((value.double() - reference.double()).norm() / reference.double().norm()).item()


def load_golden(model, state):
    wanted = model.state_dict()
    assert set(state) == set(wanted)
    model.load_state_dict({key: value.to(wanted[key].dtype) for key, value in state.items()})
    return model


@pytest.fixture(scope="module")
def student_golden(golden):
    return golden("e_student_resnet18.pt")


@pytest.fixture(scope="module")
def published_keys(golden):
    """The published key lists: name -> {key: (shape, dtype)}."""
    return {
        name: {key: (tuple(shape), dtype) for key, shape, dtype in rows}
        for name, rows in golden("state_dict_keys.json").items()
    }


def shapes(model):
    return {key: (tuple(value.shape), str(value.dtype)) for key, value in model.state_dict().items()}


def test_student_eval_equals_the_published_program(student_golden):
    model = load_golden(create_model("resnet18", output_dim=384), student_golden["state_dict_used"]).eval()
    layers = ("layer1", "layer2", "layer3")
    with torch.no_grad():
        output = model({"images": normalised(student_golden["images_u8"])}, feature_maps=layers)
    assert relative(output["embedding"], student_golden["eval_embedding_f64"]) < 2e-6
    for name in layers:
        pooled = output[f"maps.{name}"].mean(dim=(2, 3))
        assert relative(pooled, student_golden["eval_layer_avgpools"][f"image_{name}_avgpool"]) < 1e-5


def test_student_in_float64_reproduces_the_float64_reference(student_golden):
    model = load_golden(create_model("resnet18", output_dim=384), student_golden["state_dict_used"]).double().eval()
    images = (student_golden["images_u8"].double() / 255 - MEAN.double()) / STD.double()
    with torch.no_grad():
        embedding = model({"images": images})["embedding"]
    # The reference normalised its images in float32.
    assert relative(embedding, student_golden["eval_embedding_f64"]) < 1e-6


def test_student_training_step_equals_the_published_program(student_golden):
    model = load_golden(create_model("resnet18", output_dim=384), student_golden["state_dict_used"]).train()
    embedding = model({"images": normalised(student_golden["images_u8"])})["embedding"]
    (embedding * student_golden["train_cotangent"]).sum().backward()
    assert relative(embedding, student_golden["train_embedding"]) < 1e-5
    parameters = dict(model.named_parameters())
    for name, gradient in student_golden["grads"].items():
        assert relative(parameters[name].grad, gradient) < 1e-4, name
    assert set(student_golden["grad_norms"]) == set(parameters)
    for name, norm in student_golden["grad_norms"].items():
        assert parameters[name].grad.norm().item() == pytest.approx(norm, rel=1e-4), name
    state = model.state_dict()
    for name, value in student_golden["bn_after"].items():
        assert relative(state[name], value) < 1e-5, name


@pytest.mark.parametrize(("name", "key"), [("resnet18", "student_resnet18_384"), ("resnet34", "student_resnet34_384")])
def test_keys_are_the_published_ones_less_the_unused_parts(published_keys, name, key):
    published = published_keys[key]
    model = create_model(name, output_dim=384)
    ours = shapes(model)
    assert ours.items() <= published.items()
    rest = published.keys() - ours.keys()
    unused = ("model.layer4.", "model.fc.", "imagecosplace.", "imageconvap.", "imagenetvlad.")
    assert rest == {k for k in published if k.startswith(unused)}
    assert set(model.unused_checkpoint_prefixes) == set(unused)


@pytest.mark.parametrize("pool", ["CosPlace", "ConvAP", "NetVLAD"])
def test_other_heads_have_the_published_keys_and_shapes(published_keys, pool):
    ours = shapes(create_model("resnet18", output_dim=384, pool=pool))
    assert ours.items() <= published_keys["student_resnet18_384"].items()
    assert any(k.startswith(f"image{pool.lower()}.") for k in ours)


def test_the_student_holds_only_what_it_uses(student_golden):
    assert sum(p.numel() for p in create_model("resnet18").parameters()) == student_golden["n_params_used"]


@pytest.mark.parametrize("useallstages", [False, True])
@pytest.mark.parametrize("network", EVERY_NETWORK)
def test_every_network_and_cut(network, useallstages):
    torch.manual_seed(0)
    model = create_model(network, output_dim=24, useallstages=useallstages).eval()
    stages = 4 if useallstages else 3
    images = torch.randn(2, 3, 64, 96)
    last = f"layer{stages}"
    output = model({"images": images}, feature_maps=("stem", "layer1", "layer2", last, "map"))
    maps = layer_maps(output)
    assert output["embedding"].shape == (2, 24)
    assert maps["stem"].shape[2:] == maps["layer1"].shape[2:] == (16, 24)
    assert maps["layer2"].shape[2:] == (8, 12)
    assert maps[last].shape == (2, trunk_width(network, stages), 64 >> stages + 1, 96 >> stages + 1)
    assert maps["map"].shape == (2, 24, 64 >> stages + 1, 96 >> stages + 1)
    output["embedding"].square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    with torch.no_grad():
        assert torch.equal(model({"images": images})["embedding"], model({"images": images})["embedding"])
        alone = torch.cat([model({"images": image[None]})["embedding"] for image in images])
    torch.testing.assert_close(alone, output["embedding"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("pool", "width"), [("GeM", 16), ("CosPlace", 16), ("ConvAP", 64), ("NetVLAD", 1024)])
@pytest.mark.parametrize("network", ["resnet18", "convnext_tiny", "swin_v2_t"])
def test_every_head_on_every_family(network, pool, width):
    torch.manual_seed(0)
    model = create_model(network, output_dim=16, pool=pool).eval()
    embedding = model({"images": torch.randn(2, 3, 64, 96)})["embedding"]
    assert embedding.shape == (2, width)
    assert model.output_dim == width
    (embedding * torch.randn_like(embedding)).sum().backward()
    assert [name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("network", ["resnet18", "convnext_tiny", "swin_t", "swin_v2_t"])
def test_odd_image_sizes(network):
    model = create_model(network, output_dim=8, useallstages=True).eval()
    for size in ((32, 32), (33, 47), (61, 90), (127, 153)):
        with torch.no_grad():
            embedding = model({"images": torch.randn(1, 3, *size)})["embedding"]
        assert embedding.shape == (1, 8), size
        assert torch.isfinite(embedding).all(), size


def test_trunks_equal_torchvision_uncut():
    """The maps are those of torchvision's own forward pass (hooks on the whole network with the same weights)."""
    from torchvision.models import get_model

    for network, path in (("resnet18", "layer4"), ("convnext_tiny", "features.7"), ("swin_t", "features.7")):
        whole = get_model(network, weights=None).eval()
        seen = {}
        whole.get_submodule(path).register_forward_hook(lambda _m, _i, out, seen=seen: seen.update(last=out))
        model = create_model(network, output_dim=8, useallstages=True).eval()
        trunk_keys = model.model.state_dict().keys()
        model.model.load_state_dict({k: v for k, v in whole.state_dict().items() if k in trunk_keys})
        images = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            whole(images)
            ours = model({"images": images}, feature_maps=("layer4",))["maps.layer4"]
        theirs = seen["last"].permute(0, 3, 1, 2) if network == "swin_t" else seen["last"]
        torch.testing.assert_close(ours, theirs)


def test_images_that_cannot_be():
    model = create_model("resnet18", output_dim=8)
    with pytest.raises(UserError, match="31 x 64 pixels are too small"):
        model({"images": torch.zeros(1, 3, 31, 64)})
    with pytest.raises(ValueError, match="images must be"):
        model({"images": torch.zeros(3, 64, 64)})


def test_feature_maps_only_when_asked_and_by_known_names():
    model = create_model("resnet18", output_dim=8).eval()
    batch = {"images": torch.randn(1, 3, 32, 32)}
    assert set(model(batch)) == {"embedding"}
    assert list(layer_maps(model(batch, feature_maps=("layer2",)))) == ["layer2"]
    with pytest.raises(UserError, match="unknown feature map of resnet18 'layer4'"):
        model(batch, feature_maps=("layer4",))


def test_public_attributes():
    model = create_model("resnet18")
    assert model.requires == ("images",)
    assert model.output_dim == 384
    branches = model.branch_parameters()
    assert branches["cloud"] == []
    assert {id(p) for p in branches["image"]} == {id(p) for p in model.parameters()}


def test_the_table_knows_the_names_and_refuses_others():
    assert {*NETWORKS, "minkloc", "minkloconly", "minklocmmcat", "minklocmmadd"} <= set(list_models())
    assert model_settings("resnet18") == ("output_dim", "pool", "useallstages", "pretrained", "gem_p")
    assert "image_fe_dim" in model_settings("minklocmmcat")
    assert "fusion" not in model_settings("minklocmmcat")
    assert {"output_dim", "planes", "conv0_kernel_size"} <= set(
        model_settings("minkloconly")
    )  # the last is its parent's
    assert "settings" not in model_settings("minkloconly")
    with pytest.raises(UserError, match="unknown model 'resnet81': did you mean 'resnet18'"):
        create_model("resnet81")
    with pytest.raises(UserError, match="unknown setting of model resnet18 'output_dims': did you mean 'output_dim'"):
        create_model("resnet18", output_dims=3)
    with pytest.raises(UserError, match="unknown setting of model resnet18 'network'"):
        create_model("resnet18", network="resnet34")
    with pytest.raises(UserError, match="must be at least 1"):
        create_model("resnet18", output_dim=0)
