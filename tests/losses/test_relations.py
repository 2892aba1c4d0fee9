"""Distances, cosines and angles against loops that follow the definitions, entry by entry."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from distilplace.losses import create_distiller
from distilplace.losses.parts import relations
from distilplace.losses.parts.relations import (
    angle_loss,
    divided_by_mean,
    pairwise_distance,
    similarity,
    without_diagonal,
)


def rows(seed: int, count: int, width: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_angle(x: list[list[float]], i: int, j: int, k: int) -> float:
    first = [a - b for a, b in zip(x[j], x[i], strict=True)]
    second = [a - b for a, b in zip(x[k], x[i], strict=True)]
    lengths = math.hypot(*first) * math.hypot(*second)
    return sum(a * b for a, b in zip(first, second, strict=True)) / lengths if lengths > 0 else 0.0


def smooth_l1(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def broadcast_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    def angles(x: Tensor) -> Tensor:
        directions = F.normalize(x.unsqueeze(0) - x.unsqueeze(1), dim=2)
        return directions @ directions.transpose(1, 2)

    return F.smooth_l1_loss(angles(student), angles(teacher))


@given(
    seed=st.integers(0, 999), count=st.integers(1, 5), width=st.integers(1, 4), scale=st.sampled_from([1e-6, 1, 1e4])
)
@settings(max_examples=40, deadline=None)
def test_distances_and_cosines_follow_their_definitions(seed, count, width, scale):
    x, y = rows(seed, count, width, scale), rows(seed + 1000, count + 1, width, scale)
    distances, cosines, products = pairwise_distance(x, y), similarity(x, y), similarity(x, y, divide=False)
    for i, a in enumerate(x.tolist()):
        for j, b in enumerate(y.tolist()):
            dot = sum(p * q for p, q in zip(a, b, strict=True))
            assert distances[i, j].item() == pytest.approx(math.dist(a, b), rel=1e-12)
            assert products[i, j].item() == pytest.approx(dot, rel=1e-9, abs=1e-12 * scale**2)
            assert cosines[i, j].item() == pytest.approx(dot / math.hypot(*a) / math.hypot(*b), rel=1e-9, abs=1e-12)


@given(seed=st.integers(0, 999), count=st.integers(1, 5), width=st.integers(1, 4), twins=st.booleans())
@settings(max_examples=40, deadline=None)
def test_angle_loss_is_the_mean_over_all_triples(seed, count, width, twins):
    student, teacher = rows(seed, count, width), rows(seed + 1000, count, width)
    if twins and count > 2:
        student[1] = student[0]
    s, t = student.tolist(), teacher.tolist()
    triples = [(i, j, k) for i in range(count) for j in range(count) for k in range(count)]
    wanted = sum(smooth_l1(slow_angle(s, *triple) - slow_angle(t, *triple)) for triple in triples) / count**3
    found = angle_loss(pairwise_distance(student), pairwise_distance(teacher)).item()
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("block", [1, 50, 2**19])
def test_angle_gradient_is_that_of_the_whole_tensor_however_it_is_cut(block, monkeypatch):
    monkeypatch.setattr(relations, "ANGLES_PER_BLOCK", block)
    student, teacher = rows(0, 7, 5).requires_grad_(), rows(1, 7, 5, 3.0)
    loss = angle_loss(pairwise_distance(student), pairwise_distance(teacher))
    wanted = broadcast_angle_loss(student, teacher)
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(loss, student)[0], torch.autograd.grad(wanted, student)[0], rtol=1e-9, atol=1e-15
    )


def test_distance_gradients_are_numerical_gradients():
    x, y = rows(2, 4, 3).requires_grad_(), rows(3, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(pairwise_distance, (x, y))
    assert torch.autograd.gradcheck(lambda a: pairwise_distance(a)[0, 1:], (x,))
    assert torch.autograd.gradcheck(lambda a, b: similarity(a, b), (x, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_are_exactly_0_apart_without_gradient(dtype):
    x = rows(4, 64, 384).to(dtype)
    x[40] = x[3]
    x.requires_grad_()
    distances = pairwise_distance(x)
    assert distances[3, 40] == 0
    assert (distances.diagonal() == 0).all()
    (gradient,) = torch.autograd.grad(distances[3, 40], x)
    assert (gradient == 0).all()


@pytest.mark.parametrize("nearness", [1e-3, 1e-6])
def test_angles_stay_exact_between_rows_that_nearly_coincide(nearness):
    # by Gram matrix, <x_j - x_i, x_k - x_i> of three such rows would be rounding noise
    student, teacher = rows(5, 6, 16, 10.0), rows(6, 6, 16)
    student[1:4] = student[0] + nearness * rows(7, 3, 16)
    found = angle_loss(pairwise_distance(student), pairwise_distance(teacher))
    torch.testing.assert_close(found, broadcast_angle_loss(student, teacher), rtol=1e-8, atol=0)


def test_cosine_with_a_row_of_zeros_is_0_with_no_gradient():
    x = rows(8, 3, 4)
    x[1] = 0
    x.requires_grad_()
    cosines = similarity(x)
    assert (cosines[1] == 0).all()
    (gradient,) = torch.autograd.grad(cosines.sum(), x)
    assert gradient.isfinite().all()
    assert (gradient[1] == 0).all()


def test_scale_free_forms():
    distances = pairwise_distance(rows(9, 5, 3))
    relative = divided_by_mean(distances)
    assert (relative.sum() / 20).item() == pytest.approx(1.0, rel=1e-12)
    assert (divided_by_mean(torch.zeros(3, 3)) == 0).all()
    assert (divided_by_mean(torch.zeros(1, 1)) == 0).all()
    assert (without_diagonal(torch.ones(3, 3)).sum()) == 6


class LargestTensor(TorchDispatchMode):
    """Remembers the most numbers that any operation, forward or backward, returned in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def test_angles_of_256_rows_never_make_or_keep_256_cubed_numbers():
    size, kept = 256, 0
    student, teacher = rows(10, size, 8).requires_grad_(), rows(11, size, 8)

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with LargestTensor() as largest:
        with saved_tensors_hooks(count, lambda tensor: tensor):
            loss = angle_loss(pairwise_distance(student), pairwise_distance(teacher))
        loss.backward()
    assert kept < 4 * size**2
    assert largest.numbers <= max(relations.ANGLES_PER_BLOCK, size**2) < size**3
    assert student.grad.isfinite().all()


def test_no_term_makes_a_number_per_pair_and_coordinate():
    """Oddity 27: upstream's relations are [B, B, D] and [B, B, B] tensors, 389 MiB at B 128."""
    size, width = 96, 384
    student, teacher = rows(12, size, width, 0.4).requires_grad_(), rows(13, size, width, 0.4)
    flags = {
        f"crosslogit{kind}loss_weight_{way}": 1 for kind in ("dist", "sim", "geodist") for way in ("st2ss", "tt2st")
    }
    method = create_distiller("ours_rkdg", rkdgloss_weight=1, **flags)
    with LargestTensor() as largest:
        sum(method({"embedding": student}, [{"embedding": teacher}], {}).values()).backward()
    assert largest.numbers <= relations.ANGLES_PER_BLOCK < size**3 < size**2 * width
