"""INT8 by ONNX Runtime's static quantisation: integers where a network is large, float where numbers are delicate.

In integers: convolutions and linear layers on feature maps, and what joins maps that are integers already. In float:
pooling into a vector (GeM's floor, power and mean), everything behind it, lengths, soft assignments, attention (the
matrices of these are stored in 16 bits, which halves them, and computed with in 32); and the network up to the last
convolution that 8 bits would drown in noise: MobileNetV2's first ones, whose batch norms divide by next to nothing, so
that their weights are in the hundreds and cancel. A float convolution in the midst of integers is no choice: under ONNX
Runtime's graph optimisation such a network fell to cosine 0.34 (0.98 without it).
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx

from distilplace.common.errors import UserError
from distilplace.tools.export.graph import INPUT
from distilplace.tools.export.noise import correct_biases, measure_noise

Target = Literal["cpu", "tensorrt"]
WEIGHTED = {"Conv", "Gemm", "MatMul"}
JOINING = {"Add", "Concat", "MaxPool", "Relu", "Clip"}
RESHAPING = {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"}
VECTORS = 2  # dimensions of what is pooled: [B, C]
MOST_NOISE = 0.05
"""Share of a convolution's variance. Measured: 0.67 in MobileNetV2's fourth convolution, below it in all others."""
HALVED = 4096
"""Numbers from which on a matrix is stored in 16 bits."""
MEASURED = 12
"""Images that noise is measured on."""


def integer_nodes(model: onnx.ModelProto, behind: str | None = None) -> list[str]:
    """Names of the nodes that are computed in integers, by what they are: no names of layers are known here.

    ``behind``: the last node that stays in float with all before it; None: there is no such node.
    """
    names = [node.name for node in model.graph.node]
    start = 0 if behind is None else names.index(behind) + 1
    constants = {each.name: each for each in model.graph.initializer}
    ranks = {each.name: len(each.type.tensor_type.shape.dim) for each in (*model.graph.value_info, *model.graph.output)}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    integers: set[str] = set()
    chosen = []
    for node in model.graph.node[start:]:
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


class Quantised(NamedTuple):
    """A network in 8 bits, and how many of its convolutions are computed in them."""

    model: onnx.ModelProto
    integer: int
    convolutions: int


def quantise(model: onnx.ModelProto, images: Sequence[np.ndarray], target: Target) -> Quantised:
    """The same network with 8-bit weights (signed, a scale per channel) and 8-bit feature maps.

    Ranges of feature maps are the least and the largest value on ``images``. Target "cpu": maps are unsigned, which the
    integer instructions of CPUs want. "tensorrt": signed and symmetric, biases in float. What the rounding of weights
    and maps adds to the mean of a channel is taken off its bias.

    Args:
        model: float32, as :func:`distilplace.tools.export.graph.onnx_graph` gives it.
        images: uint8 [b, H, W, 3].
        target: which of the two.

    Raises:
        UserError: nothing in this network can be computed in integers.

    """
    nodes = integer_nodes(model)
    found = _static(model, nodes, images, target)
    noise = measure_noise(model, found, images[:: -(-len(images) // MEASURED)])
    noisy = [name for name in nodes if name in noise and noise[name].share > MOST_NOISE]
    if noisy:
        nodes = integer_nodes(model, behind=noisy[-1])
        found = _static(model, nodes, images, target)
    correct_biases(found, {name: each for name, each in noise.items() if name in nodes})
    _halve_matrices(found)
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    return Quantised(found, len(set(convolutions).intersection(nodes)), len(convolutions))


def _static(model: onnx.ModelProto, nodes: list[str], images: Sequence[np.ndarray], target: Target) -> onnx.ModelProto:
    """ONNX Runtime's static quantisation of ``nodes``."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    if not nodes:
        raise UserError("this network has no convolution or linear layer that 8 bits are enough for: omit --int8")
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


def _halve_matrices(model: onnx.ModelProto) -> None:
    """Store large float32 matrices of linear layers as float16, each with a cast before its reader."""
    graph = model.graph
    constants = {each.name: each for each in graph.initializer}
    linear = {name for node in graph.node if node.op_type in ("Gemm", "MatMul") for name in node.input}
    for name in sorted(linear & constants.keys()):
        values = onnx.numpy_helper.to_array(constants[name])
        if values.dtype != np.float32 or values.size < HALVED or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        stored = f"{name}_float16"
        constants[name].CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), stored))
        graph.node.insert(0, onnx.helper.make_node("Cast", [stored], [name], f"{name}_cast", to=onnx.TensorProto.FLOAT))


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
