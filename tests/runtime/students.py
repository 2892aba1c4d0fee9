"""A student in ONNX for tests, as an export writes it: the mean colour of a 3 x 4 grid, of 36 numbers."""

from pathlib import Path

import numpy as np

from distilplace.runtime.file_hash import EMPTY, HASH, STATED, stamped
from distilplace.runtime.model_card import KEY, ModelCard

WIDTH = 36
SIZE = (24, 32)


def card(model: str = "grid", **changes: object) -> ModelCard:
    """What the file says of itself."""
    from distilplace.runtime.preprocessing import Preprocessing
    from distilplace.runtime.resizing import Step

    pixels = Preprocessing(upright=True, steps=(Step("resize", SIZE),)).to_dict()
    values = {
        "role": "student",
        "model": model,
        "settings": {},
        "preprocessing": pixels,
        "embedding": {"width": WIDTH, "metric": "cosine", "unit": False},
        "dataset": "frames",
        **changes,
    }
    return ModelCard(**values)


def write_student(
    path: Path, model: str = "grid", text: str | None = None, hashed: bool = True, **changes: object
) -> Path:
    """An ONNX file; ``text``: other metadata, "" for none; ``hashed``: as this version writes it?"""
    from onnx import TensorProto, helper

    height, width = SIZE[0] // 3, SIZE[1] // 4
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["means"], kernel_shape=[height, width], strides=[height, width]),
        helper.make_node("Sub", ["means", "grey"], ["centred"]),
        helper.make_node("Flatten", ["centred"], ["embedding"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *SIZE, 3])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", WIDTH])
    grey = helper.make_tensor("grey", TensorProto.FLOAT, [1], [127.5])
    graph = helper.make_graph(nodes, "grid", [images], [embedding], [grey])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    stated = {"export": {STATED: True}} if hashed else {}
    written = card(model, **stated, **changes).to_text() if text is None else text
    if written:
        helper.set_model_props(made, {KEY: written, HASH: EMPTY})
        if not hashed:
            made.metadata_props.pop()
    content = made.SerializeToString()
    path.write_bytes(stamped(content) if written and hashed else content)
    return path


def expected(pixels: np.ndarray) -> np.ndarray:
    """The embedding of uint8 [24, 32, 3], computed the slow way."""
    cells = pixels.reshape(3, SIZE[0] // 3, 4, SIZE[1] // 4, 3).mean(axis=(1, 3), dtype=np.float64)
    return (cells.transpose(2, 0, 1) - 127.5).reshape(-1)
