"""``distilplace export``: from a weights file to one ONNX file, float32 or INT8, that is the whole student.

Its input "images" is uint8 RGB [B, H, W, 3] of the trained size, its output "embedding" float32 [B, D] ("pose" [B, 7]
of pose networks); normalisation is inside, the weights file's description in the metadata. Before anything is written
the exported network is compared with the network itself: on the test set of the weights' data set where that is
configured (recall and first answers), else on the images of --calibrate (first answers), else on generated pictures.

    distilplace export logs/<run>/models/best.safetensors -o student.onnx --int8

Further flags are those of evaluate.py on data sets, such as --dataset_folder.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from distilplace.common.errors import UserError
from distilplace.common.files import require_file
from distilplace.common.home import program
from distilplace.engine.program import exit_code
from distilplace.engine.progress import stage
from distilplace.tools.export.files import described, runner, write
from distilplace.tools.export.graph import PixelNetwork, onnx_graph
from distilplace.tools.export.images import Images, generated_images
from distilplace.tools.export.parity import DEFAULTS, Limits, Parity, Run, compare, outputs
from distilplace.tools.export.quantise import quantise
from distilplace.tools.export.source import Data, Source, open_data, open_source

LOG = logging.getLogger("distilplace")
BATCH = 8
ANY_SIZE = (224, 320)  # of generated pictures for a network that takes any
STOPPED = "stopped; nothing was written"


def export(chosen: argparse.Namespace, flags: Sequence[str]) -> Path:
    """Export ``chosen.weights``; the path of the ONNX file.

    Raises:
        UserError: weights that cannot be exported, no images to calibrate on, or an export that answers otherwise.

    """
    precision = "int8" if chosen.int8 else "float32"
    if chosen.output.suffix != ".onnx":
        raise UserError(f"-o {chosen.output}: the file is ONNX, call it {chosen.output.with_suffix('.onnx')}")
    source = open_source(require_file(chosen.weights, "weights file"))
    data = open_data(source, chosen.weights, chosen.calibrate, flags, calibrates=chosen.int8)
    if chosen.int8 and data.calibration is None:
        raise UserError(
            f"--int8 is calibrated on images, and data set {source.card.dataset} is not configured: "
            "give --calibrate FOLDER, or --dataset_folder"
        )
    network = pixel_network(source)
    with stage(f"{source.card.model}: ONNX graph"):
        model = onnx_graph(network, source.size)
    calibrated = 0
    if chosen.int8 and data.calibration is not None:
        images = data.calibration.spread(chosen.calibration_images)
        calibrated = len(images)
        with stage(f"{source.card.model}: calibrating on {images}"):
            model, integer, convolutions = quantise(model, list(images.batches(1, "calibrating")), chosen.int8_target)
        LOG.info("%d of %d convolutions in INT8", integer, convolutions)
    parity = compared(network, model, source, data)
    default = DEFAULTS[precision]
    drop, agreement = chosen.max_drop, chosen.min_agreement
    limits = Limits(default.score_drop if drop is None else drop, default.agreement if agreement is None else agreement)
    LOG.info("%s against the network itself: %s", precision, parity.told())
    parity.require(limits, precision)
    facts: dict[str, Any] = {"precision": precision, "target": chosen.int8_target, "parity": parity.to_dict()}
    write(described(model, source.card, {**facts, "calibration_images": calibrated}), chosen.output)
    size, before = chosen.output.stat().st_size, chosen.weights.stat().st_size
    LOG.info("%s: %.1f MB (the weights file: %.1f MB)", chosen.output, size / 1e6, before / 1e6)
    return Path(chosen.output)


def pixel_network(source: Source) -> PixelNetwork:
    """The network with its normalisation."""
    made = source.preprocessing
    return PixelNetwork(source.network, made.mean, made.std, made.mean_image).eval()


def eager(network: PixelNetwork) -> Run:
    """The network in PyTorch, float32, from pixels."""

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found: np.ndarray = network(torch.from_numpy(images)).float().numpy()
        return found

    return run


def compared(network: PixelNetwork, model: onnx.ModelProto, source: Source, data: Data) -> Parity:
    """The parity of ``model`` on the best images that there are."""
    images: Images = data.tested or generated_images(source.size or ANY_SIZE, source.preprocessing)
    with stage(f"comparing on {images}"):
        first, second = outputs(images.batches(BATCH, "comparing"), eager(network), runner(model))
    keys = [getattr(each, "key", str(row)) for row, each in enumerate(images.sources)]
    return compare(first, second, str(images), network.output, keys, data.test)


def flag_parser() -> argparse.ArgumentParser:
    """The flags of this command alone."""
    parser = argparse.ArgumentParser(
        prog=program("tools.export"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="weights file of a run (best.safetensors)")
    parser.add_argument("-o", "--output", type=Path, default=Path("student.onnx"), help="the file (student.onnx)")
    parser.add_argument("--int8", action="store_true", help="8-bit weights and feature maps, calibrated on images")
    parser.add_argument(
        "--int8_target", choices=("cpu", "tensorrt"), default="cpu", help="whose instructions INT8 is made for (cpu)"
    )
    parser.add_argument("--calibrate", type=Path, metavar="FOLDER", help="images to calibrate on, at any depth")
    parser.add_argument(
        "--calibration_images", type=int, default=200, help="at most so many, evenly spread over the set (200)"
    )
    drops = ", ".join(f"{name} {limits.score_drop:g}" for name, limits in DEFAULTS.items())
    shares = ", ".join(f"{name} {limits.agreement:g}" for name, limits in DEFAULTS.items())
    parser.add_argument(
        "--max_drop",
        type=float,
        metavar="POINTS",
        help=f"recall@1 that may be lost on the test set; of poses percent of the median error ({drops})",
    )
    parser.add_argument(
        "--min_agreement", type=float, metavar="PERCENT", help=f"first answers that have to stay the same ({shares})"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 on success, 2 on a user's mistake."""
    chosen, flags = flag_parser().parse_known_args(arguments)

    def work() -> None:
        if chosen.calibration_images < 1:
            raise UserError(f"--calibration_images {chosen.calibration_images}: at least 1 is needed")
        export(chosen, flags)

    return exit_code(work, STOPPED)
