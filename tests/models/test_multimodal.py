"""LiDAR + image teachers: the published teacher's numbers and keys, fusion, loading."""

import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.models import create_model
from distilplace.models.architecture import describe
from distilplace.models.checkpoints import load_weights

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
SMALL = {"image_fe_dim": 16, "cloud_fe_dim": 16, "cloud_planes": (8, 8, 8)}


def relative(value, reference):
    return ((value.double() - reference.double()).norm() / reference.double().norm()).item()


@pytest.fixture(scope="module")
def teacher_golden(golden):
    return golden("d_teacher_minklocmmcat.pt")


@pytest.fixture(scope="module")
def published_file(teacher_golden, tmp_path_factory):
    """The teacher's checkpoint as the published program stores it: every key, the unused ones too."""
    shapes = {key: shape for key, shape, _ in teacher_golden["state_dict_keys"]}
    path = tmp_path_factory.mktemp("teacher") / "published.pth"
    torch.save({key: torch.zeros(shape) for key, shape in shapes.items()} | teacher_golden["state_dict_used"], path)
    return path


@pytest.fixture(scope="module")
def teacher(published_file, teacher_golden):
    width = len(teacher_golden["state_dict_used"]["image_fe.conv1x1.weight"])
    model = create_model("minklocmmcat", image_fe_dim=width)
    report = load_weights(model, published_file)
    assert len(report.loaded) == 166
    return model.eval()


def golden_batch(content):
    images = (content["images_u8"].float() / 255 - MEAN) / STD
    coords = content["coords"]
    return {"images": images, "coords": coords, "features": torch.ones(len(coords), 1)}


def small_batch(count=2, seed=0):
    draw = torch.Generator().manual_seed(seed)
    cells = [torch.randint(-20, 20, (150, 3), generator=draw).unique(dim=0) for _ in range(count)]
    coords = torch.cat([torch.nn.functional.pad(cell, (1, 0), value=i) for i, cell in enumerate(cells)]).int()
    images = torch.randn(count, 3, 64, 96, generator=draw)
    return {"images": images, "coords": coords, "features": torch.ones(len(coords), 1)}


def test_teacher_eval_equals_the_published_program(teacher, teacher_golden):
    expected = teacher_golden["outputs"]
    layers = ("layer1", "layer2", "layer3")
    with torch.no_grad():
        output = teacher(golden_batch(teacher_golden), feature_maps=layers)
    assert relative(output["embedding"], expected["embedding_f64"]) < 1e-5
    assert relative(output["cloud_embedding"], expected["cloud_embedding"]) < 1e-5
    assert relative(output["image_embedding"], expected["image_embedding"]) < 1e-5
    for name in layers:
        pooled = output[f"maps.{name}"].mean(dim=(2, 3))
        assert relative(pooled, expected[f"image_{name}_avgpool"]) < 1e-5, name
    map3 = output["maps.layer3"]
    if checksum := expected.get("image_layer3_checksum"):  # not in the subset
        assert list(map3.shape) == checksum["shape"]
        assert map3.mean().item() == pytest.approx(checksum["mean"], rel=1e-4)
        assert map3.norm().item() == pytest.approx(checksum["l2"], rel=1e-4)


def test_teacher_keys_are_the_published_ones_less_the_unused_parts(teacher_golden):
    teacher = create_model("minklocmmcat")
    published = {key: (tuple(shape), dtype) for key, shape, dtype in teacher_golden["state_dict_keys"]}
    ours = {key: (tuple(value.shape), str(value.dtype)) for key, value in teacher.state_dict().items()}
    assert ours.items() <= published.items()
    assert ours.keys() == teacher_golden["state_dict_used"].keys()
    parts = ("model.layer4.", "model.fc.", "imagecosplace.", "imageconvap.", "imagenetvlad.")
    unused = tuple(f"image_fe.{part}" for part in parts)
    assert published.keys() - ours.keys() == {key for key in published if key.startswith(unused)}
    assert set(teacher.unused_checkpoint_prefixes) == set(unused)


