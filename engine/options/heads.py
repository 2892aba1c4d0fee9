"""Options of what stands behind a network's embedding (:mod:`distilplace.models.head`)."""

from typing import Literal

from pydantic import Field, PositiveInt

from distilplace.engine.options.fields import OptionGroup


class HeadOptions(OptionGroup):
    """A linear layer that learns with the network, and what is fitted behind it when it has learned."""

    embedding_head: Literal["none", "linear"] = Field(
        "none",
        description="linear: the network learns a linear layer behind its embedding, with batch norm and unit length",
    )
    embedding_head_dim: PositiveInt | None = Field(
        None, description="its width; None = that of the teacher's space it is compared with, else the network's own"
    )
    centre: bool = Field(
        False, description="after training: subtract the mean of the training embeddings (unit length before and after)"
    )
    align_head: bool = Field(
        False,
        description="after training: the network once more, with a linear map to the teacher's --align_space (ridge)",
    )
