"""The ONNX graph of a network: uint8 pixels in, embedding (or pose) out, normalisation inside."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from distilplace.common.errors import UserError
from distilplace.models import PlaceNetwork
from distilplace.models.image.second_order import SecondOrderAttention
from distilplace.models.pose import PoseNetwork

INPUT = "images"
SMALLEST_BATCH = 2  # an example of one image would make the batch a constant 1
_NOTHING = 1e-12  # batch norm wants something above zero beside a variance of 1 or more


class PixelNetwork(nn.Module):
    """A network that takes the pixels of RGB images, uint8 [B, H, W, 3], and gives one output, float32 [B, D].

    Args:
        network: reads ``images`` alone.
        mean: per channel, of pixels in 0..1.
        std: per channel, likewise.
        mean_image: float32 [H, W, 3] in 0..255, subtracted instead (PoseNet); then pixels are not divided.

    """

    mean: Tensor
    variance: Tensor
    mean_image: Tensor | None

    def __init__(
        self, network: PlaceNetwork, mean: Sequence[float], std: Sequence[float], mean_image: np.ndarray | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.output = "pose" if isinstance(network, PoseNetwork) else "embedding"
        self.register_buffer("mean", 255.0 * torch.tensor(mean))
        self.register_buffer("variance", (255.0 * torch.tensor(std)) ** 2)
        image = None if mean_image is None else torch.from_numpy(np.float32(mean_image)).permute(2, 0, 1).contiguous()
        self.register_buffer("mean_image", image)

    def forward(self, images: Tensor) -> Tensor:
        """Uint8 [B, H, W, 3] -> float32 [B, D].

        Pixels are normalised by the operator of batch norm: written as a difference and a quotient, ONNX Runtime
        computes both with the channels last, which takes 20 times as long.
        """
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        if self.mean_image is not None:
            pixels = pixels - self.mean_image
        else:
            pixels = functional.batch_norm(pixels, self.mean, self.variance, eps=_NOTHING)
        output: Tensor = self.network({"images": pixels})[self.output]
        return output


def onnx_graph(network: PixelNetwork, size: tuple[int, int] | None) -> onnx.ModelProto:
    """The network in evaluation mode as ONNX, of any batch size.

    Args:
        network: on the CPU.
        size: height and width of its images; None: any.

    Raises:
        UserError: the network cannot be exported.

    """
    batch = {0: torch.export.Dim("batch")}
    sides = {} if size else {1: torch.export.Dim("height", min=32), 2: torch.export.Dim("width", min=32)}
    example = torch.zeros(SMALLEST_BATCH, *(size or (224, 320)), 3, dtype=torch.uint8)
    try:
        with _quiet():
            program = torch.onnx.export(
                network.eval(),
                (example,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[network.output],
                dynamic_shapes={INPUT: batch | sides},
                custom_translation_table=_translations(network),
            )
    except (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.TorchDynamoException) as error:
        reason = next(filter(None, (str(error.__cause__ or error)).splitlines()), type(error).__name__)
        hint = "" if size else "; give --image_size, a network for images of any size is harder to export"
        raise UserError(f"{type(network.network).__name__} cannot be exported: {reason[:200]}{hint}") from None
    assert program is not None
    return _without_traces(program.model_proto)


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that the file needs."""
    return next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))


def _translations(network: nn.Module) -> dict[Callable[..., Any], Callable[..., Any]] | None:
    """What the exporter lacks: attention over [B, L, C] without heads, which SOLAR has."""
    if not any(isinstance(module, SecondOrderAttention) for module in network.modules()):
        return None
    from onnxscript import opset20 as op

    def attention(query: Any, key: Any, value: Any) -> Any:
        scores = op.MatMul(query, op.Transpose(key, perm=[0, 2, 1]))
        scale = op.Constant(value_float=float(query.shape[-1]) ** -0.5)
        return op.MatMul(op.Softmax(op.Mul(scores, scale), axis=-1), value)

    return {torch.ops.aten.scaled_dot_product_attention.default: attention}


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without what the exporter notes of each node: source lines and paths of the machine."""
    for holder in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings and progress, which tell a user nothing."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
