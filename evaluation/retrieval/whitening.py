"""PCA whitening of image descriptors (Jegou & Chum, ECCV 2012), as NetVLAD's and OpenIBL's: D numbers become d.

``y = L2(P (x - mean))``, the rows of P being the d leading eigenvectors of the unbiased covariance over the square root
of their eigenvalues, which are floored at 1e-9. With fewer samples than dimensions the eigenvectors come from the
samples' products ("dual trick"); both ways give the same P, each row's largest entry being made positive.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilplace.common.errors import UserError
from distilplace.common.pca import blocks, principal
from distilplace.common.randomness import generator
from distilplace.evaluation.retrieval.ranking import as_matrix, unit_rows

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
        found = principal(
            lambda rows, columns: matrix[rows, columns].astype(np.float64),
            count,
            width,
            dims,
            divisor=count - 1,
            samples_floor=FLOOR,
        )
        return cls(found.mean, found.vectors / np.sqrt(np.maximum(found.values, FLOOR))[:, None])

    def transform(self, descriptors: Any) -> NDArray[np.float32]:
        """Descriptors ``[n, D]`` whitened, reduced and of length 1: a new float32 ``[n, d]``."""
        matrix = as_matrix(descriptors, "the images to be whitened")
        if len(matrix) and matrix.shape[1] != len(self.mean):
            raise ValueError(f"descriptors of {matrix.shape[1]} numbers, the whitening was fitted on {len(self.mean)}")
        whitened = np.empty((len(matrix), len(self.projection)), dtype=np.float32)
        for rows in blocks(len(matrix), matrix.shape[1]):
            whitened[rows] = unit_rows((matrix[rows] - self.mean) @ self.projection.T)
        return whitened

    def state(self) -> dict[str, NDArray[np.float64]]:
        """What :meth:`from_state` needs, ready for ``safetensors.numpy.save_file``."""
        return {"mean": self.mean, "projection": self.projection}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "PCAWhitening":
        """The whitening that gave ``state`` (arrays or tensors)."""
        return cls(*(np.asarray(state[name], dtype=np.float64) for name in ("mean", "projection")))
