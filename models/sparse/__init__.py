"""Sparse voxel tensors and convolutions in plain PyTorch, numerically those of MinkowskiEngine.

Sources: C. Choy, J. Gwak, S. Savarese, "4D Spatio-Temporal ConvNets: Minkowski Convolutional Neural Networks"
(CVPR 2019) for the operations; the conventions (offset order, strides, first occurrence kept) are measured ones.
"""

from models.sparse.convolution import SparseConv, SparseTransposedConv
from models.sparse.coordinates import CoordinateManager
from models.sparse.kernel_map import KernelMap, kernel_offsets
from models.sparse.layers import GeM, SparseReLU, broadcast_multiply, global_average
from models.sparse.normalisation import SparseBatchNorm
from models.sparse.quantisation import batched_coordinates, quantize
from models.sparse.tensor import SparseTensor

__all__ = [
    "CoordinateManager",
    "GeM",
    "KernelMap",
    "SparseBatchNorm",
    "SparseConv",
    "SparseReLU",
    "SparseTensor",
    "SparseTransposedConv",
    "batched_coordinates",
    "broadcast_multiply",
    "global_average",
    "kernel_offsets",
    "quantize",
]
