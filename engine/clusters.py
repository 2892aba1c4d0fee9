"""Cluster centres of NetVLAD heads: found once in the training images, kept beside the runs.

A NetVLAD head does not learn from random centroids (WAKD's README; spec-methods 4.6), so every run that trains one
begins here. The file holds the local descriptors; the centres follow from them.
"""

import hashlib
from pathlib import Path

from torch import Tensor

from common.errors import UserError
from common.files import atomic_path
from common.randomness import generator
from datasets.records import PlaceRecord
from engine.assembly import Parts
from engine.options import TrainOptions
from engine.run_folder import LOG, RunFolder

KEY = "descriptors"


def start_clusters(options: TrainOptions, parts: Parts, folder: RunFolder) -> None:
    """Give the network its clusters, if it has any and this run is not one that goes on."""
    if not hasattr(parts.network, "initialise_clusters") or (folder.path / "last.ckpt").is_file():
        return
    path = Path(options.clusters_file) if options.clusters_file else cluster_path(options, parts)
    if not options.clusters_file and not path.is_file():
        find_descriptors(parts, path)
    # Read back even what was just found: k-means rounds by where in memory its numbers lie, and runs must repeat.
    descriptors = read_descriptors(path)
    LOG.info("clusters: from %d local descriptors, %s", len(descriptors), path)
    parts.network.initialise_clusters(descriptors)  # type: ignore[operator]


def cluster_path(options: TrainOptions, parts: Parts) -> Path:
    """Where the descriptors of this network on these images are kept: named by a hash of both."""
    digest = hashlib.sha256()
    for name, value in parts.network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    lines = [str(options.image_size), options.normalisation, *(record.key for record in parts.training.records)]
    digest.update("\n".join(lines).encode())
    return Path(options.logdir) / "clusters" / f"{parts.embedder.data.name}-{digest.hexdigest()[:10]}.safetensors"


def find_descriptors(parts: Parts, path: Path) -> Tensor:
    """Local descriptors float32 [n, C] of random training images, written to ``path``."""
    from safetensors.torch import save_file

    from models.clustering import IMAGES, SEED, sample_descriptors

    records = chosen_records(parts.training.records, IMAGES, SEED)
    descriptors = sample_descriptors(parts.embedder.feature_maps(parts.network, records, "map"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file({KEY: descriptors.contiguous()}, temporary)
    return descriptors


def chosen_records(records: list[PlaceRecord], count: int, seed: int) -> list[PlaceRecord]:
    """At most ``count`` of the records, drawn by the seed alone."""
    order = generator(seed, "cluster images").permutation(len(records))[:count]
    return [records[index] for index in sorted(order)]


def read_descriptors(path: Path) -> Tensor:
    """What :func:`find_descriptors` wrote; :class:`UserError` for any other file."""
    from models.checkpoints import read_state

    state = read_state(path)
    if set(state) != {KEY} or state[KEY].ndim != 2:
        raise UserError(f"{path} holds no local descriptors: make it with python -m tools.cluster")
    return state[KEY]
