"""Sparse voxel tensors and convolutions in plain PyTorch, numerically those of MinkowskiEngine.

Sources: C. Choy, J. Gwak, S. Savarese, "4D Spatio-Temporal ConvNets: Minkowski Convolutional Neural Networks"
(CVPR 2019) for the operations; the conventions (offset order, strides, first occurrence kept) are measured ones.
"""

from distilplace.models.sparse.convolution import SparseConv, SparseTransposedConv
from distilplace.models.sparse.coordinates import CoordinateManager
from distilplace.models.sparse.kernel_map import KernelMap, kernel_offsets
from distilplace.models.sparse.layers import GeM, SparseReLU, broadcast_multiply, global_average
from distilplace.models.sparse.normalisation import SparseBatchNorm
from distilplace.models.sparse.quantisation import batched_coordinates, quantize
from distilplace.models.sparse.tensor import SparseTensor

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
