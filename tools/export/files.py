"""ONNX files of ours: the description in their metadata, and running them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path
from distilplace.runtime.file_hash import EMPTY, HASH, STATED, stamped
from distilplace.runtime.model_card import KEY, ModelCard
from distilplace.tools.export.graph import INPUT, opset
from distilplace.tools.export.parity import Run

LARGEST = 2**31 - 1
"""Bytes of an ONNX file: beyond, weights lie in a second file."""


def described(model: onnx.ModelProto, card: ModelCard, export: Mapping[str, Any]) -> onnx.ModelProto:
    """The model with ``card`` in its metadata, ``export`` and the opset added; its fingerprint stays that of the card.

    Embeddings of a network and of its exports may be compared, so they are of one space.
    """
    told = replace(card, export={**export, "opset": opset(model), STATED: True})
    onnx.helper.set_model_props(model, {KEY: told.to_text(), HASH: EMPTY})
    model.producer_name, model.producer_version = "distilplace", card.created_by.rpartition(" ")[2]
    return model


def write(model: onnx.ModelProto, path: Path) -> None:
    """Write a model of :func:`described` with its hash, whole or not at all."""
    content = stamped(_content(model))
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def runner(model: onnx.ModelProto | Path, threads: int = 0) -> Run:
    """The model in ONNX Runtime on the CPU, with as many threads (0: as ONNX Runtime chooses)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    content = str(model) if isinstance(model, Path) else _content(model)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> np.ndarray:
        output: np.ndarray = session.run(None, {INPUT: images})[0]
        return output

    return run


def _content(model: onnx.ModelProto) -> bytes:
    size = model.ByteSize()
    if size > LARGEST:
        raise UserError(f"the network has {size / 2**30:.1f} GiB; one ONNX file holds 2 GiB: export a smaller one")
    content: bytes = model.SerializeToString()
    return content
