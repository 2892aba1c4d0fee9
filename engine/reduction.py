"""PCA whitening of embeddings (``evaluate.py --pca D``): fitted on training places, kept beside the checkpoint."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.files import atomic_path, sha256
from common.randomness import generator
from engine.embedding import Embedder
from engine.options import EvaluateOptions
from engine.run_folder import LOG
from evaluation.whitening import PCAWhitening

SAMPLES = 10_000  # spec-methods 4.6


def whitening(options: EvaluateOptions, embedder: Embedder, network: nn.Module) -> Callable[[Tensor], Tensor]:
    """What reduces a batch of embeddings to ``--pca`` numbers: read from beside the weights, or fitted and kept there.

    Raises:
        UserError: the file belongs to other weights, or the data set has too few training places to fit one.

    """
    assert options.pca is not None
    weights = Path(options.weights)
    path = weights.with_name(f"{weights.stem}.pca{options.pca}.safetensors")
    made_from = f"{sha256(weights)} {options.image_size} {options.normalisation}"
    if path.is_file():
        return _applied(_read(path, made_from))
    records = embedder.data.training_set().records
    chosen = generator(options.seed, "pca").permutation(len(records))[:SAMPLES]
    _, table = embedder.embed(network, [records[index] for index in sorted(chosen)], "training places, to fit the PCA")
    fitted = PCAWhitening.fit(table["embedding"].numpy(), options.pca)
    _write(path, fitted, made_from)
    LOG.info("PCA: %d numbers from %d training places of %s -> %s", options.pca, len(chosen), embedder.data.name, path)
    return _applied(fitted)


def _applied(fitted: PCAWhitening) -> Callable[[Tensor], Tensor]:
    return lambda embeddings: torch.from_numpy(fitted.transform(embeddings.numpy()))


def _write(path: Path, fitted: PCAWhitening, made_from: str) -> None:
    from safetensors.torch import save_file

    tensors = {name: torch.as_tensor(value).contiguous() for name, value in fitted.state().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"made_from": made_from})


def _read(path: Path, made_from: str) -> PCAWhitening:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            found = (stream.metadata() or {}).get("made_from")
            state = {name: stream.get_tensor(name).numpy() for name in stream.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise UserError(f"PCA file {path} is damaged ({error}): remove it to fit it anew") from None
    if found != made_from:
        raise UserError(f"PCA file {path} was fitted with other weights or image options: remove it")
    return PCAWhitening.from_state(state)
