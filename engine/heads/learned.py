"""``--embedding_head linear``: a linear layer behind the embedding that learns with the network."""

import logging
from collections.abc import Sequence

from distilplace.common.errors import UserError
from distilplace.common.randomness import forked_random_state
from distilplace.engine.options import TrainOptions
from distilplace.engine.teachers.aligned import AlignedTeacher
from distilplace.engine.teachers.sources import TeacherSource
from distilplace.models import PlaceNetwork
from distilplace.models.head import LINEAR

LOG = logging.getLogger("distilplace")


def add_learned_head(options: TrainOptions, network: PlaceNetwork, teachers: Sequence[TeacherSource]) -> None:
    """Put batch norm, the layer and unit length behind the network, on its device.

    Nothing where none is wanted, or ``--pretrained`` brought one.

    Its start depends on the seed alone, and the network's own start not on whether it has one.

    Raises:
        UserError: ``--embedding_head_dim`` is not the width of the head that ``--pretrained`` brought; or it is not
            given, and the teachers' embeddings differ in width.

    """
    if options.embedding_head == "none":
        return
    if network.embedding_head is not None:
        if options.embedding_head_dim not in (None, network.output_dim):
            raise UserError(
                f"--embedding_head_dim {options.embedding_head_dim}: the network in --pretrained {options.pretrained} "
                f"has a head of {network.output_dim} numbers; omit it, or start from another file"
            )
        LOG.info("embedding head of %s: %s", options.pretrained, ", ".join(network.embedding_head.names))
        return
    width = options.embedding_head_dim or _compared_width(teachers) or network.output_dim
    device = next(network.parameters()).device
    with forked_random_state("embedding head", options.seed):
        network.add_embedding_head(["norm", f"{LINEAR}{width}", "unit"]).to(device)
    LOG.info("embedding head: batch norm, a linear layer to %d numbers, unit length", width)


def _compared_width(teachers: Sequence[TeacherSource]) -> int | None:
    """The width of the space in which embeddings are compared with the teachers'; None where they are not."""
    widths = sorted({teacher.space.width for teacher in teachers if isinstance(teacher, AlignedTeacher)})
    if len(widths) > 1:
        told = " and ".join(map(str, widths))
        raise UserError(f"the teachers' embeddings have {told} numbers: say with --embedding_head_dim how many")
    return widths[0] if widths else None
