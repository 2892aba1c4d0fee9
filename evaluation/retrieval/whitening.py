"""PCA whitening of image descriptors (Jegou & Chum, ECCV 2012), as NetVLAD's and OpenIBL's: D numbers become d.

``y = L2(P (x - mean))``, the rows of P being the d leading eigenvectors of the unbiased covariance over the square root
of their eigenvalues, which are floored at 1e-9. With fewer samples than dimensions the eigenvectors come from the
samples' products ("dual trick"); both ways give the same P, each row's largest entry being made positive.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilplace.common.errors import UserError
from distilplace.common.randomness import generator
from distilplace.evaluation.retrieval.ranking import Floats, as_matrix, rows_per_block, unit_rows

SAMPLES = 10_000
FLOOR = 1e-9


class PCAWhitening:
    """A fitted whitening: ``mean`` float64 ``[D]`` and ``projection`` (P above) float64 ``[d, D]``."""

    def __init__(self, mean: NDArray[np.float64], projection: NDArray[np.float64]) -> None:
        self.mean = mean
        self.projection = projection

    @classmethod
    def fit(cls, descriptors: Any, dims: int, *, seed: int = 0) -> "PCAWhitening":
        """Fit on descriptors ``[n, D]`` (NumPy or torch); of more than 10,000, as many are drawn by ``seed``.

        Beside them memory holds one square matrix of min(n, D) and P, both float64.

        Raises:
            UserError: ``dims`` is not between 1 and min(n - 1, D): n descriptors vary in n - 1 directions.

        """
        matrix = as_matrix(descriptors, "the whitening's training images")
        if len(matrix) > SAMPLES:
            matrix = matrix[np.sort(generator(seed, "whitening").choice(len(matrix), SAMPLES, replace=False))]
        count, width = matrix.shape
        most = min(count - 1, width)
        if not 1 <= dims <= most:
            raise UserError(
                f"whitening to {dims} dimensions: {count} training descriptors of {width} allow 1 to {max(most, 0)}; "
                "ask for fewer or use more training images"
            )
        mean = matrix.mean(axis=0, dtype=np.float64)
        projection = (_dual if width > count else _primal)(matrix, mean, dims)
        largest = np.abs(projection).argmax(axis=1)[:, None]
        return cls(mean, projection * np.where(np.take_along_axis(projection, largest, axis=1) < 0, -1.0, 1.0))

    def transform(self, descriptors: Any) -> NDArray[np.float32]:
        """Descriptors ``[n, D]`` whitened, reduced and of length 1: a new float32 ``[n, d]``."""
        matrix = as_matrix(descriptors, "the images to be whitened")
        if len(matrix) and matrix.shape[1] != len(self.mean):
            raise ValueError(f"descriptors of {matrix.shape[1]} numbers, the whitening was fitted on {len(self.mean)}")
        whitened = np.empty((len(matrix), len(self.projection)), dtype=np.float32)
        for rows in _blocks(len(matrix), matrix.shape[1]):
            whitened[rows] = unit_rows((matrix[rows] - self.mean) @ self.projection.T)
        return whitened

    def state(self) -> dict[str, NDArray[np.float64]]:
        """What :meth:`from_state` needs, ready for ``safetensors.numpy.save_file``."""
        return {"mean": self.mean, "projection": self.projection}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "PCAWhitening":
        """The whitening that gave ``state`` (arrays or tensors)."""
        return cls(*(np.asarray(state[name], dtype=np.float64) for name in ("mean", "projection")))


def _primal(matrix: Floats, mean: NDArray[np.float64], dims: int) -> NDArray[np.float64]:
    """Eigenvectors of the covariance ``[D, D]``."""
    covariance = np.zeros((len(mean), len(mean)))
    for rows in _blocks(*matrix.shape):
        part = matrix[rows] - mean
        covariance += part.T @ part
    values, vectors = _leading(covariance / (len(matrix) - 1), dims)
    return vectors.T / np.sqrt(values)[:, None]


def _dual(matrix: Floats, mean: NDArray[np.float64], dims: int) -> NDArray[np.float64]:
    """Eigenvectors of the samples' products ``[n, n]``, mapped back: ``v = X' u / sqrt((n - 1) lambda)``."""
    count = len(matrix)
    products = np.zeros((count, count))
    blocks = list(_blocks(len(mean), count))
    for columns in blocks:
        part = matrix[:, columns] - mean[columns]
        products += part @ part.T
    values, vectors = _leading(products / (count - 1), dims)
    projection = np.empty((dims, len(mean)))
    for columns in blocks:
        projection[:, columns] = vectors.T @ (matrix[:, columns] - mean[columns])
    return projection / (np.sqrt(count - 1) * values)[:, None]


def _leading(symmetric: NDArray[np.float64], dims: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ``dims`` largest eigenvalues, largest first, floored, and their eigenvectors as columns."""
    from scipy.linalg import eigh

    size = len(symmetric)
    values, vectors = eigh(symmetric, overwrite_a=True, check_finite=False, subset_by_index=[size - dims, size - 1])
    return np.maximum(values[::-1], FLOOR), vectors[:, ::-1]


def _blocks(count: int, width: int) -> Iterator[slice]:
    """``count`` rows of ``width`` values, cut so that a block stays small."""
    step = rows_per_block(width)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
