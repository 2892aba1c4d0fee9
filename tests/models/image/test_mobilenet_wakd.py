"""WAKD's own MobileNetV3: the published key names and counts, the whole of it by hand, and its authors' files."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.models import create_model
from distilplace.models.architecture import describe
from distilplace.models.checkpoints import load_weights
from distilplace.models.image.mobilenet_wakd import STEPS, MobileNetV3WAKD

PARAMETERS = 1_934_820
TENSORS = 396
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
# Block: kernel, width in, expansion, width out, stride, activation, gate; of the authors' program.
BLOCKS = """
3 16 16 16 1 relu -   | 3 16 64 24 2 relu -    | 3 24 72 24 1 relu -    | 5 24 72 40 2 relu se   | 5 40 120 40 1 relu se
5 40 120 40 1 relu se | 3 40 240 80 2 swish -  | 3 80 200 80 1 swish -  | 3 80 184 80 1 swish -  | 3 80 184 80 1 swish -
3 80 480 112 1 swish se | 3 112 672 112 1 swish se | 5 112 672 160 1 swish se | 5 160 672 160 2 swish se | 5 160 960 160 1 swish se
"""  # noqa: E501 (a table)
TABLE = [row.split() for row in BLOCKS.replace("\n", "|").split("|") if row.strip()]


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' state dict, from the table."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape

    def norm(name: str, width: int) -> None:
        shapes.update({f"{name}.{part}": () if part == NORM[-1] else (width,) for part in NORM})

    convolution("conv1", 16, 3, 3, 3)
    norm("bn1", 16)
    for number, (kernel, *widths, stride, _, gate) in enumerate(TABLE):
        into, wide, out = map(int, widths)
        front = f"bneck.{number}"
        convolution(f"{front}.conv1", wide, into, 1, 1)
        convolution(f"{front}.conv2", wide, 1, int(kernel), int(kernel))
        convolution(f"{front}.conv3", out, wide, 1, 1)
        for name, width in (("bn1", wide), ("bn2", wide), ("bn3", out)):
            norm(f"{front}.{name}", width)
        if gate == "se":
            convolution(f"{front}.se.se.0", out // 4, out, 1, 1)
            norm(f"{front}.se.se.1", out // 4)
            convolution(f"{front}.se.se.3", out, out // 4, 1, 1)
            norm(f"{front}.se.se.4", out)
        if stride == "1" and into != out:
            convolution(f"{front}.shortcut.0", out, into, 1, 1)
            norm(f"{front}.shortcut.1", out)
    convolution("conv2", 960, 160, 1, 1)
    norm("bn2", 960)
    convolution("conv3", 512, 960, 1, 1)
    norm("bn3", 512)
    return shapes


@pytest.fixture(scope="module")
def trunk() -> MobileNetV3WAKD:
    torch.manual_seed(0)
    found = MobileNetV3WAKD()
    for name, value in found.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.2)
    return found.eval()


def test_names_shapes_and_counts_are_the_authors(trunk):
    shapes = {name: tuple(value.shape) for name, value in trunk.state_dict().items()}
    assert shapes == published_shapes()
    assert len(shapes) == TENSORS
    assert sum(parameter.numel() for parameter in trunk.parameters()) == PARAMETERS
    assert len(STEPS) == len(TABLE)


def slow_forward(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network by functions on its state dict alone."""

    def conv(name: str, x: Tensor, **how: int) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], **how)

    def norm(name: str, x: Tensor) -> Tensor:
        part = {key: state[f"{name}.{key}"][None, :, None, None] for key in NORM[:4]}
        return (x - part["running_mean"]) / (part["running_var"] + 1e-5).sqrt() * part["weight"] + part["bias"]

    def swish(x: Tensor) -> Tensor:
        return x * (x + 3).clamp(0, 6) / 6

    x = swish(norm("bn1", conv("conv1", x, stride=2, padding=1)))
    for number, (kernel, into, wide, out, stride, activation, gate) in enumerate(TABLE):
        front, act = f"bneck.{number}", swish if activation == "swish" else torch.relu
        y = act(norm(f"{front}.bn1", conv(f"{front}.conv1", x)))
        how = {"stride": int(stride), "padding": int(kernel) // 2, "groups": int(wide)}
        y = act(norm(f"{front}.bn2", conv(f"{front}.conv2", y, **how)))
        y = norm(f"{front}.bn3", conv(f"{front}.conv3", y))
        if gate == "se":
            inner = torch.relu(norm(f"{front}.se.se.1", conv(f"{front}.se.se.0", y)))
            y = y * (norm(f"{front}.se.se.4", conv(f"{front}.se.se.3", inner)) + 3).clamp(0, 6) / 6
        if stride == "1":
            y = y + (x if into == out else norm(f"{front}.shortcut.1", conv(f"{front}.shortcut.0", x)))
        x = y
    x = swish(norm("bn2", conv("conv2", x)))
    return swish(norm("bn3", conv("conv3", x)))


def test_the_network_by_hand_and_its_maps(trunk):
    images = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        maps = trunk(images)
        torch.testing.assert_close(maps["layer4"], slow_forward(trunk.state_dict(), images), rtol=1e-4, atol=1e-4)
    assert {name: tuple(value.shape[1:]) for name, value in maps.items()} == {
        "stem": (16, 48, 32),
        "layer1": (24, 24, 16),
        "layer2": (40, 12, 8),
        "layer3": (160, 6, 4),
        "layer4": (512, 3, 2),
    }


def test_wakds_student_checkpoint_loads_under_its_names(tmp_path):
    source, target = (create_model("mobilenetv3_large_wakdnetvlad", clusters=3) for _ in range(2))
    shapes = {f"base_model.{name}" for name in published_shapes()}
    state = source.state_dict()
    assert state.keys() == shapes | {"net_vlad.conv.weight", "net_vlad.centroids"}
    assert source.output_dim == 3 * 512
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 4}, tmp_path / "model_best.pth.tar"
    )
    load_weights(target, tmp_path / "model_best.pth.tar")
    assert all(torch.equal(value, state[name]) for name, value in target.state_dict().items())
    assert describe(state) == {"kind": "NetVLAD network", "network": "mobilenetv3_large_wakd", "clusters": 3}
    with pytest.raises(
        UserError, match="network is mobilenetv3_large_wakd in the file, mobilenetv3_large in the model"
    ):
        load_weights(create_model("mobilenetv3_largenetvlad", clusters=3), tmp_path / "model_best.pth.tar")


