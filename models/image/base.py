"""What all image networks share: checked images in, named maps out, a head on the last map."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from distilplace.common.errors import UserError, unknown_name
from distilplace.common.outputs import with_maps
from distilplace.models.base import PlaceNetwork
from distilplace.models.image.pooling import HEADS, GeMFC, head_named

SMALLEST_SIDE = 32  # pixels: the deepest stages have stride 32


class HeadedNetwork(PlaceNetwork):
    """A trunk (attribute ``model``, built by the subclass), a 1x1 convolution (not of each head) and a pooling head.

    State-dict keys of the latter two: ``conv1x1.*`` and the head's own (``pooling.HEADS``). ``gem_p`` is the exponent
    of GeMFC; no other head has a fixed one.
    """

    def __init__(self, network: str, output_dim: int, pool: str, gem_p: float = 3.0) -> None:
        super().__init__()
        if output_dim < 1:
            raise UserError(f"output_dim of image network {network} is {output_dim}; it must be at least 1")
        self.network = network
        self.pool = pool
        self.head = head_named(pool)
        self.channels = output_dim
        self.gem_p = gem_p
        self.output_dim = output_dim

    def add_head(self, width: int, unused: Iterable[str]) -> None:
        """The head on a map of ``width`` channels; ``unused``: beginnings of checkpoint keys that the trunk skips."""
        channels = self.channels if self.head.reduced else width
        self.conv1x1 = nn.Conv2d(width, channels, kernel_size=1) if self.head.reduced else nn.Identity()
        fully_connected = self.head.kind is GeMFC
        head = GeMFC(width, self.channels, self.gem_p) if fully_connected else self.head.kind(channels)
        self.add_module(self.head.key, head)
        self.output_dim = self.get_submodule(self.head.key).output_dim  # type: ignore[assignment]
        others = (f"{other.key}." for other in HEADS.values() if other.reduced and other.key != self.head.key)
        self.unused_checkpoint_prefixes = (*unused, *others)

    def described(self, maps: dict[str, Tensor], last: str, wanted: Sequence[str]) -> dict[str, Any]:
        """The output for a trunk's ``maps``: the head reads the one named ``last``; ``map`` is what it sees."""
        maps["map"] = self.conv1x1(maps[last])
        embedding = self.get_submodule(self.head.key)(maps["map"])
        return {"embedding": embedding, **chosen_maps(self.network, wanted, maps)}


def checked_images(batch: Mapping[str, Any]) -> Tensor:
    """The ``images`` of a batch, [B, 3, H, W].

    Raises:
        ValueError: another shape.
        UserError: a side of fewer than 32 pixels.

    """
    images: Tensor = batch["images"]
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [B, 3, H, W], not {list(images.shape)}")
    if min(images.shape[-2:]) < SMALLEST_SIDE:
        raise too_small(*images.shape[-2:])
    return images


def too_small(height: int, width: int) -> UserError:
    """The error for images of fewer pixels than the networks take."""
    return UserError(f"images of {height} x {width} pixels are too small: {SMALLEST_SIDE} a side is the least")


def check_map_names(network: str, wanted: Iterable[str], known: Iterable[str]) -> None:
    """Refuse feature maps that the network called ``network`` does not give (:class:`UserError`, nearest offered)."""
    names = tuple(known)
    for name in wanted:
        if name not in names:
            raise unknown_name(f"feature map of {network}", name, names)


def chosen_maps(network: str, wanted: Sequence[str], maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ``wanted`` ones of ``maps`` under their keys in an output; see :func:`check_map_names`."""
    check_map_names(network, wanted, maps)
    return with_maps({name: maps[name] for name in wanted})
