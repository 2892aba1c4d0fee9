"""What learns: teachers and students by name, built when asked for.

The table holds names of classes, not classes, so that importing it loads no torchvision and no sparse engine.
"""

from distilplace.common.extras import require_training

require_training("distilplace.models")

import functools
import importlib
import inspect
from typing import Any, NamedTuple

from distilplace.common.errors import unknown_name
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


class _Entry(NamedTuple):
    """A row of the table: where the class lives ("module:Class") and the arguments that the name itself decides."""

    target: str
    fixed: dict[str, Any]


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

_MODELS: dict[str, _Entry] = {
    "minkloc": _Entry("distilplace.models.cloud.minkloc:MinkLoc", {}),
    "minkloconly": _Entry("distilplace.models.cloud.minkloc:MinkLocOnly", {}),
    "minklocmmcat": _Entry("distilplace.models.fused:MinkLocMultimodal", {"fusion": "cat"}),
    "minklocmmadd": _Entry("distilplace.models.fused:MinkLocMultimodal", {"fusion": "add"}),
    **{name: _Entry("distilplace.models.image.network:ImageNetwork", {"network": name}) for name in _IMAGE_NETWORKS},
    **{
        f"{name}_full": _Entry("distilplace.models.image.network:ImageNetwork", {"network": name, "useallstages": True})
        for name in _RESNETS
    },
    **{
        f"{name}netvlad": _Entry("distilplace.models.image.vlad:VLADNetwork", {"network": name})
        for name in _VLAD_NETWORKS
    },
    **{f"{name}pose": _Entry("distilplace.models.pose:PoseNetwork", {"network": name}) for name in _POSE_TRUNKS},
    **{
        f"{name}_{family}": _Entry(
            "distilplace.models.landmark.networks:RetrievalNetwork", {"family": family, "network": name}
        )
        for name, families in _LANDMARK_NETWORKS.items()
        for family in families
    },
    **{
        family: _Entry(
            "distilplace.models.landmark.networks:RetrievalNetwork", {"family": family, "network": "resnet50"}
        )
        for family in ("mocov3", "barlowtwins")
    },
    "apformer": _Entry("distilplace.models.image.pyramid_networks:APFormer", {}),
    "dsformer": _Entry("distilplace.models.image.pyramid_networks:DSFormer", {}),
    **{
        f"dinov2_vit{letter}14": _Entry(
            "distilplace.models.image.timm_network:TimmNetwork", {"network": f"vit_{size}_patch14_dinov2.lvd142m"}
        )
        for letter, size in _DINOV2.items()
    },
}


def list_models() -> list[str]:
    """The names that :func:`create_model` knows, in alphabetical order; "timm:<name>" gives any network of timm."""
    return sorted(_MODELS)


def model_class(name: str) -> type[PlaceNetwork]:
    """The class behind a model's name."""
    return _model_class(_entry(name))


def model_settings(name: str) -> tuple[str, ...]:
    """The settings that ``create_model(name, ...)`` accepts, in the order of the class's signature."""
    entry = _entry(name)
    return tuple(key for key in _parameters(_model_class(entry)) if key not in entry.fixed)


def model_requires(name: str) -> tuple[str, ...]:
    """The batch keys that the model reads: ``images``, ``coords``, ``features``."""
    return _model_class(_entry(name)).requires


def has_clusters(name: str) -> bool:
    """Whether the model starts from cluster centres of local descriptors (NetVLAD)."""
    return _model_class(_entry(name)).has_clusters


def keeps_its_width(name: str) -> bool:
    """Whether the model has a published width, which it keeps unless ``output_dim`` is given."""
    width = _parameters(_model_class(_entry(name))).get("output_dim")
    return width is not None and width.default is None


def create_model(name: str, **settings: Any) -> PlaceNetwork:
    """A new network with the public interface of this room.

    Every model takes a batch and returns a dict with ``embedding`` [B, output_dim]; what it says of itself is in
    :class:`distilplace.models.base.PlaceNetwork`.

    Args:
        name: one of :func:`list_models`.
        settings: those of :func:`model_settings`; each has a default.

    Raises:
        UserError: unknown name or setting (the nearest valid one is offered), or values that do not fit together.

    """
    entry = _entry(name)
    accepted = model_settings(name)
    for key in settings:
        if key not in accepted:
            raise unknown_name(f"setting of model {name}", key, accepted)
    build = functools.partial(_model_class(entry), **entry.fixed)
    if settings.get("pretrained", "none") in STARTS:
        return build(**settings)
    from distilplace.models.starting import start_from_file

    return start_from_file(name, build, settings)


def _entry(name: str) -> _Entry:
    if name.startswith(_TIMM):
        return _Entry("distilplace.models.image.timm_network:TimmNetwork", {"network": name.removeprefix(_TIMM)})
    if name not in _MODELS:
        raise unknown_name("model", name, list_models())
    return _MODELS[name]


def _parameters(model_class: type) -> dict[str, inspect.Parameter]:
    """The constructor's named parameters; where it passes ``**settings`` on, its parent's too."""
    found: dict[str, inspect.Parameter] = {}
    for level in model_class.__mro__:
        if "__init__" in vars(level):
            parameters = list(inspect.signature(vars(level)["__init__"]).parameters.values())[1:]
            found = {p.name: p for p in parameters if p.kind is not p.VAR_KEYWORD} | found
            if all(p.kind is not p.VAR_KEYWORD for p in parameters):
                break
    return found


def _model_class(entry: _Entry) -> type[PlaceNetwork]:
    module, _, attribute = entry.target.partition(":")
    found: type[PlaceNetwork] = getattr(importlib.import_module(module), attribute)
    return found
