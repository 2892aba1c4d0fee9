"""8 bits where they are enough: noise of single convolutions, and biases that undo shifts."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from distilplace.tools.export.graph import INPUT
from distilplace.tools.export.noise import measure_noise
from distilplace.tools.export.quantise import MOST_NOISE, _static, integer_nodes, quantise


def chain(cancelling: bool) -> onnx.ModelProto:
    """Three convolutions of pixels / 255; in the second ``cancelling`` weights of 100 add up to next to nothing."""
    draw = np.random.default_rng(0)
    weights = [draw.normal(size=shape).astype(np.float32) for shape in ((8, 3, 3, 3), (8, 8, 1, 1), (4, 8, 1, 1))]
    biases = [np.zeros(8, np.float32), np.zeros(8, np.float32), np.zeros(4, np.float32)]
    weights[0][1] = weights[0][0] * 1.001
    if cancelling:
        weights[1][:] = 0
        weights[1][:, 0], weights[1][:, 1] = 100, -100
    constants = {"third": np.float32(1 / 255)}
    constants |= {f"w{i}": value for i, value in enumerate(weights)} | {
        f"b{i}": value for i, value in enumerate(biases)
    }
    nodes = [
        helper.make_node("Transpose", [INPUT], ["t"], "t", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["c"], "c", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["c", "third"], ["m"], "m"),
        helper.make_node("Conv", ["m", "w0", "b0"], ["x0"], "conv0", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Conv", ["x0", "w1", "b1"], ["x1"], "conv1"),
        helper.make_node("Relu", ["x1"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w2", "b2"], ["embedding"], "conv2"),
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [None, 16, 16, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [None, 4, 8, 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def images(count):
    draw = np.random.default_rng(1)
    return [draw.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8) for _ in range(count)]


def run(model, batch):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {INPUT: batch})[0]


def test_what_drowns_in_noise_stays_in_float_with_all_before_it():
    assert quantise(chain(cancelling=False), images(4), "cpu")[1:] == (3, 3)
    model, *counts = quantise(chain(cancelling=True), images(4), "cpu")
    assert counts == [1, 3]
    kinds = {node.name: node.op_type for node in model.graph.node}
    quantised = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    integer = [node.name for node in model.graph.node if node.op_type == "Conv" and set(node.input[:2]) <= quantised]
    assert integer == ["conv2"]
    assert kinds["relu"] == "Relu"


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_channels_keep_their_means(target):
    model, batches = chain(cancelling=False), images(4)
    pixels = np.concatenate(batches)
    wanted = run(model, pixels)

    def shift(quantised):
        return np.abs((run(quantised, pixels) - wanted).mean(axis=(0, 2, 3))).max() / wanted.std()

    plain = _static(model, integer_nodes(model), batches, target)
    assert (
        shift(quantise(model, batches, target).model) < shift(plain) / 2
    )  # measured: 0.0015 to 0.0082, 0.0017 to 0.0065


def test_noise_is_that_of_one_convolution_alone():
    model, batches = chain(cancelling=True), images(2)
    noise = measure_noise(model, quantise(chain(cancelling=False), batches, "cpu").model, batches)
    assert set(noise) == {"conv0", "conv1", "conv2"}
    assert noise["conv0"].share < MOST_NOISE < noise["conv1"].share
    assert noise["conv0"].shift.shape == (8,)


def test_matrices_that_stay_in_float_are_stored_in_half_the_bytes():
    draw = np.random.default_rng(2)
    model, weight = chain(cancelling=False), draw.normal(size=(4 * 8 * 8, 64)).astype(np.float32)
    small = draw.normal(size=(64, 8)).astype(np.float32)
    graph = model.graph
    graph.node[-1].output[0] = "maps"
    graph.node.extend(
        [
            helper.make_node("Flatten", ["maps"], ["flat"], "flatten"),
            helper.make_node("MatMul", ["flat", "large"], ["middle"], "head"),
            helper.make_node("MatMul", ["middle", "small"], ["embedding"], "last"),
        ]
    )
    graph.initializer.extend([numpy_helper.from_array(weight, "large"), numpy_helper.from_array(small, "small")])
    graph.output[0].CopyFrom(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [None, 8]))
    model = onnx.shape_inference.infer_shapes(model)
    found = quantise(model, images(4), "cpu").model
    stored = {each.name: numpy_helper.to_array(each) for each in found.graph.initializer}
    assert "large" not in stored
    assert stored["large_float16"].dtype == np.float16
    np.testing.assert_array_equal(stored["small"], small)
    onnx.checker.check_model(found)
    batch = np.concatenate(images(4))
    halved = run(found, batch)
    for each in found.graph.initializer:
        if each.name == "large_float16":
            each.CopyFrom(numpy_helper.from_array(weight, each.name))
    assert 0 < np.abs(run(found, batch) - halved).max() < 0.005 * halved.std()
