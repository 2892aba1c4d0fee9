"""Cluster centres of NetVLAD heads: found once in the training images, kept beside the runs.

A NetVLAD head does not learn from random centroids (WAKD's README), so every run that trains one begins here. The file
holds the local descriptors; the centres follow from them.
"""

import glob
import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.common.randomness import generator
from distilplace.common.tensor_files import write_tensors
from distilplace.datasets.records import PlaceRecord
from distilplace.engine import processes
from distilplace.engine.assembly import Parts
from distilplace.engine.caches.fingerprint import Fingerprint, log_nearest, of_frames, of_network, saved_text
from distilplace.engine.embedding import Embedder
from distilplace.engine.runs.checkpoint import kept_checkpoints
from distilplace.engine.runs.folder import LOG, RunFolder

KEY = "descriptors"
HEAD = "net_vlad."  # what the clusters start: no part of what they are found with


def start_clusters(parts: Parts, folder: RunFolder) -> None:
    """Give the network its clusters, if it has any and this run is not one that goes on.

    Raises:
        UserError: ``--clusters_file`` was made of other images, weights or settings than this run has.

    """
    if not hasattr(parts.network, "initialise_clusters") or kept_checkpoints(folder.path):
        return
    options = parts.context.options
    made_from = clusters_made_from(parts)
    path = Path(options.clusters_file) if options.clusters_file else cluster_path(parts, made_from)
    if not options.clusters_file:
        processes.on_first(_find_if_absent, parts, path, made_from)
    # Read back even what was just found: k-means rounds by where in memory its numbers lie, and runs must repeat.
    descriptors = read_descriptors(path)
    found = made_from.compare(saved_text(path))
    if found.different:
        raise UserError(
            f"clusters file {path} is of other {', '.join(found.different)} than this run has: make it again with "
            "python -m tools.cluster and this run's options, or omit --clusters_file"
        )
    LOG.info("clusters: from %d local descriptors, %s", len(descriptors), path)
    if found.unknown:
        LOG.info("clusters: not on this machine, so not compared with the file: %s", ", ".join(found.unknown))
    parts.network.initialise_clusters(descriptors)  # type: ignore[operator]


def _find_if_absent(parts: Parts, path: Path, made_from: Fingerprint) -> None:
    if not path.is_file():
        pattern = f"{glob.escape(parts.context.data.name)}-*.safetensors"
        log_nearest("clusters", sorted(path.parent.glob(pattern)), made_from)
        find_descriptors(parts, path, made_from)


def clusters_made_from(parts: Parts) -> Fingerprint:
    """What local descriptors depend on: the network below its head, and the images drawn."""
    from distilplace.models.image.clustering import IMAGES, SEED

    digest = hashlib.sha256()
    for name, value in parts.network.state_dict().items():
        if not name.startswith(HEAD):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    records = chosen_records(parts.training.records, IMAGES, SEED)
    network = of_network(type(parts.network).__name__, {}, digest.hexdigest(), parts.context.options.precision)
    return network | of_frames("training images", parts.context.data, records, ("images",))


def cluster_path(parts: Parts, made_from: Fingerprint) -> Path:
    """Where the descriptors of this network on these images are kept: named by a hash of both."""
    name = f"{parts.context.data.name}-{made_from.digest()[:10]}.safetensors"
    return Path(parts.context.options.logdir) / "clusters" / name


def find_descriptors(parts: Parts, path: Path, made_from: Fingerprint) -> Tensor:
    """Local descriptors float32 [n, C] of random training images, written to ``path``."""
    from distilplace.models.image.clustering import IMAGES, SEED, sample_descriptors

    records = chosen_records(parts.training.records, IMAGES, SEED)
    descriptors = sample_descriptors(Embedder(parts.context).feature_maps(parts.network, records, "map"))
    write_tensors(path, {KEY: descriptors}, {"made_from": made_from.text()})
    return descriptors


def chosen_records(records: Sequence[PlaceRecord], count: int, seed: int) -> list[PlaceRecord]:
    """At most ``count`` of the records, drawn by the seed alone."""
    order = generator(seed, "cluster images").permutation(len(records))[:count]
    return [records[index] for index in sorted(order)]


def read_descriptors(path: Path) -> Tensor:
    """What :func:`find_descriptors` wrote; :class:`UserError` for any other file."""
    from distilplace.models.checkpoints import read_state

    state = read_state(path)
    if set(state) != {KEY} or state[KEY].ndim != 2 or not state[KEY].is_floating_point():
        raise UserError(f"{path} holds no local descriptors: make it with python -m tools.cluster")
    if not bool(((state[KEY].float().norm(dim=1) - 1).abs() < 1e-3).all()):  # of NaN this is false, too
        raise UserError(f"{path} is damaged, its local descriptors are not of length 1: remove it to find them again")
    return state[KEY]
