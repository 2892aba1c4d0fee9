"""MinkLoc: a global descriptor of a LiDAR cloud, alone or as the cloud branch of a fused teacher.

J. Komorowski, "MinkLoc3D" (WACV 2021); with channel attention: J. Komorowski et al., "MinkLoc++" (IJCNN 2021).
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from distilplace.common.errors import UserError
from distilplace.models.base import PlaceNetwork, learning_parameters
from distilplace.models.cloud.minkfpn import GeneralMinkFPN, MinkFPN
from distilplace.models.sparse import GeM, SparseTensor
from distilplace.models.sparse.threads import threads_for_load

DEFAULT_PLANES = (32, 64, 64)


class _Pooling(nn.Module):
    """The layer that gives upstream's keys their second ``pooling.``."""

    def __init__(self, pooling: nn.Module) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, x: SparseTensor) -> Tensor:
        """``[N, C]`` on voxels -> ``[B, C]``."""
        return self.pooling(x)


class MinkLoc(PlaceNetwork):
    """Sparse feature pyramid and GeM pooling.

    Args:
        feature_size: size of the descriptor.
        planes, layers: width and number of residual blocks per stage.
        num_top_down: steps of the pyramid's way back up.
        conv0_kernel_size: odd kernel size of the stem.
        block: "ECABasicBlock" or "BasicBlock".
        pooling: "GeM".
        in_channels: feature channels of the voxels.
        sparse_backend: the sparse engine, or "auto" (:mod:`distilplace.models.sparse.backends`); no part of the
            weights.
        backbone: "MinkFPN", or "GeneralMinkFPN": upstream's variant without a way back up, whatever ``num_top_down``
            says.

    """

    requires = ("coords", "features")

    def __init__(
        self,
        feature_size: int = 128,
        planes: Sequence[int] = DEFAULT_PLANES,
        layers: Sequence[int] = (1, 1, 1),
        num_top_down: int = 1,
        conv0_kernel_size: int = 5,
        block: str = "ECABasicBlock",
        pooling: str = "GeM",
        in_channels: int = 1,
        backbone: str = "MinkFPN",
        sparse_backend: str = "auto",
    ) -> None:
        super().__init__()
        if pooling != "GeM":
            raise UserError(f"unknown cloud pooling {pooling!r}; choose GeM")
        if feature_size < 1 or in_channels < 1:
            raise UserError(f"feature_size {feature_size} and in_channels {in_channels} must be positive")
        self.output_dim = feature_size
        self.sparse_backend = sparse_backend
        self.backbone: nn.Module
        self.pooling: nn.Module
        if backbone == "MinkFPN":
            self.backbone = MinkFPN(in_channels, feature_size, planes, layers, num_top_down, conv0_kernel_size, block)
            self.pooling = _Pooling(GeM())
        elif backbone == "GeneralMinkFPN":
            self.backbone = GeneralMinkFPN(in_channels, feature_size, planes, layers, conv0_kernel_size, block)
            self.pooling = GeM()
        else:
            raise UserError(f"unknown cloud backbone {backbone!r}; choose MinkFPN or GeneralMinkFPN")

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """``coords`` int32 [N, 4] and ``features`` [N, C] -> ``embedding`` [B, feature_size].

        B is the number of ``keys`` (or rows of ``positives_mask``, or ``images``) where the batch has them, so that a
        trailing empty cloud keeps its row; otherwise the highest batch number + 1. An empty cloud's embedding is a row
        of zeros. ``maps``, if there, holds the coordinate manager that a data-loader worker built of the coordinates.
        """
        evaluates_here = not self.training and batch["features"].device.type == "cpu"
        with threads_for_load() if evaluates_here else nullcontext():
            if len(batch.get("maps", ())) == 1:
                manager = batch["maps"][0]
                x = SparseTensor(batch["features"].index_select(0, manager.rows), manager=manager)
            else:
                size = _batch_size(batch)
                x = SparseTensor(batch["features"], batch["coords"], batch_size=size, backend=self.sparse_backend)
            return {"embedding": self.pooling(self.backbone(x))}

    def kernel_maps(self) -> list[tuple[int, int, int, int]]:
        """(level, kernel size, stride, dilation) of every kernel map of a forward pass: what ``maps`` should hold."""
        assert isinstance(self.backbone, MinkFPN | GeneralMinkFPN)
        stem = self.backbone.conv0 if isinstance(self.backbone, MinkFPN) else self.backbone.conv1
        return self.backbone.stage_maps(stem.kernel_size)

    def branch_parameters(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that learn by branch; all belong to the cloud's."""
        return {"image": [], "cloud": learning_parameters(self)}


class MinkLocOnly(MinkLoc):
    """The cloud-only student: planes 32 64 128 without a way back up; ``output_dim`` is its descriptor's size."""

    def __init__(
        self,
        output_dim: int = 384,
        planes: Sequence[int] = (32, 64, 128),
        num_top_down: int = 0,
        feature_size: int | None = None,
        **settings: Any,
    ) -> None:
        """As :class:`MinkLoc`; ``feature_size`` is another name of ``output_dim`` and wins when given."""
        size = output_dim if feature_size is None else feature_size
        super().__init__(size, planes, num_top_down=num_top_down, **settings)


def _batch_size(batch: Mapping[str, Any]) -> int | None:
    """Number of places in a batch, or None to go by the coordinates alone."""
    for key in ("keys", "positives_mask"):
        if batch.get(key) is not None:
            return len(batch[key])
    if batch.get("images") is None:
        return None
    clouds = int(batch["coords"][:, 0].max()) + 1 if len(batch["coords"]) else 0
    return max(len(batch["images"]), clouds)  # the fused model refuses a mismatch
