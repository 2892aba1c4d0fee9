"""Every head against its formula written out with loops, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.models.image.pooling import HEADS, ConvAP, CosPlace, GeM, NetVLAD, head_named


def unit(vector):
    numbers = [v.item() if isinstance(v, torch.Tensor) else v for v in vector]
    length = math.sqrt(sum(v**2 for v in numbers))
    return [v / length for v in numbers]


def slow_gem(features, p, eps=1e-6):
    rows = []
    for image in features:
        rows.append([])
        for channel in image:
            values = [max(float(v), eps) ** p for v in channel.flatten()]
            rows[-1].append((sum(values) / len(values)) ** (1 / p))
    return torch.tensor(rows, dtype=torch.float64)


def random_map(seed, shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.tuples(*(st.integers(1, 4) for _ in range(4))),
    st.floats(1.0, 6.0),
)
def test_gem_is_the_generalised_mean(seed, shape, p):
    features = random_map(seed, shape)
    head = GeM(shape[1], p=p).double()
    exact = slow_gem(features, head.p.item())
    torch.testing.assert_close(head(features), exact, rtol=1e-10, atol=1e-14)


def test_gem_starts_at_three_and_leaves_its_input_alone():
    features = random_map(0, (2, 3, 4, 5))
    before = features.clone()
    head = GeM(3).double()
    assert head.p.shape == (1,)
    assert head.p.item() == 3.0
    head(features)
    assert torch.equal(features, before)


def test_gem_is_not_normalised():
    head = GeM(4).double()
    features = random_map(1, (2, 4, 3, 3)).abs()
    torch.testing.assert_close(head(5 * features), 5 * head(features), rtol=1e-9, atol=0)


def test_gem_gradient_is_finite_where_everything_is_clamped():
    head = GeM(4)
    features = -torch.rand(2, 4, 3, 3)
    features.requires_grad_()
    head(features).sum().backward()
    assert torch.isfinite(head.p.grad).all()
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_cosplace_is_unit_vectors_gem_linear_unit_length():
    torch.manual_seed(0)
    head = CosPlace(5).double()
    features = random_map(2, (2, 5, 3, 2))
    local = torch.empty_like(features)
    for b in range(2):
        for i in range(3):
            for j in range(2):
                local[b, :, i, j] = torch.tensor(unit(features[b, :, i, j]), dtype=torch.float64)
    rows = slow_gem(local, 3.0) @ head.fc.weight.T + head.fc.bias
    expected = torch.tensor([unit(row) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(head(features), expected, rtol=1e-9, atol=1e-12)


def test_convap_averages_the_four_quarters():
    torch.manual_seed(0)
    head = ConvAP(3).double()
    features = random_map(3, (2, 3, 4, 6))
    weight, bias = head.channel_pool.weight[:, :, 0, 0], head.channel_pool.bias
    rows = []
    for b in range(2):
        row = []
        for c in range(3):
            for top in (0, 2):
                for left in (0, 3):
                    cell = features[b, :, top : top + 2, left : left + 3].reshape(3, -1)
                    row.append((weight[c] @ cell + bias[c]).mean().item())
        rows.append(unit(row))
    torch.testing.assert_close(head(features), torch.tensor(rows, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    assert head.output_dim == 12


@pytest.mark.parametrize("clusters", [1, 4])
def test_netvlad_sums_weighted_residuals(clusters):
    torch.manual_seed(0)
    head = NetVLAD(3, clusters=clusters).double()
    features = random_map(4, (2, 3, 2, 3))
    weight = head.conv.weight[:, :, 0, 0]
    rows = []
    for image in features:
        vlad = torch.zeros(clusters, 3, dtype=torch.float64)
        for place in image.reshape(3, -1).T:
            x = torch.tensor(unit(place), dtype=torch.float64)
            scores = [math.exp((w @ x).item()) for w in weight]
            for k in range(clusters):
                vlad[k] += scores[k] / sum(scores) * (x - head.centroids[k].detach())
        flat = [v for row in vlad for v in unit(row)]
        rows.append(unit(flat))
    torch.testing.assert_close(head(features), torch.tensor(rows, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    assert head.output_dim == clusters * 3


@pytest.mark.parametrize("pool", ["CosPlace", "ConvAP", "NetVLAD"])
def test_the_other_heads_give_unit_vectors_of_the_stated_width(pool):
    head = head_named(pool).kind(6)
    vectors = head(torch.randn(3, 6, 5, 4))
    assert vectors.shape == (3, head.output_dim)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))


def test_a_zero_map_gives_finite_vectors_and_gradients():
    for head in HEADS.values():
        module = head.kind(6)
        features = torch.zeros(2, 6, 3, 3, requires_grad=True)
        module(features).sum().backward()
        assert torch.isfinite(features.grad).all(), head


def test_unknown_pooling_offers_the_nearest():
    with pytest.raises(UserError, match="unknown pooling 'NetVlad': did you mean 'NetVLAD'"):
        head_named("NetVlad")
