"""What every network of this room says of itself: the contract that checkpoints, losses and the engine rely on."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from distilplace.common.errors import UserError
from distilplace.models.head import EmbeddingHead


class PlaceNetwork(nn.Module):
    """A network that describes places: ``forward(batch, feature_maps=())`` -> flat dict with ``embedding`` [B, D].

    Images are ``batch["images"]`` float [B, 3, H, W], ImageNet-normalised unless a network says otherwise; any H, W of
    32 or more, odd ones too. ``feature_maps`` are names of layers; each wanted one is in the output as
    ``maps.<layer>``, [B, C, h, w] unless said otherwise. An unknown name is a :class:`UserError`.
    """

    requires: tuple[str, ...] = ("images",)
    """The batch keys that it reads."""
    output_dim: int
    """D, the width of the embedding."""
    level_maps: tuple[str, ...] = ()
    """The layers that losses on several feature maps compare, fine to coarse."""
    unused_checkpoint_prefixes: tuple[str, ...] = ()
    """Beginnings of keys that published checkpoints hold and this network does not use."""
    trunk_keys: tuple[str, str] | None = None
    """How the image trunk's keys begin in torchvision's files, and how in this network; None: it has no such trunk."""
    has_clusters: bool = False
    """Whether it starts from cluster centres of local descriptors (``initialise_clusters``)."""
    compares_embeddings: bool = True
    """Whether places are told apart by its embedding: behind that of a pose network there is nothing to add."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding_head: EmbeddingHead | None = None

    def add_embedding_head(self, names: Sequence[str]) -> EmbeddingHead:
        """Put layers (:mod:`distilplace.models.head`) behind the embedding, or behind the head that is there.

        ``output_dim`` becomes the width behind them. The other outputs of the network stay as they are.

        Raises:
            UserError: a name that is no layer, or a network whose embedding is not compared.

        """
        if not self.compares_embeddings:
            raise UserError(f"{type(self).__name__} compares no embeddings: omit its embedding head")
        if self.embedding_head is None:
            self.embedding_head = EmbeddingHead(self.output_dim, names)
            self.register_forward_hook(_with_head)
        else:
            self.embedding_head.extend_by(names)
        self.output_dim = self.embedding_head.output_dim
        return self.embedding_head

    def branch_parameters(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that learn, by branch (``image``, ``cloud``), for learning rates of their own."""
        return {"image": learning_parameters(self), "cloud": []}

    def expected_keys(self) -> list[str]:
        """The keys of a checkpoint: the authors' names where such were published, else the network's own."""
        return list(self.state_dict())

    def own_state(self, state: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
        """A checkpoint's ``state`` under the network's own names; UserError, naming ``source``, on a foreign one."""
        return state

    def kernel_maps(self) -> list[tuple[int, int, int, int]]:
        """(level, kernel size, stride, dilation) of the sparse kernel maps of a forward pass."""
        return []


def _with_head(network: nn.Module, _: object, outputs: dict[str, Any]) -> dict[str, Any]:
    """A forward hook: the head's embedding instead of the network's."""
    assert isinstance(network, PlaceNetwork)
    assert network.embedding_head is not None
    return {**outputs, "embedding": network.embedding_head(outputs["embedding"])}


def learning_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of ``module`` that are not frozen."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
