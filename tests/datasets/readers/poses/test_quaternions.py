"""Quaternions and matrices turn into each other; noisy matrices are repaired, others refused; angles keep digits."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.datasets.readers.poses.quaternions import (
    angles_between,
    matrices_from_quaternions,
    nearest_rotations,
    pose_from_matrix,
    quaternions_from_matrices,
    unit_quaternions,
)

parts = st.floats(-1, 1, allow_subnormal=False)
quaternions = st.tuples(parts, parts, parts, parts).filter(lambda q: math.hypot(*q) > 1e-3)


def axis_angle_matrix(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rodrigues' formula."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


@settings(deadline=None, max_examples=25)
@given(quaternions)
def test_matrix_is_rodrigues_rotation_and_leads_back(q: tuple[float, ...]) -> None:
    unit = np.array(q) / math.hypot(*q)
    length = math.hypot(*unit[1:])
    axis = unit[1:] / length if length else np.array([1.0, 0, 0])
    matrix = matrices_from_quaternions(np.array(q))
    assert np.allclose(matrix, axis_angle_matrix(axis, 2 * math.atan2(length, unit[0])), atol=1e-12)
    back = quaternions_from_matrices(matrix)
    assert back[0] >= 0
    assert np.allclose(back, unit if unit[0] * back[0] + unit[1:] @ back[1:] > 0 else -unit, atol=1e-7)
    assert abs(np.linalg.norm(back) - 1) < 1e-14


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0.6, 0.8), (-0.6, 0, 0.8), (0.48, -0.6, 0.64)])
@pytest.mark.parametrize("angle", [0.0, 1e-9, math.pi - 1e-9, math.pi])
def test_half_turns_and_none(axis: tuple[float, ...], angle: float) -> None:
    matrix = axis_angle_matrix(np.array(axis), angle)
    back = quaternions_from_matrices(matrix)
    assert back[0] >= 0
    assert np.abs(matrices_from_quaternions(back) - matrix).max() < 1e-14


def test_many_at_once_equal_one_by_one() -> None:
    q = np.random.default_rng(0).normal(size=(2, 5, 4))
    matrices = matrices_from_quaternions(q)
    assert matrices.shape == (2, 5, 3, 3)
    back = quaternions_from_matrices(matrices)
    for i in range(2):
        for j in range(5):
            assert np.allclose(matrices[i, j], matrices_from_quaternions(q[i, j]), atol=1e-15)
            assert np.allclose(back[i, j], quaternions_from_matrices(matrices[i, j]), atol=1e-15)


def test_noisy_matrix_becomes_the_nearest_rotation() -> None:
    random = np.random.default_rng(1)
    exact = matrices_from_quaternions(random.normal(size=(50, 4)))
    noisy = exact + random.normal(scale=3e-4, size=exact.shape)
    found = nearest_rotations(noisy)
    assert np.abs(np.swapaxes(found, 1, 2) @ found - np.eye(3)).max() < 1e-14
    assert np.allclose(np.linalg.det(found), 1)
    assert (np.linalg.norm(found - noisy, axis=(1, 2)) <= np.linalg.norm(exact - noisy, axis=(1, 2)) + 1e-15).all()
    back = matrices_from_quaternions(quaternions_from_matrices(noisy))
    assert np.abs(back - found).max() < 1e-12
    assert np.abs(back - noisy).max() < 2e-3
    assert np.array_equal(nearest_rotations(exact), exact)


def test_no_rotations_are_refused() -> None:
    with pytest.raises(ValueError, match="reflection"):
        quaternions_from_matrices(np.diag([1.0, 1.0, -1.0]))
    with pytest.raises(ValueError, match="not orthonormal"):
        quaternions_from_matrices(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="not finite"):
        quaternions_from_matrices(np.full((3, 3), np.nan))
    for bad in ([0.0, 0, 0, 0], [np.nan, 0, 0, 1], [np.inf, 0, 0, 1]):
        with pytest.raises(ValueError, match="zero or not finite"):
            unit_quaternions(np.array([[1.0, 0, 0, 0], bad]))
    assert np.allclose(unit_quaternions(np.array([3e-200, 0, 4e-200, 0])), [0.6, 0, 0.8, 0])


@settings(deadline=None, max_examples=25)
@given(quaternions, quaternions)
def test_angle_is_the_trace_formulas_and_sign_free(p: tuple[float, ...], q: tuple[float, ...]) -> None:
    first, second = np.array(p), np.array(q)
    relative = matrices_from_quaternions(first).T @ matrices_from_quaternions(second)
    slow = math.degrees(math.acos(np.clip((np.trace(relative) - 1) / 2, -1, 1)))
    found = float(angles_between(first, second))
    assert 0 <= found <= 180 + 1e-9
    assert found == pytest.approx(slow, abs=1e-5)
    assert float(angles_between(-first, second)) == pytest.approx(found, abs=1e-9)
    assert float(angles_between(first, first)) == 0
    assert float(angles_between(first, -first)) == 0


def test_ten_thousand_float32_quaternions_are_exactly_0_from_themselves() -> None:
    q = np.random.default_rng(0).normal(size=(10_000, 4)).astype(np.float32)
    for same in (q, unit_quaternions(q).astype(np.float32)):
        assert (angles_between(same, same) == 0).all()
        assert (angles_between(same, -same) == 0).all()


def test_small_angles_keep_their_digits() -> None:
    tiny = np.array([math.cos(1e-9), math.sin(1e-9), 0, 0])  # turns by 2e-9 rad
    assert float(angles_between(np.array([1.0, 0, 0, 0]), tiny)) == pytest.approx(math.degrees(2e-9), rel=1e-6)


def test_pose_of_a_homogeneous_matrix() -> None:
    from distilplace.common.errors import UserError

    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = axis_angle_matrix(np.array([0, 0, 1.0]), math.pi / 2), (1, 2, 3)
    root = math.sqrt(0.5)
    assert np.allclose(pose_from_matrix(matrix, "f"), [1, 2, 3, root, 0, 0, root])
    matrix[3, 0] = 0.5
    with pytest.raises(UserError, match=r"^f: the last row"):
        pose_from_matrix(matrix, "f")
    with pytest.raises(UserError, match=r"^f: the determinant"):
        pose_from_matrix(np.diag([1.0, -1, 1, 1]), "f")
