"""The pyramid transformers of ASHT-KD: every image size, the attention head by loops, the up path, sizes of both."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from distilplace.common.errors import UserError
from distilplace.common.outputs import layer_maps
from distilplace.models import create_model, model_settings
from distilplace.models.image.pyramid import AttentionHead, FeedForward, ReducedAttention, UpPath

WIDTHS = {"dsformer": (32, 64, 128, 192), "apformer": (64, 128, 256, 384)}
LAYERS = ("layer1", "layer2", "layer3", "layer4")
ATTENDED = ("attended1", "attended2", "attended3", "attended4")


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return {name: create_model(name, output_dim=24).eval() for name in WIDTHS}


def images(count, height, width, seed=1):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", WIDTHS)
@given(height=st.integers(32, 75), width=st.integers(32, 75))
@settings(max_examples=12, deadline=None)
def test_any_size_gives_four_scales(networks, name, height, width):
    with torch.no_grad():
        output = networks[name]({"images": images(1, height, width)}, feature_maps=(*LAYERS, *ATTENDED, "map"))
    maps = layer_maps(output)
    for level, channels in enumerate(WIDTHS[name]):
        stride = 4 * 2**level
        expected = (1, channels, math.ceil(height / stride), math.ceil(width / stride))
        assert maps[LAYERS[level]].shape == maps[ATTENDED[level]].shape == expected
    assert maps["map"] is maps["layer4"]
    assert output["embedding"].shape == (1, 24)
    assert output["embedding"].norm(dim=1).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", WIDTHS)
def test_gradient_reaches_every_parameter(networks, name):
    model = networks[name]
    model.zero_grad()
    embedding = model({"images": images(2, 65, 97)})["embedding"]
    (embedding * images(2, 1, 8).reshape(2, 24)).sum().backward()
    assert [key for key, value in model.named_parameters() if not value.grad.abs().sum() > 1e-6] == []
    assert sum(value.numel() for value in model.branch_parameters()["image"]) == sum(
        value.numel() for value in model.parameters()
    )


@pytest.mark.parametrize("name", WIDTHS)
def test_a_batch_is_its_images_one_by_one(networks, name):
    batch = images(3, 50, 70)
    with torch.no_grad():
        together = networks[name]({"images": batch}, feature_maps=ATTENDED)
        alone = [networks[name]({"images": image[None]}, feature_maps=ATTENDED) for image in batch]
    torch.testing.assert_close(together["embedding"], torch.cat([one["embedding"] for one in alone]), atol=1e-5, rtol=0)
    for level in ATTENDED:
        apart = torch.cat([one[f"maps.{level}"] for one in alone])
        torch.testing.assert_close(together[f"maps.{level}"], apart, atol=1e-5, rtol=1e-4)


def test_attention_head_by_loops():
    torch.manual_seed(3)
    widths, sizes = (3, 5), ((4, 3), (2, 2))
    head = AttentionHead(widths, 7).double()
    levels = [torch.randn(2, channels, *size).double() for channels, size in zip(widths, sizes, strict=True)]
    descriptor, attended = head(levels)
    for weights in head.attention(levels):
        torch.testing.assert_close(weights.sum(dim=(1, 2, 3)), torch.ones(2).double())
    for image in range(2):
        joined = []
        for level, features in enumerate(levels):
            w = head.score[level].weight.flatten()
            height, width = features.shape[-2:]
            scores = [[sum(w * features[image, :, y, x]).exp() for x in range(width)] for y in range(height)]
            total = sum(sum(row) for row in scores)
            salient = torch.zeros(features.shape[1]).double()
            for y in range(height):
                for x in range(width):
                    share = scores[y][x] / total * features[image, :, y, x]
                    torch.testing.assert_close(attended[level][image, :, y, x], share)
                    salient += share
            joined.append(salient / salient.square().sum().sqrt())
        raw = head.descriptor.weight @ torch.cat(joined)
        torch.testing.assert_close(descriptor[image], raw / raw.square().sum().sqrt())


@pytest.mark.parametrize("name", WIDTHS)
def test_attended_maps_are_the_descriptors_own(networks, name):
    """The sums of the attended maps alone give the embedding, and they are attention times layer."""
    model = networks[name]
    with torch.no_grad():
        output = model({"images": images(2, 64, 48)}, feature_maps=(*LAYERS, *ATTENDED))
        maps = layer_maps(output)
        salient = torch.cat([functional.normalize(maps[level].sum(dim=(2, 3)), dim=1) for level in ATTENDED], dim=1)
        torch.testing.assert_close(functional.normalize(model.head.descriptor(salient), dim=1), output["embedding"])
        weights = model.head.attention([maps[layer] for layer in LAYERS])
    for layer, level, attention in zip(LAYERS, ATTENDED, weights, strict=True):
        torch.testing.assert_close(maps[level], attention * maps[layer])


@pytest.mark.parametrize(("reduction", "height", "width"), [(1, 2, 3), (2, 3, 4), (4, 5, 9)])
def test_reduced_attention_by_loops(reduction, height, width):
    torch.manual_seed(4)
    channels, heads = 6, 2
    attention = ReducedAttention(channels, heads, reduction).double()
    features = torch.randn(1, height, width, channels).double()
    cells = features[0].reshape(-1, channels)
    if reduction > 1:
        rows, columns = math.ceil(height / reduction), math.ceil(width / reduction)
        padded = torch.zeros(rows * reduction, columns * reduction, channels).double()
        padded[:height, :width] = features[0]
        reduced = []
        for row in range(rows):
            for column in range(columns):
                cell = padded[row * reduction :, column * reduction :][:reduction, :reduction]
                value = torch.einsum("oiyx,yxi->o", attention.reduce.weight, cell) + attention.reduce.bias
                reduced.append(attention.reduce_norm(value))
        cells = torch.stack(reduced)
    keys, values = attention.key_value(cells)[:, :channels], attention.key_value(cells)[:, channels:]
    queries = attention.query(features[0].reshape(-1, channels))
    size = channels // heads
    mixed = torch.empty(height * width, channels).double()
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for location in range(height * width):
            weights = torch.stack([queries[location, part] @ key[part] for key in keys]) / math.sqrt(size)
            mixed[location, part] = weights.softmax(dim=0) @ values[:, part]
    expected = attention.projection(mixed).reshape(1, height, width, channels)
    torch.testing.assert_close(attention(features), expected)


def test_up_path_joins_each_level_with_all_coarser_ones():
    torch.manual_seed(5)
    path = UpPath((2, 3, 4)).double()
    maps = [torch.randn(1, *shape).double() for shape in ((2, 7, 5), (3, 4, 3), (4, 2, 2))]
    levels = path(maps)
    assert [level.shape for level in levels] == [level.shape for level in maps]
    assert levels[2] is maps[2]
    for level in (1, 0):
        weight, bias = path.up[level].weight, path.up[level].bias
        total = torch.empty_like(maps[level])
        for y in range(total.shape[2]):
            for x in range(total.shape[3]):
                above = levels[level + 1][0, :, y // 2, x // 2] @ weight[:, :, y % 2, x % 2] + bias
                total[0, :, y, x] = path.norm[level](maps[level][0, :, y, x] + above)
        torch.testing.assert_close(levels[level], total)


def test_teachers_levels_come_from_the_up_path(networks):
    model = networks["apformer"]
    batch = images(1, 64, 64)
    with torch.no_grad():
        before = layer_maps(model({"images": batch}, feature_maps=LAYERS))
        bias = model.up_path.up[2].bias[:9]  # not all: a layer norm would take a common shift away again
        bias += 1.0
        try:
            after = layer_maps(model({"images": batch}, feature_maps=LAYERS))
        finally:
            bias -= 1.0
    assert torch.equal(before["layer4"], after["layer4"])
    for layer in LAYERS[:3]:
        assert not torch.allclose(before[layer], after[layer], atol=1e-4)


def test_the_feed_forward_layer_knows_where_things_are():
    """No position table, yet equal pixels get unequal features: the zero padding tells border from middle."""
    torch.manual_seed(6)
    with torch.no_grad():
        features = FeedForward(4)(torch.ones(1, 5, 5, 4))
    assert torch.equal(features[0, 1, 1], features[0, 2, 3])
    for border in (features[0, 0, 0], features[0, 0, 2], features[0, 4, 4]):
        assert not torch.allclose(border, features[0, 2, 2], atol=1e-3)


def test_the_student_has_less_than_a_quarter_of_a_teachers_parameters():
    student, teacher = (
        sum(value.numel() for value in create_model(name).parameters()) for name in ("dsformer", "apformer")
    )
    assert student < teacher / 4


def test_state_dict_round_trip(networks):
    state = networks["dsformer"].state_dict()
    other = create_model("dsformer", output_dim=24).eval()
    batch = {"images": images(2, 40, 40)}
    with torch.no_grad():
        wanted = networks["dsformer"](batch)["embedding"]
        assert not torch.allclose(other(batch)["embedding"], wanted, atol=1e-2)
        other.load_state_dict(state, strict=True)
        assert torch.equal(other(batch)["embedding"], wanted)
    assert {key.split(".")[0] for key in state} == {"stages", "head"}
    assert {key.split(".")[0] for key in networks["apformer"].state_dict()} == {"stages", "head", "up_path"}


def test_interface(networks):
    for name, model in networks.items():
        assert model_settings(name) == ("output_dim",)
        assert model.requires == ("images",)
        assert model.level_maps == ATTENDED
        assert model.output_dim == 24
        assert not layer_maps(model({"images": images(1, 32, 32)}))


def test_mistakes(networks):
    model = networks["dsformer"]
    with pytest.raises(UserError, match="output_dim of DSFormer is 0"):
        create_model("dsformer", output_dim=0)
    with pytest.raises(UserError, match="unknown feature map of DSFormer 'attended5': did you mean 'attended"):
        model({"images": images(1, 32, 32)}, feature_maps=("attended5",))
    with pytest.raises(UserError, match="31 x 40 pixels are too small"):
        model({"images": images(1, 31, 40)})
    with pytest.raises(ValueError, match=r"must be \[B, 3, H, W\]"):
        model({"images": torch.zeros(3, 32, 32)})
    with pytest.raises(UserError, match="unknown setting of model apformer 'pretrained'"):
        create_model("apformer", pretrained="none")


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDTHS)
def test_at_full_size(name):
    torch.manual_seed(0)
    model = create_model(name)
    embedding = model({"images": images(2, 224, 224)})["embedding"]
    assert embedding.shape == (2, 256)
    (embedding * images(1, 2, 256)[0, 0]).sum().backward()
    assert all(value.grad.isfinite().all() and value.grad.abs().sum() > 0 for value in model.parameters())
