"""Teachers whose embeddings are whitened before they are distilled (Whiten-MTD, AAAI 2024)."""

import glob
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from distilplace.common.files import sha256
from distilplace.common.randomness import generator
from distilplace.datasets.records import PlaceRecord
from distilplace.datasets.transforms.views import WHITENING_VIEW
from distilplace.engine import processes
from distilplace.engine.building import rates_of, teacher_settings
from distilplace.engine.caches.fingerprint import Augmented, Fingerprint, log_nearest, of_frames, of_network
from distilplace.engine.context import Context
from distilplace.engine.embedding import Embedder
from distilplace.engine.options import TrainOptions
from distilplace.engine.teachers.sources import LiveTeacher
from distilplace.models import model_requires
from distilplace.models.whitening import Whitening

LOG = logging.getLogger("distilplace")


class WhitenedTeacher:
    """A teacher source whose embeddings are of unit length, whitened, and of unit length again."""

    def __init__(self, source: LiveTeacher, whitening: Whitening) -> None:
        self.source = source
        self.requires = source.requires
        self.network = source.network
        self.whitening = whitening

    def outputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The source's outputs with the whitened embedding [B, dim2]."""
        outputs = self.source.outputs(batch)
        return {**outputs, "embedding": self.whitened(outputs["embedding"])}

    def digest(self) -> str:
        """Hash of the network's weights."""
        return self.source.digest()

    def whitened(self, embeddings: Tensor) -> Tensor:
        """Embeddings [n, dim1] of unit length, whitened, and of unit length again: [n, dim2]."""
        whitening = self.whitening.to(embeddings.device)
        unit = functional.normalize(embeddings.double(), dim=1)
        return functional.normalize(whitening(unit), dim=1).float()


def fitted_whitening(
    context: Context[TrainOptions], network: nn.Module, name: str, weights: Path, records: Sequence[PlaceRecord]
) -> Whitening:
    """The whitening to ``--whiten_dim`` of one teacher: read from beside the stores, or fitted and kept there.

    Fitted on ``--whiten_samples`` random training images, as training sees them (augmented once); of videos, on random
    frames. The file's name holds the hash of its fingerprint: network, width, and the very images.
    """
    options, data = context.options, context.data
    assert options.whiten_dim is not None
    augmented = Augmented(options.seed, rates_of(options), WHITENING_VIEW.get(data.views, 0))
    chosen = chosen_records(data.whitening_records(records, options.seed), options)
    made_from = whitening_made_from(context, name, weights, chosen, augmented)
    home, label = Path(options.logdir) / "teacher_stores", f"whitening-{name.replace(':', '_').replace('/', '_')}"
    path = home / f"{label}-{made_from.digest()[:16]}.safetensors"
    if processes.on_first(path.is_file):
        LOG.info("whitening of %s: read from %s", name, path)
        return Whitening.load(path, made_from.text())
    log_nearest(f"whitening of {name}", sorted(home.glob(f"{glob.escape(label)}-*.safetensors")), made_from)
    _, table = Embedder(context).embed(network, chosen, "training images, to whiten", augmented)
    embeddings = functional.normalize(table["embedding"], dim=1)
    whitening = processes.on_first(Whitening.fit, embeddings, options.whiten_dim)
    path.parent.mkdir(parents=True, exist_ok=True)
    processes.on_first(whitening.save, path, made_from.text())
    share = 100 * whitening.kept
    LOG.info("whitening of %s: %d numbers keep %.1f %% of the variance -> %s", name, options.whiten_dim, share, path)
    return whitening


def whitening_made_from(
    context: Context[TrainOptions], name: str, weights: Path, chosen: Sequence[PlaceRecord], augmented: Augmented
) -> Fingerprint:
    """What a whitening depends on: network, width, and the images ``chosen`` as they are augmented."""
    options = context.options
    network = of_network(name, teacher_settings(options, name), sha256(weights), options.precision)
    frames = of_frames("training images", context.data, chosen, model_requires(name), augmented=augmented)
    return network | Fingerprint({"width": options.whiten_dim}) | frames


def chosen_records(records: Sequence[PlaceRecord], options: TrainOptions) -> list[PlaceRecord]:
    """``--whiten_samples`` of the records, drawn by the seed, in their order; all of them for 0."""
    count = options.whiten_samples or len(records)
    order = generator(options.seed, "whitening").permutation(len(records))[:count]
    return [records[index] for index in sorted(order.tolist())]