def test_cloud_comes_first_in_the_concatenation():
    model = create_model("minklocmmcat", **{**SMALL, "image_fe_dim": 12}).eval()
    with torch.no_grad():
        output = model(small_batch())
    assert output["cloud_embedding"].shape == (2, 16)
    assert output["image_embedding"].shape == (2, 12)
    assert torch.equal(output["embedding"], torch.cat((output["cloud_embedding"], output["image_embedding"]), dim=1))
    assert model.output_dim == 28
    assert set(output) == {"embedding", "cloud_embedding", "image_embedding"}


def test_adding_sums_equal_sizes_and_refuses_others():
    model = create_model("minklocmmadd", **SMALL).eval()
    with torch.no_grad():
        output = model(small_batch())
    assert torch.equal(output["embedding"], output["cloud_embedding"] + output["image_embedding"])
    assert model.output_dim == 16
    with pytest.raises(UserError, match=r"cloud's has 128 numbers and the image's 256.*minklocmmcat"):
        create_model("minklocmmadd")
    with pytest.raises(UserError, match="cloud's has 16 numbers and the image's 64"):
        create_model("minklocmmadd", **SMALL, image_pool="ConvAP")


def test_width_follows_the_head():
    model = create_model("minklocmmcat", **SMALL, image_pool="ConvAP").eval()
    with torch.no_grad():
        assert model(small_batch())["embedding"].shape == (2, 16 + 64)
    assert model.output_dim == 80


def test_branches_hold_all_parameters_once():
    model = create_model("minklocmmcat", **SMALL)
    branches = model.branch_parameters()
    names = {id(p): name for name, p in model.named_parameters()}
    assert all(names[id(p)].startswith("image_fe.") for p in branches["image"])
    assert all(names[id(p)].startswith("cloud_fe.") for p in branches["cloud"])
    assert len(branches["image"]) + len(branches["cloud"]) == len(names)
    assert model.requires == ("images", "coords", "features")


def test_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    model = create_model("minklocmmcat", **SMALL)
    embedding = model(small_batch())["embedding"]
    (embedding * torch.randn_like(embedding)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_a_place_alone_gives_what_it_gives_in_a_batch():
    model = create_model("minklocmmcat", **SMALL).eval()
    batch = small_batch(3)
    with torch.no_grad():
        together = model(batch)["embedding"]
        for i in range(3):
            mine = batch["coords"][:, 0] == i
            coords = batch["coords"][mine].clone()
            coords[:, 0] = 0
            alone = {"images": batch["images"][i : i + 1], "coords": coords, "features": batch["features"][mine]}
            torch.testing.assert_close(model(alone)["embedding"][0], together[i], rtol=1e-4, atol=1e-6)


def test_unpaired_batches_are_refused():
    model = create_model("minklocmmcat", **SMALL).eval()
    batch = small_batch(3)
    with pytest.raises(ValueError, match="2 images came with 3 clouds"):
        model({**batch, "images": batch["images"][:2]})


def test_settings_are_read_off_the_teacher(teacher_golden):
    width = len(teacher_golden["state_dict_used"]["image_fe.conv1x1.weight"])  # 256, but 384 in the subset
    assert describe(teacher_golden["state_dict_used"]) == {
        "kind": "LiDAR + image",
        "image_fe": "resnet18",
        "image_fe_dim": width,
        "image_useallstages": False,
        "image_pool": "GeM",
        "cloud_fe_dim": 128,
        "cloud_planes": (32, 64, 64),
        "cloud_layers": (1, 1, 1),
        "cloud_topdown": 1,
        "cloud block": "ECABasicBlock",
        "cloud in_channels": 1,
        "cloud conv0_kernel_size": 5,
    }


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"image_fe_dim": 128}, "image_fe_dim is (256|384) in the file, 128 in the model"),
        ({"image_fe": "resnet34"}, "image_fe is resnet18 in the file, resnet34 in the model"),
        ({"cloud_planes": (32, 64, 128)}, r"cloud_planes is \(32, 64, 64\) in the file, \(32, 64, 128\) in the model"),
        ({"cloud_topdown": 2}, "cloud_topdown is 1 in the file, 2 in the model"),
        ({"cloud_fe_dim": 256}, "cloud_fe_dim is 128 in the file, 256 in the model"),
    ],
)
def test_a_teacher_of_another_architecture_is_told(published_file, settings, told):
    model = create_model("minklocmmcat", **settings)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match=told) as error:
        load_weights(model, published_file)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
