"""The sparse tensor: features on occupied voxels, with the coordinate manager it shares with its relatives."""

from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.models.sparse.backends import AUTO, choose_backend
from distilplace.models.sparse.manager import Manager


class SparseTensor:
    """Features ``[N, C]`` on the voxels of a batch of clouds.

    Rows are in the engine's order (our own engines': batch, then Morton curve), **not** in that of the coordinates
    given: row i of ``features`` belongs to row i of ``coordinates``, and came from row ``source_rows[i]`` of the input.
    Duplicate coordinates are merged by keeping the first row (MinkowskiEngine keeps a random one).
    A batch element without voxels is allowed; name ``batch_size`` to keep a trailing one.
    """

    def __init__(
        self,
        features: Tensor,
        coordinates: Tensor | None = None,
        *,
        stride: int = 1,
        batch_size: int | None = None,
        manager: Manager | None = None,
        level: int = 0,
        backend: str = AUTO,
    ) -> None:
        """Either from ``coordinates`` int32 ``[N, 4]`` (batch, x, y, z) at ``stride``, or as level of a ``manager``.

        ``backend`` names the engine that makes a manager of the coordinates
        (:mod:`distilplace.models.sparse.backends`).

        With a manager the features must be in its row order already.
        """
        if (coordinates is None) == (manager is None):
            raise UserError("a sparse tensor needs either coordinates or a coordinate manager")
        if manager is None:
            assert coordinates is not None
            if features.ndim != 2 or len(features) != len(coordinates):
                raise UserError(
                    f"sparse features {list(features.shape)} do not fit coordinates {list(coordinates.shape)}"
                )
            engine = choose_backend(backend, coordinates.device)
            manager = engine(coordinates, base_stride=stride, batch_size=batch_size)
            features = features.index_select(0, manager.rows)
        elif len(features) != manager.count(level):
            raise UserError(f"sparse features {list(features.shape)} do not fit {manager.count(level)} voxels")
        self.features = features
        self.manager = manager
        self.level = level

    @property
    def stride(self) -> int:
        """Distance of neighbouring voxels, in units of the finest voxel."""
        return self.manager.base_stride * 2**self.level

    @property
    def coordinates(self) -> Tensor:
        """int32 ``[N, 4]`` (batch, x, y, z), multiples of the stride."""
        return self.manager.coordinates(self.level)

    @property
    def source_rows(self) -> Tensor:
        """Which row of the coordinates first given each finest voxel came from, int64 ``[N]``."""
        return self.manager.rows

    @property
    def batch_index(self) -> Tensor:
        """Batch element of every row, int64 ``[N]``."""
        return self.manager.batch_index(self.level)

    @property
    def batch_size(self) -> int:
        """Number of batch elements, empty ones included."""
        return self.manager.batch_size

    def with_features(self, features: Tensor, level: int | None = None) -> "SparseTensor":
        """A tensor of the same family: other features, at this or another level."""
        return SparseTensor(features, manager=self.manager, level=self.level if level is None else level)

    def __add__(self, other: "SparseTensor") -> "SparseTensor":
        """Sum on the same voxels; both tensors must share manager and stride."""
        self._require_same_voxels(other)
        return self.with_features(self.features + other.features)

    def add_(self, other: "SparseTensor") -> "SparseTensor":
        """The sum, written over this tensor's features: for fresh results that nobody else needs."""
        self._require_same_voxels(other)
        self.features.add_(other.features)
        return self

    def _require_same_voxels(self, other: "SparseTensor") -> None:
        if other.manager is not self.manager or other.level != self.level:
            raise UserError("sparse tensors of different coordinates or strides cannot be added")

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        return f"SparseTensor({list(self.features.shape)}, stride={self.stride}, batch_size={self.batch_size})"
