"""Teachers whose embeddings are whitened before they are distilled (Whiten-MTD, AAAI 2024)."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn import functional

from common.files import sha256
from common.randomness import generator
from datasets.records import PlaceRecord
from engine.building import teacher_settings
from engine.embedding import Embedder
from engine.options import TrainOptions
from engine.teachers import LiveTeacher
from models.whitening import Whitening

LOG = logging.getLogger("distilplace")
SAMPLES = 10_000  # training images that a whitening is fitted on, spec-methods 6.1


class WhitenedTeacher:
    """A teacher source whose embeddings are of unit length, whitened, and of unit length again."""

    def __init__(self, source: LiveTeacher, whitening: Whitening) -> None:
        self.source = source
        self.requires = source.requires
        self.network = source.network
        self._whitening = whitening

    def outputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The source's outputs with the whitened embedding [B, dim2]."""
        outputs = self.source.outputs(batch)
        whitening = self._whitening.to(outputs["embedding"].device)
        unit = functional.normalize(outputs["embedding"].double(), dim=1)
        return {**outputs, "embedding": functional.normalize(whitening(unit), dim=1).float()}


def fitted_whitening(
    options: TrainOptions,
    embedder: Embedder,
    network: nn.Module,
    name: str,
    weights: Path,
    records: Sequence[PlaceRecord],
) -> Whitening:
    """The whitening to ``--whiten_dim`` of one teacher: read from beside the stores, or fitted and kept there.

    At most 10,000 random training images are used, as training sees them (augmented once). The file is keyed by
    weights, architecture, data set, preprocessing and width.
    """
    assert options.whiten_dim is not None
    key = _key(options, embedder, name, weights, records)
    path = Path(options.logdir) / "teacher_stores" / f"whitening-{name.replace(':', '_')}-{key[:16]}.safetensors"
    if path.is_file():
        return Whitening.load(path, key)
    chosen = sorted(generator(options.seed, "whitening").permutation(len(records))[:SAMPLES].tolist())
    _, table = embedder.embed(network, [records[i] for i in chosen], "training images, to whiten", options.seed)
    whitening = Whitening.fit(functional.normalize(table["embedding"], dim=1), options.whiten_dim)
    path.parent.mkdir(parents=True, exist_ok=True)
    whitening.save(path, key)
    share = 100 * whitening.kept
    LOG.info("whitening of %s: %d numbers keep %.1f %% of the energy -> %s", name, options.whiten_dim, share, path)
    return whitening


def _key(options: TrainOptions, embedder: Embedder, name: str, weights: Path, records: Sequence[PlaceRecord]) -> str:
    data = embedder.data
    facts = {
        "model": name,
        "settings": teacher_settings(options, name),
        "weights": sha256(weights),
        "data": [data.name, str(options.dataset_folder)],
        "places": hashlib.sha256("\n".join(record.key for record in records).encode()).hexdigest(),
        "augmentation": [options.bcs_aug_rate, options.hue_aug_rate, options.erasing_aug_rate],
        "preprocessing": [options.image_size, options.normalisation, data.views, data.crop_size],
        "dim": options.whiten_dim,
        "seed": options.seed,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
