"""What learns: teachers and students by name.

The table holds names of classes, not classes, so that importing it loads no torchvision and no sparse engine.
"""

from distilplace.common.extras import require_training

require_training("distilplace.models")

import functools
from collections.abc import Sequence
from typing import Any

from distilplace.common.registry import Entry, Registry, check_settings, parameters
from distilplace.models.base import PlaceNetwork

__all__ = [
    "PlaceNetwork",
    "create_model",
    "has_clusters",
    "keeps_its_width",
    "list_models",
    "model_class",
    "model_requires",
    "model_settings",
]


STARTS = ("none", "imagenet")
"""Values of ``pretrained`` that are no file."""


_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_PLAIN_NETWORKS = ("vgg16", "vgg19", "mobilenet_v2", "mobilenetv3_large", "mobilenetv3_small")
_AUTHORS_NETWORKS = ("mobilenetv3_large_wakd",)
_IMAGE_NETWORKS = (
    *(*_RESNETS, *_PLAIN_NETWORKS, *_AUTHORS_NETWORKS),
    *("convnext_tiny", "convnext_small", "swin_t", "swin_s", "swin_v2_t", "swin_v2_s"),
)
_VLAD_NETWORKS = (
    "vgg16",
    "vgg19",
    "mobilenetv3_large",
    *_AUTHORS_NETWORKS,
    "mobilenetv3_small",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet152",
)
_POSE_TRUNKS = ("resnet18", "resnet34", "resnet50", "resnet101")
_LANDMARK_NETWORKS = {
    "resnet101": ("gem", "ap_gem", "solar", "delg", "dolg"),
    "resnet18": ("gem", "solar", "delg", "dolg"),
    "resnet34": ("gem",),
}
_DINOV2 = {"s": "small", "b": "base", "l": "large"}
_TIMM = "timm:"
_TIMM_NETWORK = "distilplace.models.image.timm_network:TimmNetwork"
_IMAGE_NETWORK = "distilplace.models.image.network:ImageNetwork"
_RETRIEVAL_NETWORK = "distilplace.models.landmark.networks:RetrievalNetwork"


class _Models(Registry):
    """In alphabetical order; besides any network of timm."""

    def __missing__(self, name: str) -> Entry:
        if name.startswith(_TIMM):
            return _TIMM_NETWORK, {"network": name.removeprefix(_TIMM)}
        return super().__missing__(name)


def _entries() -> dict[str, Entry]:
    entries: dict[str, Entry] = {
        "minkloc": "distilplace.models.cloud.minkloc:MinkLoc",
        "minkloconly": "distilplace.models.cloud.minkloc:MinkLocOnly",
        "apformer": "distilplace.models.image.pyramid_networks:APFormer",
        "dsformer": "distilplace.models.image.pyramid_networks:DSFormer",
    }
    for fusion in ("cat", "add"):
        entries[f"minklocmm{fusion}"] = ("distilplace.models.fused:MinkLocMultimodal", {"fusion": fusion})
    for name in _IMAGE_NETWORKS:
        entries[name] = (_IMAGE_NETWORK, {"network": name})
    for name in _RESNETS:
        entries[f"{name}_full"] = (_IMAGE_NETWORK, {"network": name, "useallstages": True})
    for name in _VLAD_NETWORKS:
        entries[f"{name}netvlad"] = ("distilplace.models.image.vlad:VLADNetwork", {"network": name})
    for name in _POSE_TRUNKS:
        entries[f"{name}pose"] = ("distilplace.models.pose:PoseNetwork", {"network": name})
    for name, families in _LANDMARK_NETWORKS.items():
        for family in families:
            entries[f"{name}_{family}"] = (_RETRIEVAL_NETWORK, {"family": family, "network": name})
    for family in ("mocov3", "barlowtwins"):
        entries[family] = (_RETRIEVAL_NETWORK, {"family": family, "network": "resnet50"})
    for letter, size in _DINOV2.items():
        entries[f"dinov2_vit{letter}14"] = (_TIMM_NETWORK, {"network": f"vit_{size}_patch14_dinov2.lvd142m"})
    return dict(sorted(entries.items()))


_MODELS = _Models("model", _entries())


def list_models() -> list[str]:
    """The names that :func:`create_model` knows, in alphabetical order; "timm:<name>" gives any network of timm."""
    return list(_MODELS)


def model_class(name: str) -> type[PlaceNetwork]:
    """The class behind a model's name."""
    found: type[PlaceNetwork] = _MODELS.load(name)
    return found


def model_settings(name: str) -> tuple[str, ...]:
    """The settings that ``create_model(name, ...)`` accepts, in the order of the class's signature."""
    return _MODELS.settings(name)


def model_requires(name: str) -> tuple[str, ...]:
    """The batch keys that the model reads: ``images``, ``coords``, ``features``."""
    return model_class(name).requires


def has_clusters(name: str) -> bool:
    """Whether the model starts from cluster centres of local descriptors (NetVLAD)."""
    return model_class(name).has_clusters


def keeps_its_width(name: str) -> bool:
    """Whether the model has a published width, which it keeps unless ``output_dim`` is given."""
    width = parameters(model_class(name)).get("output_dim")
    return width is not None and width.default is None


def create_model(name: str, *, embedding_head: Sequence[str] = (), **settings: Any) -> PlaceNetwork:
    """A new network with the public interface of this room.

    Every model takes a batch and returns a dict with ``embedding`` [B, output_dim]; what it says of itself is in
    :class:`distilplace.models.base.PlaceNetwork`.

    Args:
        name: one of :func:`list_models`.
        embedding_head: layers behind the embedding (:mod:`distilplace.models.head`), of every network but pose ones;
            where ``pretrained`` is a file of a whole network with a head, that one.
        settings: those of :func:`model_settings`; each has a default.

    Raises:
        UserError: unknown name or setting (the nearest valid one is offered), or values that do not fit together.

    """
    if settings.get("pretrained", "none") in STARTS:
        return _build(name, embedding_head, **settings)
    check_settings(f"model {name}", settings, model_settings(name))
    from distilplace.models.starting import start_from_file

    return start_from_file(name, functools.partial(_build, name), settings, tuple(embedding_head))


def _build(name: str, head: Sequence[str], **settings: Any) -> PlaceNetwork:
    network: PlaceNetwork = _MODELS.create(name, **settings)
    if head:
        network.add_embedding_head(head)
    return network
