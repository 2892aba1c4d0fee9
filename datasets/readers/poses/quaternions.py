"""Rotations as unit quaternions, scalar first (w x y z), and as matrices; float64, any number of them at once."""

import numpy as np

from distilplace.common.errors import UserError

ORTHONORMAL_TO = 1e-9
LARGEST_DEFECT = 0.1


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
    w, x, y, z = np.moveaxis(unit_quaternions(quaternions), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def quaternions_from_matrices(matrices: np.ndarray) -> np.ndarray:
    """Unit quaternions [..., 4] with w >= 0 of nearly orthonormal ``matrices`` [..., 3, 3].

    Matrices off by more than rounding are first replaced by their :func:`nearest_rotations`. Of the four ways to read
    the quaternion off a matrix (Shepperd, J. Guidance and Control 1978) the one with the largest divisor is taken.
    """
    m = nearest_rotations(matrices)
    a, b, c = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    # Row k holds four times component k times (w, x, y, z).
    w = [1 + a + b + c, m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]]
    x = [w[1], 1 + a - b - c, m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0]]
    y = [w[2], x[2], 1 - a + b - c, m[..., 1, 2] + m[..., 2, 1]]
    z = [w[3], x[3], y[3], 1 - a - b + c]
    products = np.stack([np.stack(row, axis=-1) for row in (w, x, y, z)], axis=-2)
    largest = np.argmax(np.stack([w[0], x[1], y[2], z[3]], axis=-1), axis=-1)
    found = unit_quaternions(np.take_along_axis(products, largest[..., None, None], axis=-2)[..., 0, :])
    return np.where(found[..., :1] < 0, -found, found) + 0.0  # no negative zero


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
    """Degrees [...] in 0..180 of the rotation from ``first`` to ``second`` [..., 4]; q and -q are one rotation.

    2 acos |<q, p>| written with atan2, which keeps its digits near 0, and is exactly 0 for equal ones.
    """
    q, p = unit_quaternions(first), unit_quaternions(second)
    near, far = np.linalg.norm(q - p, axis=-1), np.linalg.norm(q + p, axis=-1)
    angles: np.ndarray = np.degrees(4 * np.arctan2(np.minimum(near, far), np.maximum(near, far)))
    return angles


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
