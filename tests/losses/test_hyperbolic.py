"""The Poincare ball against the recorded operations, its definitions, and the faults of its predecessor."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilplace.losses.parts import hyperbolic as ball

FUNCTIONS = {
    "expmap0": ball.expmap0,
    "project": ball.project,
    "project_of_expmap0 (ToPoincare)": ball.to_poincare,
    "ToPoincare_clip_r1": lambda x, c: ball.to_poincare(x, c, clip_radius=1.0),
    "mobius_add": ball.mobius_add,
    "dist_matrix": ball.distance_matrix,
}


UNUSED = {"ToPoincare_riemannian", "logmap0", "logmap0_of_projected", "dist", "dist0", "expmap", "logmap"}
"""Recorded, and asked for by no method."""


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted.double()).norm() / wanted.double().norm().clamp_min(1e-30)).item()


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("h_hyptorch.pt")


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_recorded_values_and_gradients(recorded, name, dtype):
    checked = 0
    for setting in recorded.values():
        case = setting["functions"][name]
        inputs = [tensor.to(dtype).requires_grad_() for tensor in case["inputs"]]
        output = FUNCTIONS[name](*inputs, setting["c"])
        (output * case["cotangent"]).sum().backward()
        own_error = relative_error(case["output"], case["output_f64"])
        value_tolerance = 1e-7 if dtype == torch.float64 else max(1e-4, own_error)
        assert relative_error(output.detach(), case["output_f64"]) < value_tolerance
        for tensor, gradient in zip(inputs, case["grads"], strict=True):
            assert relative_error(tensor.grad, gradient) < 1e-4  # recorded in float32
        checked += 1
    assert checked == len(recorded) > 0


def test_every_recorded_operation_exists(recorded):
    for setting in recorded.values():
        assert set(setting["functions"]) <= {*FUNCTIONS, *UNUSED}


def definition(x: list[float], y: list[float], c: float) -> float:
    """Geodesic distance by Moebius addition, written out."""
    a = [-value for value in x]
    xy = sum(p * q for p, q in zip(a, y, strict=True))
    x2, y2 = sum(p * p for p in x), sum(q * q for q in y)
    divisor = 1 + 2 * c * xy + c**2 * x2 * y2 + 1e-5
    total = [((1 + 2 * c * xy + c * y2) * p + (1 - c * x2) * q) / divisor for p, q in zip(a, y, strict=True)]
    return 2 / math.sqrt(c) * math.atanh(min(math.sqrt(c) * math.hypot(*total), 1 - 1e-5))


@given(
    seed=st.integers(0, 999), c=st.sampled_from([0.01, 0.1, 1.0, 4.0]), scale=st.sampled_from([0.01, 1.0, 5.0, 100.0])
)
@settings(max_examples=60, deadline=None)
def test_distance_matrix_follows_the_definition(seed, c, scale):
    generator = torch.Generator().manual_seed(seed)
    x = ball.to_poincare(scale * torch.randn(3, 4, generator=generator, dtype=torch.float64), c)
    y = ball.to_poincare(scale * torch.randn(2, 4, generator=generator, dtype=torch.float64), c)
    found = ball.distance_matrix(x, y, c)
    for i, a in enumerate(x.tolist()):
        for j, b in enumerate(y.tolist()):
            assert found[i, j].item() == pytest.approx(definition(a, b, c), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("c", [0.1, 1.0])
@pytest.mark.parametrize("norm", [1.0, 8.0, 300.0])
def test_a_point_is_exactly_0_from_itself(c, norm):
    """Oddity 2: upstream measured up to 1.08."""
    x = torch.nn.functional.normalize(torch.randn(16, 384, generator=torch.Generator().manual_seed(0)), dim=1) * norm
    x[5] = x[9]
    distances = ball.distance_matrix(ball.to_poincare(x, c), None, c)
    assert (distances.diagonal() == 0).all()
    assert distances[5, 9] == 0
    assert (distances + 100 * torch.eye(16) + 100 * (distances == 0)).min() > 0.1


def test_gradients_stay_finite_at_zero_at_equal_points_and_on_the_rim():
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[0], x[1], x[2] = 0, x[3], 1e4
    x.requires_grad_()
    ball.distance_matrix(ball.to_poincare(x, 0.1), None, 0.1).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("c", "norm", "saturated"), [(0.1, 8.0, False), (0.1, 12.5, True), (1.0, 3.0, False), (1.0, 4.0, True)]
)
def test_saturation_is_seen_where_the_radius_is_clipped(c, norm, saturated):
    """Oddity 3: at curvature 0.1 a norm above 12 loses its length on the ball, at 1 a norm above 4."""
    x = torch.zeros(1, 3, dtype=torch.float64)
    x[0, 0] = norm
    radius = ball.to_poincare(x, c).norm()
    assert bool(ball.is_saturated(x, c)) is saturated
    assert math.isclose(radius.item(), (1 - 1e-3) / math.sqrt(c), rel_tol=1e-12) is saturated
    assert not ball.is_saturated(x, c, clip_radius=2.0)
    assert ball.to_poincare(x, c, clip_radius=2.0).norm() < 0.999 * (1 - 1e-3) / math.sqrt(c)
