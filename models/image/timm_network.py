"""Any network of timm as teacher or student, vision transformers (DINOv2 and others) as well as CNNs."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distilplace.common.errors import UserError, unknown_name
from distilplace.models.checkpoints import fit_state, read_state
from distilplace.models.image.base import HeadedNetwork, checked_images

LEVELS = 4  # maps taken of a network: its last stages, or as many depths of a network without stages

# Ways to have a network with a table of positions or windows take other sizes than its own; the first that it accepts.
_ANY_SIZE: tuple[dict[str, bool], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


class TimmNetwork(HeadedNetwork):
    """Images to place descriptors: a network of timm, a 1x1 convolution, a pooling head.

    State-dict keys: ``model.*`` (timm's names), ``conv1x1.*`` and the head's, as in
    :class:`distilplace.models.image.network.ImageNetwork`. Layers behind the last map (classifier, its norm) are not
    built.

    Args:
        network: a name of timm, with or without the tag of its weights ("vit_small_patch14_dinov2.lvd142m").
        output_dim: channels behind the 1x1 convolution; see :class:`distilplace.models.image.network.ImageNetwork`.
        pool: a head of :data:`distilplace.models.image.pooling.HEADS`; "mean" has no 1x1 convolution.
        pretrained: "none" (random), "imagenet" (timm's own weights for that name, whatever they were trained on;
            fetched unless they lie in the cache), or the path of a state dict under timm's names. Images keep this
            repository's ImageNet normalisation, also where timm's weights were trained with another.
        gem_p: exponent of the head GeMFC.

    ``level_maps``: ``layer1`` ... are the last four stages (all, where there are fewer). In a network whose blocks
    all have one resolution (ViT) they are the blocks at 1/4, 2/4, 3/4 and 4/4 of its depth, behind its final norm.

    Raises:
        UserError: unknown network, tag or pooling (with the nearest), weights that cannot be had or do not fit, timm
            not installed.

    """

    def __init__(
        self, network: str, output_dim: int = 384, pool: str = "GeM", pretrained: str = "none", gem_p: float = 3.0
    ) -> None:
        super().__init__(network, output_dim, pool, gem_p)
        self.model = _build(network, timms_weights=pretrained == "imagenet")
        strides = [stage["reduction"] for stage in self.model.feature_info]
        plain = len(strides) > LEVELS and len(set(strides)) == 1
        self.indices = _quarters(len(strides)) if plain else list(range(len(strides)))[-LEVELS:]
        self.patch = strides[0]
        self.final_norm = plain and hasattr(self.model, "norm")
        width = self.model.feature_info[-1]["num_chs"]
        unused = _prune(self.model, network, self.indices, self.final_norm)
        if pretrained not in ("none", "imagenet"):
            _load_file(self.model, network, pretrained, unused)
        self.add_head(width, (f"model.{key}" for key in unused))
        self.level_maps: tuple[str, ...] = tuple(f"layer{level}" for level in range(1, len(self.indices) + 1))

    def forward(self, batch: Mapping[str, Any], feature_maps: Sequence[str] = ()) -> dict[str, Any]:
        """Feature maps: those of ``level_maps``, ``map`` (the head's input).

        Zeros are added to the images at the bottom and at the right up to whole patches (the finest map's stride).

        Raises:
            UserError: the images are too small, or the network takes one size only and this is another.

        """
        maps = dict(zip(self.level_maps, self._levels(checked_images(batch)), strict=True))
        return self.described(maps, self.level_maps[-1], feature_maps)

    def _levels(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> the maps at ``indices``, [B, C, h, w] each."""
        height, width = images.shape[-2:]
        padded = functional.pad(images, (0, -width % self.patch, 0, -height % self.patch))
        try:
            return self._features(padded)
        except (AssertionError, RuntimeError) as error:
            own = tuple(self.model.pretrained_cfg["input_size"][-2:])
            if isinstance(error, torch.OutOfMemoryError) or (height, width) == own or not self._takes(images, own):
                raise
            raise UserError(
                f"timm network {self.network} cannot take images of {height} x {width} pixels: choose another network,"
                f" or images of its own size, {own[0]} x {own[1]} ({str(error).splitlines()[0]})"
            ) from error

    def _features(self, images: Tensor) -> list[Tensor]:
        return self.model.forward_intermediates(
            images, indices=self.indices, norm=self.final_norm, output_fmt="NCHW", intermediates_only=True
        )

    @torch.no_grad()
    def _takes(self, images: Tensor, size: tuple[int, int]) -> bool:
        """Whether images of that size would pass: then a failure was the size's fault."""
        try:
            self._features(images.new_zeros(1, 3, *size))
        except (AssertionError, RuntimeError):
            return False
        return True


def _quarters(depth: int) -> list[int]:
    """The last block of each quarter of ``depth`` blocks."""
    return [-(-level * depth // LEVELS) - 1 for level in range(1, LEVELS + 1)]


def _build(network: str, timms_weights: bool) -> Any:
    """``network`` without its classifier, made to take images of any size where timm knows how."""
    timm = _timm()
    _check_name(timm, network)
    for options in _ANY_SIZE:
        try:
            return timm.create_model(network, pretrained=timms_weights, num_classes=0, **options)
        except TypeError as error:
            if not any(option in str(error) for option in options):
                raise
        except Exception as error:  # the hub's own, requests', timm's and the decoders' are all possible
            if not timms_weights:
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"timm's weights of {network} could not be had ({reason}): start with --pretrained none, or give a"
                f" state dict under timm's names as --pretrained <file>"
            ) from error
    raise AssertionError("the last way has no option that a network could refuse")


def _prune(model: Any, network: str, indices: list[int], norm: bool) -> list[str]:
    """Take away what no map comes from; the keys that timm's own state dict of ``network`` has and ``model`` not."""
    model.prune_intermediate_layers(indices, prune_norm=not norm, prune_head=True)
    with torch.device("meta"):
        whole = _timm().create_model(network)
    kept = model.state_dict()
    return [key for key in whole.state_dict() if key not in kept]


def _load_file(model: nn.Module, network: str, pretrained: str, unused: Sequence[str]) -> None:
    """Fill ``model`` from a state dict under timm's names; every key of it must be there, ``unused`` ones may."""
    path = Path(pretrained)
    if not path.is_file():
        raise UserError(f"--pretrained {pretrained}: no such file; give imagenet, none or a {network} state dict")
    source = f"pretrained file {path} for {network}"
    target = model.state_dict()
    state = read_state(path, lambda state: not target.keys().isdisjoint(state))
    fitted, _ = fit_state(target, state, unused, source, prefix="model.")
    model.load_state_dict(fitted, strict=True)


def _check_name(timm: Any, network: str) -> None:
    """Refuse names that timm does not have, or weights' tags that the network does not have."""
    name, _, tag = network.partition(".")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(f"unknown timm network '{name}': {hint}timm.list_models() names all that are installed")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise unknown_name(f"weights of timm network {name}", tag, tags)


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError("networks of timm need the package timm: pip install timm") from error
    return timm
