"""Rotations as unit quaternions, scalar first (w x y z), and as matrices; float64, any number of them at once."""

import numpy as np
from scipy.spatial.transform import Rotation

from distilplace.common.errors import UserError

ORTHONORMAL_TO = 1e-9
LARGEST_DEFECT = 0.1
TO_SCIPY, FROM_SCIPY = [1, 2, 3, 0], [3, 0, 1, 2]


def unit_quaternions(quaternions: np.ndarray) -> np.ndarray:
    """``quaternions`` [..., 4] over their norm, signs as they are; :class:`ValueError` for zero or non-finite ones."""
    quaternions = np.asarray(quaternions, dtype=np.float64)
    # The largest component first: squares of very large or small ones would overflow or vanish.
    largest = np.abs(quaternions).max(axis=-1, keepdims=True)
    if not np.isfinite(largest).all() or (largest == 0).any():
        raise ValueError("a quaternion is zero or not finite: no rotation")
    scaled = quaternions / largest
    return scaled / np.linalg.norm(scaled, axis=-1, keepdims=True)


def matrices_from_quaternions(quaternions: np.ndarray) -> np.ndarray:
    """Rotation matrices [..., 3, 3] of ``quaternions`` [..., 4], which need not have norm 1."""
    matrices: np.ndarray = _rotations(quaternions).as_matrix()
    return matrices.reshape(*np.shape(quaternions)[:-1], 3, 3)


def quaternions_from_matrices(matrices: np.ndarray) -> np.ndarray:
    """Unit quaternions [..., 4] with w >= 0 of nearly orthonormal ``matrices`` [..., 3, 3].

    Matrices off by more than rounding are first replaced by their :func:`nearest_rotations`.
    """
    nearest = nearest_rotations(matrices)
    found = Rotation.from_matrix(nearest.reshape(-1, 3, 3)).as_quat(canonical=True)
    return found[:, FROM_SCIPY].reshape(*nearest.shape[:-2], 4) + 0.0  # no negative zero


def nearest_rotations(matrices: np.ndarray) -> np.ndarray:
    """The rotations [..., 3, 3] nearest to ``matrices`` (least squares, by SVD); exact ones are returned unchanged.

    Raises:
        ValueError: not finite, a reflection, or so far off (0.1 in M^T M) that it is no noisy rotation.

    """
    matrices = np.asarray(matrices, dtype=np.float64)
    if not np.isfinite(matrices).all():
        raise ValueError("a rotation matrix is not finite")
    defect = np.abs(np.swapaxes(matrices, -1, -2) @ matrices - np.eye(3)).max(axis=(-1, -2))
    if (defect > LARGEST_DEFECT).any():
        raise ValueError(f"the columns are not orthonormal (off by {defect.max():.3g}): no rotation matrix")
    if (np.linalg.det(matrices) < 0).any():
        raise ValueError("the determinant is -1: a reflection, no rotation matrix")
    left, _, right = np.linalg.svd(matrices)
    exact = defect[..., None, None] <= ORTHONORMAL_TO
    return np.where(exact, matrices, left @ right)


def angles_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Degrees [...] in 0..180 of the rotation from ``first`` to ``second`` [..., 4]; q and -q are one rotation."""
    first, second = np.broadcast_arrays(first, second)
    angles: np.ndarray = np.degrees((_rotations(first).inv() * _rotations(second)).magnitude())
    return angles.reshape(first.shape[:-1])


def _rotations(quaternions: np.ndarray) -> Rotation:
    """SciPy's, all in one row; its quaternions have the scalar last."""
    return Rotation.from_quat(unit_quaternions(quaternions).reshape(-1, 4)[:, TO_SCIPY])


def pose_from_matrix(matrix: np.ndarray, source: object) -> np.ndarray:
    """Float64 [7]: translation column and unit quaternion (w >= 0) of a homogeneous ``matrix`` [4, 4].

    Raises:
        UserError: naming ``source``: the last row is not 0 0 0 1, or the rest no rotation.

    """
    if not np.allclose(matrix[3], (0, 0, 0, 1), rtol=0, atol=1e-6):
        raise UserError(f"{source}: the last row of the pose is {matrix[3].tolist()}, not 0 0 0 1")
    try:
        return np.concatenate([matrix[:3, 3], quaternions_from_matrices(matrix[:3, :3])])
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error
