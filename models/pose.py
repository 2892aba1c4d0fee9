"""PoseNet on a ResNet: the camera pose of one image (Kendall et al., ICCV 2015; as in SCKD's program, e-LENS/SCKD)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilplace.common.errors import UserError, unknown_name
from distilplace.common.outputs import with_maps
from distilplace.models.base import PlaceNetwork
from distilplace.models.image.backbones import build_trunk, trunk_width
from distilplace.models.image.base import check_map_names, checked_images
from distilplace.models.image.pretrained import load_pretrained

POSE_NETWORKS = ("resnet18", "resnet34", "resnet50", "resnet101")
HIDDEN_WIDTH = 1024
SHORTEST = 1e-12
"""Vectors at most this long have no direction."""


class PoseHead(nn.Module):
    """Pooled features [B, C] to position and unit quaternion; its state-dict keys are the published program's.

    Start: all biases 0, weights normal with deviation 0.01, of the position 0.5.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.cls_fc_pose = nn.Sequential(nn.Linear(width, HIDDEN_WIDTH), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.cls_fc_xy = nn.Linear(HIDDEN_WIDTH, 3)
        self.cls_fc_wpqr = nn.Linear(HIDDEN_WIDTH, 4)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.5 if layer is self.cls_fc_xy else 0.01)
                nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """[B, C] -> [B, 7]: x y z in metres, unit quaternion w p q r; never in half precision by autocast.

        Half precision would round a position 100 m from the origin to half a metre. A quaternion of length 0 has no
        direction: it stays 0, with a finite gradient.
        """
        with torch.autocast(pooled.device.type, enabled=False):
            hidden = self.dropout(self.cls_fc_pose(pooled.to(self.cls_fc_xy.weight.dtype)))
            quaternion = self.cls_fc_wpqr(hidden)
            lengths = torch.linalg.vector_norm(quaternion, dim=1, keepdim=True)
            unit = quaternion / torch.where(lengths > SHORTEST, lengths, 1)
            return torch.cat([self.cls_fc_xy(hidden), unit], dim=1)


class PoseNetwork(PlaceNetwork):
    """Images to camera poses: all of a torchvision ResNet, mean over locations, two fully connected layers.

    State-dict keys are those of the published networks: torchvision's without its classifier (``conv1.weight``,
    ``layer1.0...``), then ``fc.cls_fc_pose.0``, ``fc.cls_fc_xy`` and ``fc.cls_fc_wpqr``.

    Args:
        network: one of :data:`POSE_NETWORKS`.
        pretrained: how the trunk starts: "none" (random), "imagenet", or the path of a torchvision-keyed state dict.
        dropout: share of the 1024 hidden numbers that training drops, 0 or more and below 1.

    Raises:
        UserError: another network; a dropout out of range; weights that cannot be had or do not fit.

    """

    level_maps = ("layer1", "layer2", "layer3", "layer4")
    trunk_keys = ("", "")
    compares_embeddings = False

    def __init__(self, network: str, pretrained: str = "none", dropout: float = 0.5) -> None:
        super().__init__()
        if network not in POSE_NETWORKS:
            raise unknown_name("network of a pose network", network, POSE_NETWORKS)
        if not 0 <= dropout < 1:
            raise UserError(f"dropout of pose network {network} is {dropout}: give 0 or more and below 1")
        self.network = network
        self.output_dim = trunk_width(network, stages=4)
        trunk = build_trunk(network, stages=4)
        load_pretrained(trunk, network, 4, pretrained)
        for name, layer in trunk.named_children():
            self.add_module(name, layer)
        self.stages = tuple(name for name, _ in trunk.named_children())
        self.fc = PoseHead(self.output_dim, dropout)

    def forward(self, batch: Mapping[str, Any], feature_maps: Sequence[str] = ()) -> dict[str, Any]:
        """``embedding``, the pooled features, and ``pose`` [B, 7]: x y z in metres, unit quaternion w p q r.

        Images have the mean image subtracted. Feature maps, all behind a ReLU: ``stem`` [B, 64, H/2, W/2] (before the
        max pooling), ``layer1`` ... ``layer4``, ``pooled`` [B, output_dim].
        """
        known = ("stem", *self.level_maps, "pooled")
        check_map_names(f"{self.network}pose", feature_maps, known)
        maps: dict[str, Tensor] = {}
        features = checked_images(batch)
        for name in self.stages:
            features = self.get_submodule(name)(features)
            level = "stem" if name == "relu" else name
            if level in feature_maps:  # others need not stay in memory
                maps[level] = features
        pooled = maps["pooled"] = F.adaptive_avg_pool2d(features, 1).flatten(start_dim=1)
        return {"embedding": pooled, "pose": self.fc(pooled), **with_maps({name: maps[name] for name in feature_maps})}
