"""What 8 bits do to each convolution by itself: noise, and a shift of its channels' means that biases can undo.

Both are measured at the float32 network's own inputs, so that no layer answers for those before it (bias correction:
Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019, section 4.2).
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

from distilplace.tools.export.graph import INPUT


class Noise(NamedTuple):
    """Of one convolution."""

    share: float
    """Variance of the error as a share of the variance of the output, channels' shifts aside."""
    shift: np.ndarray
    """Mean error of each channel, float32 [C]."""


class _Layer(NamedTuple):
    """A convolution in float, and what stands for its input's grid and its weights in integers."""

    source: str
    weight: Tensor
    rounded: Tensor
    scale: float
    zero: int
    range: tuple[int, int]
    pads: list[int]
    options: dict[str, Any]

    def both(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The output in float, and its error in integers, without bias, [B, C, h, w]."""
        low, high = self.range
        stored = (((maps / self.scale).round() + self.zero).clamp(low, high) - self.zero) * self.scale
        top, left, bottom, right = self.pads
        sides = (left, right, top, bottom)
        wanted = functional.conv2d(functional.pad(maps, sides), self.weight, **self.options)
        return wanted, functional.conv2d(functional.pad(stored, sides), self.rounded, **self.options) - wanted


def measure_noise(model: onnx.ModelProto, quantised: onnx.ModelProto, images: Iterable[np.ndarray]) -> dict[str, Noise]:
    """Noise of every convolution of ``quantised`` that is computed in integers, by its node's name.

    Args:
        model: the same network in float32.
        quantised: with its nodes by the same names.
        images: uint8 [b, H, W, 3].

    """
    import onnxruntime

    layers = _layers(model, quantised)
    sources = list(dict.fromkeys(layer.source for layer in layers.values()))
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sources)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    sums = {name: torch.zeros(4, len(layer.weight), dtype=torch.float64) for name, layer in layers.items()}
    count = 0
    for batch in images:
        maps = dict(zip(sources, map(torch.from_numpy, session.run(sources, {INPUT: batch})), strict=True))
        count += 1
        for name, layer in layers.items():
            output, error = layer.both(maps[layer.source])
            sums[name] += torch.stack([each.mean((0, 2, 3)) for each in (output, output**2, error, error**2)])
    return {name: _noise(total / max(count, 1)) for name, total in sums.items()}


def correct_biases(quantised: onnx.ModelProto, noise: Mapping[str, Noise]) -> None:
    """Subtract each channel's shift from its bias, in place; a convolution without a bias stays as it is."""
    stored = {each.name: each for each in quantised.graph.initializer}
    producers = {name: node for node in quantised.graph.node for name in node.output}
    for node in quantised.graph.node:
        if node.name not in noise or len(node.input) < 3:
            continue
        dequantise = producers.get(node.input[2])
        name = node.input[2] if dequantise is None else dequantise.input[0]
        scale = 1.0 if dequantise is None else numpy_helper.to_array(stored[dequantise.input[1]])
        bias = numpy_helper.to_array(stored[name])
        moved = bias.astype(np.float64) - noise[node.name].shift / scale
        if bias.dtype == np.int32:
            moved = moved.round().clip(-(2**31), 2**31 - 1)
        stored[name].CopyFrom(numpy_helper.from_array(moved.astype(bias.dtype), name))


def _noise(means: Tensor) -> Noise:
    """Of the means per channel of output, its square, error, its square."""
    output, output_square, error, error_square = means
    spread = (output_square - output**2).clamp_min(0).sum().item()
    share = (error_square - error**2).clamp_min(0).sum().item() / max(spread, 1e-30)
    return Noise(share, error.float().numpy())


def _layers(model: onnx.ModelProto, quantised: onnx.ModelProto) -> dict[str, _Layer]:
    constants = {each.name: each for each in model.graph.initializer}
    stored = {each.name: each for each in quantised.graph.initializer}
    producers = {name: node for node in quantised.graph.node for name in node.output}
    integer = {node.name: node for node in quantised.graph.node if node.op_type == "Conv"}
    found = {}
    for node in model.graph.node:
        if node.op_type != "Conv" or node.input[1] not in constants or len(constants[node.input[1]].dims) != 4:
            continue
        sides = [producers.get(name) for name in integer[node.name].input[:2]]
        if any(side is None or side.op_type != "DequantizeLinear" for side in sides):
            continue
        maps, weights = ([numpy_helper.to_array(stored[n]) for n in s.input if n in stored] for s in sides if s)
        scale, zero = maps
        rounded = weights[0].astype(np.float32) * weights[1].reshape(-1, 1, 1, 1)
        weight = torch.from_numpy(numpy_helper.to_array(constants[node.input[1]]).copy())
        limits = np.iinfo(zero.dtype)
        told = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        names = {"stride": "strides", "dilation": "dilations", "groups": "group"}
        options = {ours: told[theirs] for ours, theirs in names.items() if theirs in told}
        grid = float(scale), int(zero), (int(limits.min), int(limits.max))
        found[node.name] = _Layer(
            node.input[0], weight, torch.from_numpy(rounded), *grid, list(told.get("pads", [0] * 4)), options
        )
    return found
