"""INT8 by ONNX Runtime's static quantisation: integers where a network is large, float where numbers are delicate.

In integers: convolutions and linear layers on feature maps, and what joins maps that are integers already. In float:
pooling into a vector (GeM's floor, power and mean), everything behind it, lengths, soft assignments, attention.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from distilplace.common.errors import UserError
from distilplace.tools.export.graph import INPUT

Target = Literal["cpu", "tensorrt"]
WEIGHTED = {"Conv", "Gemm", "MatMul"}
JOINING = {"Add", "Concat", "MaxPool", "Relu", "Clip"}
RESHAPING = {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"}
VECTORS = 2  # dimensions of what is pooled: [B, C]


def integer_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that are computed in integers, by what they are: no names of layers are known here."""
    constants = {each.name: each for each in model.graph.initializer}
    ranks = {each.name: len(each.type.tensor_type.shape.dim) for each in (*model.graph.value_info, *model.graph.output)}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    integers: set[str] = set()
    chosen = []
    for node in model.graph.node:
        tensors = [name for name in node.input if name and name not in constants]
        if node.op_type in WEIGHTED:
            maps = len(tensors) == 1 and ranks.get(node.output[0], 0) > VECTORS
            taken = maps and not _assigns(node.output[0], readers)
        else:
            taken = node.op_type in JOINING and integers.issuperset(tensors) and not _floor(node, constants)
        if taken:
            integers.update(node.output)
            chosen.append(node.name)
    return chosen


def quantise(model: onnx.ModelProto, images: Iterable[np.ndarray], target: Target) -> onnx.ModelProto:
    """The same network with 8-bit weights (signed, a scale per channel) and 8-bit feature maps.

    Ranges of feature maps are the least and the largest value on ``images``. Target "cpu": maps are unsigned, which the
    integer instructions of CPUs want. "tensorrt": signed and symmetric, biases in float.

    Args:
        model: float32, as :func:`distilplace.tools.export.graph.onnx_graph` gives it.
        images: uint8 [b, H, W, 3].
        target: which of the two.

    Raises:
        UserError: nothing in this network can be computed in integers.

    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    nodes = integer_nodes(model)
    if not nodes:
        raise UserError("this network has no convolution or linear layer to quantise: omit --int8")
    signed = target == "tensorrt"
    extra: dict[str, Any] = {"WeightSymmetric": True, "ActivationSymmetric": signed, "QuantizeBias": not signed}
    with tempfile.TemporaryDirectory() as folder, _quiet_root():
        source, path = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)  # of a model in memory, ONNX Runtime would move the weights out
        quantize_static(
            source,
            path,
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=nodes,
            extra_options=extra,
        )
        return onnx.load(path)


def _assigns(tensor: str, readers: dict[str, list[onnx.NodeProto]]) -> bool:
    """Is it what a softmax is taken of? Then it is NetVLAD's soft assignment, or attention."""
    nodes = readers.get(tensor, [])
    return any(
        node.op_type == "Softmax" or (node.op_type in RESHAPING and _assigns(node.output[0], readers)) for node in nodes
    )


def _floor(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Is it a clamp above zero, as GeM's? A ReLU6 has its floor at zero."""
    if node.op_type != "Clip" or len(node.input) < 2 or node.input[1] not in constants:
        return False
    return bool(onnx.numpy_helper.to_array(constants[node.input[1]]) > 0)


class _Reader:
    """What ONNX Runtime reads calibration images from."""

    def __init__(self, images: Iterable[np.ndarray]) -> None:
        self._images: Iterator[np.ndarray] = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch; None: no more."""
        batch = next(self._images, None)
        return None if batch is None else {INPUT: batch}


class _quiet_root:  # noqa: N801 (used as a function)
    """Without the advice that ONNX Runtime logs: the graph is folded and has its shapes already."""

    def __enter__(self) -> None:
        self._disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._disabled)