@pytest.mark.parametrize("tail", ["own", "absent", "imagenet's"])
def test_it_starts_from_the_authors_imagenet_file_which_ends_otherwise(tmp_path, trunk, tail):
    """Their file goes on behind 960 channels with linear3 (1280), a bn3 of its own and linear4: those are skipped."""
    state = {f"module.{name}": value for name, value in trunk.state_dict().items()}
    if tail != "own":
        state = {name: value for name, value in state.items() if not name.startswith(("module.conv3", "module.bn3"))}
    if tail == "imagenet's":
        state |= {f"module.bn3.{part}": torch.ones(1280) for part in NORM[:4]}
        state |= {"module.linear3.weight": torch.ones(1280, 960), "module.linear4.bias": torch.ones(1000)}
    torch.save({"state_dict": state}, tmp_path / "mbv3_large.pth.tar")
    for name, front in (("mobilenetv3_large_wakdnetvlad", "base_model"), ("mobilenetv3_large_wakd", "model")):
        made = create_model(name, pretrained=str(tmp_path / "mbv3_large.pth.tar")).get_submodule(front).state_dict()
        same = {key for key, value in made.items() if torch.equal(value, trunk.state_dict()[key])}
        others = {key for key in made if key.startswith(("conv3.", "bn3.")) and "num_batches" not in key}
        assert ("conv3.weight" in same) == (tail == "own")
        assert made.keys() - same <= others
    del state["module.bneck.7.conv2.weight"]
    torch.save({"state_dict": state}, tmp_path / "less.pth")
    with pytest.raises(UserError, match=r"lacks bneck\.7\.conv2\.weight"):
        create_model("mobilenetv3_large_wakd", pretrained=str(tmp_path / "less.pth"))


def test_conv5_leaves_all_blocks_before_stride_32():
    network = create_model("mobilenetv3_large_wakdnetvlad", clusters=2, trainable_from="conv5").train()
    learns = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    fixed = {name for name, _ in network.named_parameters()} - learns
    early = tuple(f"base_model.bneck.{number}." for number in range(13))
    assert fixed == {
        n for n, _ in network.named_parameters() if n.startswith((*early, "base_model.conv1.", "base_model.bn1."))
    }
    assert not network.base_model.bneck[12].bn1.training
    assert network.base_model.bneck[13].bn1.training


def test_as_an_image_network_with_any_head():
    network = create_model("mobilenetv3_large_wakd", output_dim=12)
    maps = ("stem", "layer1", "layer2", "layer3", "layer4", "map")
    output = network({"images": torch.randn(2, 3, 64, 96)}, feature_maps=maps)
    assert output["embedding"].shape == (2, 12)
    assert output["maps.layer4"].shape == (2, 512, 2, 3)
    assert describe(network.state_dict())["network"] == "mobilenetv3_large_wakd"
    output["embedding"].square().sum().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []
