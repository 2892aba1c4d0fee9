"""PCA whitening of embeddings (``evaluate.py --pca D``): fitted on training places, kept beside the checkpoint.

Published place-recognition tests fit one PCA, on the training part that the network has learnt from (OpenIBL, WAKD:
Pitts30k-train at 480x640), and use it for every test set.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distilplace.common.errors import UserError
from distilplace.common.files import sha256
from distilplace.common.randomness import generator
from distilplace.common.tensor_files import read_tensors, write_tensors
from distilplace.datasets.base import PlaceData
from distilplace.datasets.records import PlaceRecord
from distilplace.engine import processes
from distilplace.engine.building import build_named_data
from distilplace.engine.caches.fingerprint import Fingerprint, log_nearest, of_frames, of_network, saved_text
from distilplace.engine.context import Context
from distilplace.engine.embedding import Embedder
from distilplace.engine.options import EvaluateOptions
from distilplace.engine.runs.folder import LOG
from distilplace.evaluation.retrieval.whitening import PCAWhitening
from distilplace.models import model_requires

SAMPLES = 10_000  # of local descriptors


def whitening(
    context: Context[EvaluateOptions],
    trained: Mapping[str, Any],
    network: nn.Module,
    name: str,
    settings: Mapping[str, Any],
) -> Callable[[Tensor], Tensor]:
    """What reduces a batch of embeddings to ``--pca`` numbers: read from its file, or fitted and kept there.

    Args:
        context: of the evaluation; the PCA is fitted on images of one size, whatever its ``scales``.
        trained: options of the run that the weights belong to; empty where there is none.
        network: the network with its weights.
        name: the network's.
        settings: the network's.

    Raises:
        UserError: no training images to fit it on, or ``--pca_file`` belongs to other weights, images or settings.

    """
    options = context.options
    assert options.pca is not None
    weights = Path(options.weights)
    path = Path(options.pca_file or weights.with_name(f"{weights.stem}.pca{options.pca}.safetensors"))
    data, chosen, problem = pca_images(options, trained, context.data)
    made_from = pca_made_from(options, name, settings, data, chosen)
    if processes.on_first(path.is_file):
        fitted = _read(path)
        if _fits(path, made_from, options, problem):
            return _applied(fitted)
    if data is None:
        raise UserError(f"no images to fit the PCA on ({problem}): give --pca_dataset and --pca_folder, or --pca_file")
    embedder = Embedder(replace(context, data=data, scales=(1.0,)))
    _, table = embedder.embed(network, chosen, "training places, to fit the PCA")
    embeddings = functional.normalize(table["embedding"], dim=1) if of_units(options) else table["embedding"]
    fitted = processes.on_first(PCAWhitening.fit, embeddings.numpy(), options.pca)
    processes.on_first(_write, path, fitted, made_from)
    LOG.info("PCA: %d numbers from %d training places of %s -> %s", options.pca, len(chosen), data.name, path)
    return _applied(fitted)


def of_units(options: EvaluateOptions) -> bool:
    """Is the PCA applied to unit embeddings (of each scale), so that it must be fitted on such?"""
    return tuple(options.scales) != (1.0,)


def pca_made_from(
    options: EvaluateOptions,
    name: str,
    settings: Mapping[str, Any],
    data: PlaceData | None,
    chosen: Sequence[PlaceRecord],
) -> Fingerprint:
    """What a fitted PCA depends on: network, width, and the images ``chosen``, where they are on this machine."""
    network = of_network(name, settings, sha256(Path(options.weights)), options.precision)
    made_from = network | Fingerprint({"pca": options.pca, "unit embeddings": of_units(options)})
    return made_from if data is None else made_from | of_frames("PCA images", data, chosen, model_requires(name))


def pca_images(
    options: EvaluateOptions, trained: Mapping[str, Any], tested: PlaceData
) -> tuple[PlaceData | None, list[PlaceRecord], str]:
    """The data set that the PCA is fitted on and the places drawn from its training part; or why there are none."""
    try:
        data = pca_data(options, trained, tested)
        records = data.training_set().records
    except UserError as error:
        if options.pca_dataset is not None and options.pca_file is None:
            raise
        return None, [], str(error)
    order = generator(options.seed, "pca").permutation(len(records))[:SAMPLES]
    return data, [records[index] for index in sorted(order.tolist())], ""


def pca_data(options: EvaluateOptions, trained: Mapping[str, Any], tested: PlaceData) -> PlaceData:
    """The data set that ``--pca_dataset`` names, else the one that the weights were trained on, else the tested one."""
    run = {name: value for name, value in trained.items() if value not in ("null", "None", "~", "")}
    name = options.pca_dataset or run.get("dataset") or options.dataset
    own = run.get("dataset_folder") if name == run.get("dataset") else None
    folder = options.pca_folder or own or (options.dataset_folder if name == options.dataset else None)
    size = options.pca_image_size or options.image_size
    same_folder = folder == (options.test_folder if options.test_dataset else options.dataset_folder)
    if name == tested.name and same_folder and size == options.image_size:
        return tested
    update: dict[str, Any] = {"dataset_folder": folder, "image_size": size}
    if name != options.dataset:
        update["image_path"] = run.get("image_path") if name == run.get("dataset") else None
    return build_named_data(options.model_copy(update=update), name, "--pca_folder")


def _fits(path: Path, made_from: Fingerprint, options: EvaluateOptions, problem: str) -> bool:
    """May the file be used? Says so, or why not; :class:`UserError` for one that was named and does not fit."""
    saved = saved_text(path)
    found = made_from.compare(saved)
    different = found.different
    if problem:  # its images are not here: all else must fit
        different = [name for name in different if not name.endswith("(PCA images)")]
    if different and options.pca_file is not None:
        raise UserError(
            f"PCA file {path} was fitted with other {', '.join(different)} than this run has: omit --pca_file, or name "
            "a file that does not exist to fit it there"
        )
    if different:
        log_nearest("PCA", [path], made_from)
        return False
    unsure = f"; its images are not compared: {problem}" if problem else ""
    unsure += f"; not compared, as absent here: {', '.join(found.unknown)}" if found.unknown else ""
    LOG.info("PCA: read from %s%s", path, unsure)
    return True


def _applied(fitted: PCAWhitening) -> Callable[[Tensor], Tensor]:
    return lambda embeddings: torch.from_numpy(fitted.transform(embeddings.numpy()))


def _write(path: Path, fitted: PCAWhitening, made_from: Fingerprint) -> None:
    tensors = {name: torch.as_tensor(value) for name, value in fitted.state().items()}
    write_tensors(path, tensors, {"made_from": made_from.text()})


def _read(path: Path) -> PCAWhitening:
    tensors, _ = read_tensors(path, "PCA file", "remove it to fit it again")
    try:
        state = {name: tensor.numpy() for name, tensor in tensors.items()}
        mean, projection = state["mean"], state["projection"]
    except (KeyError, TypeError) as error:
        raise UserError(f"PCA file {path} is damaged ({error}): remove it to fit it again") from None
    finite = all(array.dtype.kind == "f" and bool(torch.from_numpy(array).isfinite().all()) for array in state.values())
    if mean.ndim != 1 or projection.ndim != 2 or projection.shape[1] != len(mean) or not finite:
        raise UserError(f"PCA file {path} is damaged (its arrays do not fit or are not finite): remove it")
    return PCAWhitening.from_state(state)
