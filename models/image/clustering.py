"""The start of a NetVLAD head: cluster centres of local descriptors, and how sharply they are assigned.

Arandjelovic et al., NetVLAD (CVPR 2016, section 3.1 and appendix A); numbers as in OpenIBL and WAKD (500 images, 100
locations each, at most 100 iterations, seed 43).
"""

import math
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from distilplace.common.errors import UserError
from distilplace.common.randomness import generator
from distilplace.models.image.pooling import NetVLAD

IMAGES = 500
LOCATIONS = 100
ITERATIONS = 100
SEED = 43
_LEAST_RATIO = 0.01  # the second centre's share of the first's, for a descriptor with the mean gap


def sample_descriptors(
    maps: Iterable[Tensor], images: int = IMAGES, locations: int = LOCATIONS, seed: int = SEED
) -> Tensor:
    """Local descriptors of the first ``images`` images that ``maps`` brings, at random locations of each.

    Args:
        maps: batches [B, C, h, w] of the map before the head; no more are fetched than needed.
        images: how many images to take.
        locations: how many locations of each, without repetition; all of a smaller map.
        seed: of the draws, which depend on it and on the number of the image only, not on the batches.

    Returns:
        float32 [n, C] on the CPU, rows of length 1, n <= images * locations (a location of zeros has no direction and
        is left out).

    Raises:
        UserError: ``maps`` brings no image.

    """
    found: list[Tensor] = []
    for batch in maps:
        for features in batch.detach()[: images - len(found)]:
            rows = features.flatten(1).T  # [h w, C]
            draw = generator(seed, "local descriptors", len(found))
            chosen = torch.from_numpy(draw.choice(len(rows), min(locations, len(rows)), replace=False))
            found.append(functional.normalize(rows[chosen.to(rows.device)].float(), dim=1).cpu())
        if len(found) == images:
            break
    if not found:
        raise UserError("no images to take local descriptors from: NetVLAD's clusters need some of the training set")
    descriptors = torch.cat(found)
    return descriptors[descriptors.any(dim=1)]


def cluster_centres(descriptors: Tensor, clusters: int, iterations: int = ITERATIONS, seed: int = SEED) -> Tensor:
    """k-means centres [clusters, C] of unit vectors [n, C], float32; not of length 1 themselves.

    Raises:
        UserError: fewer different descriptors than clusters.

    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    few = UserError(
        f"{len(descriptors)} local descriptors (some may be equal) do not make {clusters} NetVLAD clusters: take more"
        " images or fewer clusters"
    )
    if len(descriptors) < clusters:
        raise few
    fit = KMeans(clusters, n_init=1, max_iter=iterations, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)  # says that points coincide
        try:
            fit.fit(descriptors.cpu().float().numpy())
        except ConvergenceWarning as warning:
            raise few from warning
    return torch.from_numpy(fit.cluster_centers_).float()


def assignment_scale(descriptors: Tensor, centres: Tensor) -> float:
    """``alpha = -ln(0.01) / mean(s1 - s2)``, s1 and s2 the two largest cosines of a descriptor to the centres.

    With it a descriptor of mean gap is assigned 100 times as much to its first centre as to the second.

    Args:
        descriptors: [n, C], rows of length 1.
        centres: [K, C], K >= 2, of any length.

    """
    cosines = descriptors.float() @ functional.normalize(centres.float(), dim=1).T.to(descriptors.device)
    first, second = cosines.topk(2, dim=1).values.unbind(dim=1)
    return -math.log(_LEAST_RATIO) / float((first - second).mean())


def initialise_netvlad(head: NetVLAD, descriptors: Tensor) -> float:
    """Set the centroids to the cluster centres, the assignment to ``alpha`` times the centres' directions.

    Args:
        head: of K >= 2 clusters on C channels; changed in place.
        descriptors: float [n, C], rows of length 1, n >= K: of :func:`sample_descriptors`.

    Returns:
        ``alpha`` of :func:`assignment_scale`.

    Raises:
        ValueError: another shape, or rows of another length than 1.
        UserError: one cluster, or fewer different descriptors than clusters.

    """
    clusters, channels = head.centroids.shape
    if descriptors.ndim != 2 or descriptors.shape[1] != channels:
        raise ValueError(f"descriptors must be [n, {channels}], not {list(descriptors.shape)}")
    if not bool(((descriptors.float().norm(dim=1) - 1).abs() < 1e-3).all()):
        raise ValueError("descriptors must be finite and of length 1")
    if clusters < 2:
        raise UserError("a NetVLAD head of one cluster assigns nothing: give it 2 clusters at least")
    centres = cluster_centres(descriptors, clusters)
    alpha = assignment_scale(descriptors, centres)
    with torch.no_grad():
        head.centroids.copy_(centres)
        head.conv.weight.copy_(alpha * functional.normalize(centres, dim=1)[:, :, None, None])
    return alpha
