"""Teachers whose embeddings are also handed on in the space where students are compared with them one by one."""

import glob
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.common.files import sha256
from distilplace.common.outputs import ALIGNED
from distilplace.common.tensor_files import read_tensors, write_tensors
from distilplace.datasets.records import PlaceRecord
from distilplace.engine import processes
from distilplace.engine.building import teacher_settings
from distilplace.engine.caches.fingerprint import log_nearest, of_frames, of_network
from distilplace.engine.caches.whitening import WhitenedTeacher
from distilplace.engine.context import Context
from distilplace.engine.embedding import Embedder
from distilplace.engine.options import TrainOptions
from distilplace.engine.teachers.sources import Frozen, StoredTeacher, TeacherSource
from distilplace.engine.teachers.space import Space, training_space
from distilplace.models import PlaceNetwork, model_requires

LOG = logging.getLogger("distilplace")


class AlignedTeacher:
    """A teacher source whose outputs also hold ``aligned_embedding`` [B, d]: its embedding in ``space``."""

    def __init__(self, source: TeacherSource, space: Space, training: StoredTeacher) -> None:
        self.source, self.space = source, space
        self.requires = source.requires
        self.network: Frozen | None = source.network
        self._training = training

    def outputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The source's outputs and the aligned embedding."""
        outputs = self.source.outputs(batch)
        return {**outputs, ALIGNED: self.space.apply(outputs["embedding"])}

    def digest(self) -> str:
        """That of its source, which the space follows from."""
        return self.source.digest()

    def bank(self, keys: Sequence[str]) -> Tensor:
        """The aligned embeddings [n, d] of training places, seen clean, as a store has them."""
        return self.space.apply(self._training.outputs({"keys": list(keys)})["embedding"])


def aligned(
    options: TrainOptions, name: str, source: TeacherSource, training: StoredTeacher, records: Sequence[PlaceRecord]
) -> AlignedTeacher:
    """A teacher with the space that ``--align_space`` and ``--align_dim`` name, fitted on its ``training`` outputs."""
    space = training_space(training, [record.key for record in records], options.align_space, options.align_dim)
    LOG.info("teacher %s: embeddings are compared in its %s space of %d numbers", name, space.kind, space.width)
    return AlignedTeacher(source, space, training)


def live_training_outputs(
    context: Context[TrainOptions],
    source: TeacherSource,
    name: str,
    network: PlaceNetwork,
    weights: Path,
    records: Sequence[PlaceRecord],
) -> StoredTeacher:
    """What a teacher that runs in every step says of the clean training places, whitened where the source is.

    Read from beside the stores, or computed and kept there: the file's name holds the hash of its fingerprint.
    """
    options = context.options
    made_from = of_network(name, teacher_settings(options, name), sha256(weights), options.precision)
    made_from |= of_frames("training frames", context.data, records, model_requires(name))
    home, label = Path(options.logdir) / "teacher_stores", f"training-{name.replace(':', '_').replace('/', '_')}"
    path = home / f"{label}-{made_from.digest()[:16]}.safetensors"
    keys = [record.key for record in records]
    if processes.on_first(path.is_file):
        LOG.info("training outputs of %s: read from %s", name, path)
        found, facts = read_tensors(path, "file of training outputs", "remove it to compute it again")
        if facts.get("made_from") != made_from.text() or len(found.get("embedding", ())) != len(keys):
            raise UserError(f"{path} holds outputs of other weights, images or options: remove it")
        table = found["embedding"]
    else:
        log_nearest(f"training outputs of {name}", sorted(home.glob(f"{glob.escape(label)}-*.safetensors")), made_from)
        table = Embedder(context).embed(network, records, "teacher on training places")[1]["embedding"]
        home.mkdir(parents=True, exist_ok=True)
        processes.on_first(write_tensors, path, {"embedding": table}, {"made_from": made_from.text()})
        LOG.info("training outputs of %s -> %s", name, path)
    if isinstance(source, WhitenedTeacher):
        table = source.whitened(table)
    return StoredTeacher({"embedding": table}, keys, path)
