"""A student's teacher in the space that the student aims at, as a weights file: the model that makes the map.

``models/teacher.safetensors`` holds the teacher's weights and, as its embedding head, the space in which students are
compared with it one by one (``--align_space``). Maps of its fingerprint may be queried by the student, whose own
weights file says so.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from distilplace.datasets.records import PlaceRecord
from distilplace.engine.building import build_network, teacher_settings
from distilplace.engine.caches.whitening import WhitenedTeacher
from distilplace.engine.context import Context
from distilplace.engine.model_card import describe_network
from distilplace.engine.options import TrainOptions
from distilplace.engine.runs.folder import TEACHER_FILE
from distilplace.engine.teachers.aligned import AlignedTeacher
from distilplace.engine.teachers.sources import TeacherSource
from distilplace.models import PlaceNetwork
from distilplace.models.checkpoints import read_card, save_weights
from distilplace.models.head import LINEAR, Centre

LOG = logging.getLogger("distilplace")


def save_map_models(
    context: Context[TrainOptions], teachers: Sequence[TeacherSource], models: Path, example: PlaceRecord
) -> tuple[str, ...]:
    """Write the teachers that are compared with one by one into the folder ``models``; their fingerprints.

    A teacher whose weights are not on this machine, whose outputs were read from a store, is told and left out.
    """
    options, fingerprints = context.options, []
    for name, weights, source, path in zip(
        options.model, options.teacher_weights_path, teachers, _paths(models), strict=False
    ):
        if not isinstance(source, AlignedTeacher):
            continue
        if not Path(weights).is_file():
            LOG.info(
                "no %s: the teacher's weights %s are absent, so no map for this student can be made", path, weights
            )
            continue
        settings = teacher_settings(options, name)
        network = build_network(name, settings, seed=options.seed, weights=weights).to(context.device).eval()
        add_space(network, source)
        card, mean_image = describe_network(context, network, settings, example, teacher=name)
        save_weights(network, path, card, mean_image)
        saved = read_card(path)
        assert saved is not None
        fingerprints.append(saved.fingerprint)
        LOG.info("map model: %s (%s, %s space)", path, name, source.space.kind)
    return tuple(fingerprints)


def add_space(network: PlaceNetwork, source: AlignedTeacher) -> None:
    """Put the space of a teacher's aligned embeddings behind its network."""
    if isinstance(source.source, WhitenedTeacher):
        whitening = source.source.whitening
        network.add_embedding_head(["unit", f"{LINEAR}{whitening.dim2}", "unit"])
        _fill_linear(network, whitening.mean, whitening.dvt)
    space = source.space
    if space.projection is not None:
        network.add_embedding_head([f"{LINEAR}{space.width}", "unit"])
        _fill_linear(network, space.mean, space.projection.T)
    elif space.kind == "centred":
        head = network.add_embedding_head(["centre", "unit"])
        centre = head[-2]
        assert isinstance(centre, Centre)
        centre.mean.copy_(space.mean)
    else:
        network.add_embedding_head(["unit"])


def _fill_linear(network: PlaceNetwork, mean: Tensor, matrix: Tensor) -> None:
    """The last linear layer of the head: e -> matrix (e - mean), [d, D]."""
    assert network.embedding_head is not None
    linear = [layer for layer in network.embedding_head if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        linear.weight.copy_(matrix)
        linear.bias.copy_(-(matrix.double() @ mean.double()))


def _paths(models: Path) -> Iterator[Path]:
    """``teacher.safetensors``, ``teacher_2.safetensors`` ..."""
    file = models / TEACHER_FILE
    yield file
    number = 2
    while True:
        yield file.with_stem(f"{file.stem}_{number}")
        number += 1
